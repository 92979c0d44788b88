"""How fast targets settle: the measure of how many may be claimed ahead.

An estimate is enough: one that is too low only makes claims smaller, and half a new value at a
time keeps a burst from widening the doubt.
"""

from __future__ import annotations

from worker.clock import Clock

WINDOW = 0.2  # seconds: shorter ones would take the size of a group for a rate


class SettleRate:
    """Targets settled in a second, smoothed over windows of WINDOW."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock.monotonic()
        self._count = 0
        self.per_second = 0.0

    def settled(self, count: int) -> None:
        """So many targets were settled just now."""
        self._count += count
        elapsed = self._clock.monotonic() - self._since
        if elapsed >= WINDOW:
            self.per_second += (self._count / elapsed - self.per_second) / 2
            self._since += elapsed
            self._count = 0
