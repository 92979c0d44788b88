"""The gateway's own check of a signed call: a second opinion, from the protocol's text alone.

Signature = lower-case hex SHA-256 of: token, every decoded query name and value with the names
sorted by code point, the exact body, the timestamp and the secret key, joined without
separators. The token service's encryption is SHA-256 of access key, timestamp and secret key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from urllib.parse import parse_qsl

from worker.clock import Clock
from worker.simulator.roster import Roster

TOLERANCE_MS = 300_000  # how far a timestamp may be from the gateway's clock (inferred)

Pairs = Sequence[tuple[str, str]]


def read_query(raw: str) -> list[tuple[str, str]]:
    """The parameters of a raw query, decoded (`+` is a space); ValueError if it is not UTF-8."""
    return parse_qsl(raw, keep_blank_values=True, encoding="utf-8", errors="strict")


def expected_signature(token: str, pairs: Pairs, body: bytes, timestamp: str, secret: str) -> str:
    digest = hashlib.sha256(token.encode())
    for name, value in sorted(pairs, key=lambda pair: pair[0]):
        digest.update(name.encode())
        digest.update(value.encode())
    digest.update(body)
    digest.update(timestamp.encode())
    digest.update(secret.encode())
    return digest.hexdigest()


def expected_encryption(access_key: str, timestamp: str, secret: str) -> str:
    return hashlib.sha256(f"{access_key}{timestamp}{secret}".encode()).hexdigest()


def same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


class Replays:
    """The signatures of the last 10 to 20 minutes: what is older, its timestamp refuses."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._turned = clock.monotonic()
        self._recent, self._older = Roster(), Roster()

    def first_time(self, signature: str) -> bool:
        """Whether this valid signature was not seen before; it is from now on."""
        now = self._clock.monotonic()
        if now - self._turned > 2 * TOLERANCE_MS / 1000:
            self._turned, self._recent, self._older = now, Roster(), self._recent
        key = int(signature[:16], 16) or 1
        return key not in self._older and self._recent.add(key)
