"""The goals, each a row of the table: what was asked, what was measured, met or how far off."""

from __future__ import annotations

from msgspec import Struct

from bench.rounds import Spread


class Row(Struct, frozen=True):
    """One measured figure against its goal."""

    name: str
    measured: Spread
    unit: str  # x for a ratio
    goal: float | None = None
    at_least: bool = True  # else at most
    note: str = ""

    @property
    def verdict(self) -> str:
        """`met`, or the distance."""
        if self.goal is None:
            return ""
        value, goal = self.measured.middle, self.goal
        if value >= goal if self.at_least else value <= goal:
            return "met"
        off = abs(value - goal) / goal * 100
        return f"missed by {off:.0f} %"

    @property
    def asked(self) -> str:
        """The goal in words."""
        if self.goal is None:
            return ""
        return f"{'>=' if self.at_least else '<='} {self.goal:g} {self.unit}"


class Unmeasured(Struct, frozen=True):
    """A row that this machine cannot measure, and why."""

    name: str
    why: str


Line = Row | Unmeasured


def at_least(name: str, measured: Spread, goal: float, unit: str = "x", note: str = "") -> Row:
    """A row whose median should reach the goal."""
    return Row(name, measured, unit, goal, at_least=True, note=note)


def at_most(name: str, measured: Spread, goal: float, unit: str = "x", note: str = "") -> Row:
    """A row whose median should stay below the goal."""
    return Row(name, measured, unit, goal, at_least=False, note=note)
