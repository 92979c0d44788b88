"""How far the gateway's clock is from ours, as Date headers tell it.

A Date says which second it was when the reply was written: after the request went out and before
the reply was there. Many replies narrow that down. Within a second only the first to arrive and
the last to go out tell anything new, so that most replies cost a comparison.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from worker.clock import Clock
from worker.gateway.headers import imf_date_ms

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
        self._drift = self._clock.wall_ms() - received_ms

    @property
    def bounds(self) -> SkewBounds | None:
        """All that is known; None before the first Date."""
        self._take_in()
        return self._known

    def earliest_ms(self) -> int:
        """The earliest that the gateway's clock can read now, Unix ms."""
        if (bounds := self.bounds) is None:
            return 0  # the local clock may be years ahead
        return int(self._clock.monotonic() * 1000 + bounds.low)

    def gateway_ms(self) -> int:
        """The latest that it can read now, Unix ms."""
        if (bounds := self.bounds) is None:
            return self._clock.wall_ms()
        now_ms = self._clock.monotonic() * 1000
        # The monotonic clock stands still while the machine sleeps, the gateway's does not.
        slept = max(0.0, self._clock.wall_ms() - now_ms - self._drift)
        return int(now_ms + bounds.high + slept) + 1

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
