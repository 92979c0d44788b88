"""Time, chance and new ids: the only module that takes them from the system.

They come to every other part through its constructor, so that a test can own them.
"""

from __future__ import annotations

import random
import secrets
import time
from datetime import UTC, datetime
from typing import Protocol

import anyio

_ID_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # none that read alike


class Clock(Protocol):
    """What a part may ask of time and chance."""

    def monotonic(self) -> float:
        """Seconds that only move forward; the zero is anywhere."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds; may jump."""

    async def sleep(self, seconds: float) -> None:
        """Wait so long."""

    def chance(self) -> float:
        """A number in [0, 1)."""

    def new_run_id(self) -> str:
        """A fresh run id such as `20261122T020500Z-k3f9ab`; ids sort by time."""


class SystemClock:
    """The machine's own time and chance."""

    monotonic = staticmethod(time.monotonic)  # asked often: no call of our own around it

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    def chance(self) -> float:
        return random.random()

    def new_run_id(self) -> str:
        stamp = datetime.fromtimestamp(self.wall_ms() / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
        return f"{stamp}-{''.join(secrets.choice(_ID_LETTERS) for _ in range(6))}"


def rfc3339(ms: int) -> str:
    """Unix milliseconds as RFC 3339 in UTC with milliseconds: `2026-11-22T02:05:00.123Z`."""
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"
