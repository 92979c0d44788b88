"""When a request may start: one gate for the whole run.

Every request to the connect service passes here: cancels, searches, look-ups, verification. The
gate keeps a global rate without bursts, a bound on what is in flight that shrinks when the
gateway suffers and grows back, and the pause that a Retry-After asks of everybody.
"""

from __future__ import annotations

from math import floor

import anyio

from worker.clock import Clock
from worker.run.stop import Switch

_CATCH_UP = 0.03  # seconds of lateness that a fast pace may make good
_CATCH_UP_FROM = 40.0  # requests per second from which it may


class Pace:
    """The gate: `enter` or `acquire` before a request, `release` after its reply."""

    def __init__(self, clock: Clock, switch: Switch, concurrency: int, rate: float | None) -> None:
        self._clock = clock
        self._switch = switch
        self._bound = concurrency
        self._window = float(concurrency)  # adaptive part of the bound
        self.window = concurrency  # how many requests may be in flight at the moment
        self._epoch = 0  # how often the window was halved
        self._began = False  # before the first request there is no lateness to make good
        self._turn = anyio.Lock(fast_acquire=True)  # one waits at the gate, others behind
        self._waiting = 0  # how many do either
        self._freed: anyio.Event | None = None  # of who waits for a place
        self._next = clock.monotonic()
        self._paused_until = self._next
        self.in_flight = 0
        self.set_rate(rate)
        switch.on_throw(lambda _: self._free())

    def set_rate(self, rate: float | None) -> None:
        """Requests per second; None is as fast as they can be answered.

        Whatever second is looked at, it holds at most 1.1 x rate requests, and at least 5 % of a
        second is left for the jitter of the way.
        """
        if rate is None:
            self._interval, self._slack = 0.0, 0.0
            return
        self._interval = max(1.0 / rate, 1.05 / max(1, floor(1.1 * rate)) if rate >= 1 else 0.0)
        self._slack = _CATCH_UP if rate >= _CATCH_UP_FROM else 0.0

    @property
    def paused_until(self) -> float:
        """The monotonic moment before which nothing starts."""
        return self._paused_until

    def enter(self, now: float, *, waited: bool = False) -> int | None:
        """The ticket of a place that is free now (monotonic); None: it has to be waited for.

        Who has not waited stands behind those who do.
        """
        if self._switch.stop is not None or self.in_flight >= self.window:
            return None
        if now < self._next or now < self._paused_until or (self._waiting and not waited):
            return None
        late = now - self._slack if self._began else now
        self._began = True
        self._next = max(late, self._next) + self._interval
        self.in_flight += 1
        return self._epoch

    async def acquire(self) -> int | None:
        """Wait for a place; its ticket for `release`, or None when the run is stopping."""
        self._waiting += 1
        try:
            async with self._turn:
                while self._switch.stop is None:
                    now = self._clock.monotonic()
                    if (ticket := self.enter(now, waited=True)) is not None:
                        return ticket
                    if self.in_flight >= self.window:
                        self._freed = anyio.Event()
                        await self._freed.wait()
                    else:
                        await self._switch.sleep(self._opens - now)
        finally:
            self._waiting -= 1
        return None

    @property
    def _opens(self) -> float:
        """The monotonic moment from which rate and pauses let the next request through."""
        return max(self._next, self._paused_until)

    def release(self, ticket: int, *, congested: bool) -> None:
        """Give the place back; congested: the gateway answered 429 or 503, or not in time."""
        self.in_flight -= 1
        if congested and ticket == self._epoch:
            self._adapt(max(1.0, self._window / 2))
            self._epoch += 1  # what started before tells nothing new
        elif not congested and self._window < self._bound:
            self._adapt(min(float(self._bound), self._window + 1.0 / self._window))
        if self._freed is not None:
            self._free()

    def _free(self) -> None:
        if self._freed is not None:
            self._freed.set()
            self._freed = None

    def _adapt(self, window: float) -> None:
        self._window = window
        self.window = int(window)

    def pause(self, seconds: float) -> None:
        """Nothing starts for so long; the longer of two pauses holds."""
        self._paused_until = max(self._paused_until, self._clock.monotonic() + seconds)
