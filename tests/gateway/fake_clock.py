"""A clock that stands still until a test moves it."""

from __future__ import annotations


class FakeClock:
    """Monotonic and wall time in milliseconds; sleeping passes the time at once."""

    def __init__(self, wall: int = 1_700_000_000_000, mono: int = 10_000) -> None:
        self.wall = wall
        self.mono = mono
        self.slept: list[float] = []

    def pass_ms(self, ms: int) -> None:
        """Both clocks move on."""
        self.wall += ms
        self.mono += ms

    def monotonic(self) -> float:
        return self.mono / 1000

    def wall_ms(self) -> int:
        return self.wall

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.pass_ms(round(seconds * 1000))

    def chance(self) -> float:
        return 0.5

    def new_run_id(self) -> str:
        return "20231114T221320Z-aaaaaa"
