"""A clock that a test owns: the loop's virtual time, a seeded chance, a wall that can be moved."""

from __future__ import annotations

import asyncio
import random

import anyio

WALL_MS = 1_795_000_000_000  # 2026-11-18T13:46:40Z


class VirtualClock:
    """`worker.clock.Clock` on a virtual loop."""

    def __init__(self, seed: int = 0, wall_ms: int = WALL_MS) -> None:
        self._chance = random.Random(seed)
        self._wall_ms = wall_ms
        self._ids = 0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        return self._wall_ms + round(self.monotonic() * 1000)

    def jump(self, ms: int) -> None:
        """Somebody sets the wall clock."""
        self._wall_ms += ms

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    def chance(self) -> float:
        return self._chance.random()

    def new_run_id(self) -> str:
        self._ids += 1
        return f"20261118T134640Z-{self._ids:06d}"
