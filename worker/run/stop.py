"""How a run ends early: one switch that everything asks, and who throws it.

The first reason wins. After it no request of any kind starts; what is in flight gets the drain.
The deadline and `--until` are watched here; the rules that judge outcomes are in `safety`.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from worker.clock import Clock, rfc3339
from worker.model import Stop

_LOOK_EVERY = 1.0  # seconds between looks at the wall clock, which may jump


class Switch:
    """The run's one stop; thrown once."""

    def __init__(self) -> None:
        self._thrown = anyio.Event()
        self._listeners: list[Callable[[Stop], None]] = []
        self.stop: Stop | None = None

    def throw(self, stop: Stop) -> None:
        """End the run for this reason, unless it is ending already."""
        if self.stop is None:
            self.stop = stop
            self._thrown.set()
            for listener in self._listeners:
                listener(stop)

    def on_throw(self, listener: Callable[[Stop], None]) -> None:
        """Tell listener the moment the switch is thrown; a plain call."""
        self._listeners.append(listener)

    async def sleep(self, seconds: float) -> bool:
        """Wait so long; False as soon as the run is stopping."""
        if self.stop is None and seconds > 0:
            with anyio.move_on_after(seconds):
                await self._thrown.wait()
        return self.stop is None

    async def thrown(self) -> Stop:
        """Wait for the stop."""
        await self._thrown.wait()
        assert self.stop is not None  # noqa: S101 - set before the event
        return self.stop


class Bounds:
    """The moments after which nothing may start."""

    def __init__(
        self, clock: Clock, *, deadline: float | None = None, until_ms: int | None = None
    ) -> None:
        self._clock = clock
        self.deadline = deadline  # monotonic seconds
        self.until_ms = until_ms  # wall clock, Unix ms

    def passed(self, ahead: float = 0.0) -> Stop | None:
        """The bound that is passed now, or will be in `ahead` seconds."""
        if self.deadline is not None and self._clock.monotonic() + ahead >= self.deadline:
            return Stop("deadline", "the job's deadline passed before its list was done")
        if self.until_ms is not None and self._clock.wall_ms() + ahead * 1000 >= self.until_ms:
            return Stop("window", f"--until {rfc3339(self.until_ms)} came before the list was done")
        return None

    async def watch(self, switch: Switch) -> None:
        """Throw the switch when a bound passes; ends when the run stops for another reason."""
        if self.deadline is None and self.until_ms is None:
            return
        wait = 0.0
        while await switch.sleep(wait):
            if stop := self.passed():
                switch.throw(stop)
                return
            wait = self._next_look()

    def _next_look(self) -> float:
        if self.until_ms is None and self.deadline is not None:
            return max(0.0, self.deadline - self._clock.monotonic())
        return _LOOK_EVERY
