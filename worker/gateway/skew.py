"""How far the gateway's clock is from ours, as Date headers tell it, and whether to trust it.

A Date says which second it was when the reply was written: after the request went out and before
the reply was there. Many replies narrow that down. Within a second only the first to arrive and
the last to go out tell anything new, so that most replies cost a comparison.

Date, createTime and the local clock may be three clocks. The greatest difference seen between
them is kept: no age of a command is believed beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import ceil
from typing import Final

from msgspec import Struct

from worker.clock import Clock
from worker.gateway.headers import imf_date_ms
from worker.model import AGREE_MS, MOST_APART_MS, Command, Moment

_WORTH_SAYING: Final = 5_000  # ms of skew
_SECOND: Final = 1_000  # ms


class SkewBounds(Struct, frozen=True):
    """Between what the gateway's clock is ahead of the local monotonic clock."""

    low: float  # ms
    high: float  # ms


class Skew:
    """What Date headers told so far."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: SkewBounds | None = None
        self._drift = 0.0  # ms, wall clock minus monotonic clock at the last new Date
        self._date: str | None = None  # the last one that was seen
        self._at: int | None = None  # Unix ms, what it says
        self._sent = 0.0  # monotonic, the latest request with this Date
        self._told = 0.0  # of these, the latest that `_known` took in
        self.apart_ms = AGREE_MS  # the greatest difference seen, whole seconds, 2 s to 26 h
        self.on_apart: Callable[[int], None] | None = None  # hears of a greater one, ms

    def note(self, date: str | None, sent: float) -> None:
        """A reply carries this Date, its request went out at this moment (monotonic)."""
        if date == self._date:
            self._sent = max(self._sent, sent)
            return
        at = imf_date_ms(date)
        if at is None:
            return
        self._take_in()
        self._date, self._at, self._sent, self._told = date, at, sent, sent
        received_ms = self._clock.monotonic() * 1000
        self._narrow(at - received_ms, at + _SECOND - sent * 1000)
        wall_ms = self._clock.wall_ms()
        self._drift = wall_ms - received_ms
        asked_ms = wall_ms - (received_ms - sent * 1000)
        self._saw_apart(max(at - wall_ms, asked_ms - at - _SECOND))

    def note_created(self, commands: Iterable[Command], date: str | None) -> None:
        """A reply with this Date shows these commands."""
        at = imf_date_ms(date)
        now_ms = self.moment(self._clock.monotonic()).latest_ms if at is None else at
        for command in commands:
            if command.created_ms is not None and command.created_ms > now_ms + AGREE_MS:
                self._saw_apart(command.created_ms - now_ms)

    def known_apart(self, apart_ms: int) -> None:
        """An earlier process of the run saw the clocks differ by so much."""
        self.apart_ms = max(self.apart_ms, apart_ms)

    def moment(self, at: float) -> Moment:
        """What the gateway's clock read at a monotonic moment, now or past."""
        if (bounds := self.bounds) is None:  # the local clock may be years ahead
            age_ms = int((self._clock.monotonic() - at) * 1000)
            return Moment(0, self._clock.wall_ms() - age_ms, self.apart_ms)
        # The monotonic clock stands still while the machine sleeps, the gateway's does not.
        now_ms = self._clock.monotonic() * 1000
        slept = max(0.0, self._clock.wall_ms() - now_ms - self._drift)
        at_ms = at * 1000
        return Moment(int(at_ms + bounds.low), int(at_ms + bounds.high + slept) + 1, self.apart_ms)

    @property
    def bounds(self) -> SkewBounds | None:
        """All that is known; None before the first Date."""
        self._take_in()
        return self._known

    def in_words(self) -> str | None:
        """The skew against this machine's wall clock, when it is worth a word."""
        if (bounds := self.bounds) is None:
            return None
        local = self._clock.wall_ms() - self._clock.monotonic() * 1000
        ahead = (bounds.low + bounds.high) / 2 - local
        if abs(ahead) < _WORTH_SAYING:
            return None
        way = "ahead of" if ahead > 0 else "behind"
        return f"the gateway's clock is {abs(ahead) / 1000:.0f} s {way} this machine"

    def _saw_apart(self, by_ms: float) -> None:
        """Two of the clocks differ by so much, at least."""
        if by_ms <= self.apart_ms:
            return
        self.apart_ms = min(ceil(by_ms / _SECOND) * _SECOND, MOST_APART_MS)
        if self.on_apart is not None:
            self.on_apart(self.apart_ms)

    def _take_in(self) -> None:
        """What the last requests with the last Date tell."""
        if self._at is not None and self._sent > self._told:
            self._told = self._sent
            low = self._at - self._clock.monotonic() * 1000  # no news: the first reply told more
            self._narrow(low, self._at + _SECOND - self._sent * 1000)

    def _narrow(self, low: float, high: float) -> None:
        old = self._known
        if old is not None and max(old.low, low) <= min(old.high, high):
            low, high = max(old.low, low), min(old.high, high)
        # Else one of the clocks was set: what was known before is no longer true.
        if old is None or low != old.low or high != old.high:
            self._known = SkewBounds(low, high)
