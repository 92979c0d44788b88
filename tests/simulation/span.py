"""The time of a world: one true time, and the clocks that worker and gateway read.

True time goes on over crashes and while the machine sleeps; a monotonic clock starts anew with
each process and stands still in a sleep; the wall clock can be set.
"""

from __future__ import annotations

from random import Random

import anyio

from tests.simulation.clock import WALL_MS
from tests.simulation.seeded import SeededLoop


class Span:
    """True time, in seconds from the world's beginning."""

    def __init__(self) -> None:
        self.loop: SeededLoop | None = None
        self.at = 0.0  # of the loop, between two of them
        self.slept = 0.0  # seconds that the loop did not see
        self.shift_ms = 0  # of the wall clock

    def now(self) -> float:
        return (self.loop.now if self.loop else self.at) + self.slept

    def wall_ms(self) -> int:
        return WALL_MS + self.shift_ms + int(self.now() * 1000)


class WorldClock:
    """`worker.clock.Clock` of one process."""

    def __init__(self, span: Span, loop: SeededLoop, chance: Random, zero: float) -> None:
        self._span = span
        self._loop = loop
        self._chance = chance
        self.zero = zero  # what the monotonic clock read at the loop's moment 0
        self._ids = 0

    def monotonic(self) -> float:
        return self._loop.now + self.zero

    def wall_ms(self) -> int:
        return self._span.wall_ms()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    def chance(self) -> float:
        return self._chance.random()

    def new_run_id(self) -> str:
        self._ids += 1
        return f"20261118T134640Z-{self._ids:06d}"
