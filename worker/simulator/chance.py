"""Chance without a source: every draw is a hash of a seed and of what it is drawn for.

So a draw depends on what is asked, never on when or in which order, and nothing needs to be
kept for a device that was never met. Not for secrets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_WORDS = 8  # draws out of one digest


def key64(*parts: str | int) -> int:
    """64 bits that name the parts; never 0. Two of a million names meet with p = 3e-8."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") or 1


class Dice:
    """A sequence of draws that is always the same for the same parts."""

    def __init__(self, *parts: str | int) -> None:
        self._text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
        self._round = 0
        self._words: list[int] = []

    def share(self) -> float:
        """A number in [0, 1)."""
        return (self._word() >> 11) / (1 << 53)

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + self._word() % (high - low + 1)

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self._word() % len(choices)]

    def _word(self) -> int:
        if not self._words:
            salt = self._round.to_bytes(8, "big")
            digest = hashlib.blake2b(self._text, digest_size=64, salt=salt).digest()
            self._words = [int.from_bytes(digest[8 * i : 8 * i + 8], "big") for i in range(_WORDS)]
            self._round += 1
        return self._words.pop()
