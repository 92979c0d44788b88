"""What a gateway asked of one process and the next one must keep to (row 107).

A Retry-After is known to the ledger soon after it was heard, and to whatever process comes next:
it sends nothing before, not even for a token, and waits no longer than `retry_after_max`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from tests.simulation.process import Start
    from tests.simulation.truth import Exchange
    from tests.simulation.world import World

_DURABLE = 2.0  # s after which what was heard must have survived a crash, on the slowest disk
_BEGINS = 5.0  # s that a process may take to its first request when nothing keeps it
EPS_MS = 2


class _Due(Struct, frozen=True):
    """When the first request of a process may begin, wall clock in ms."""

    began: float
    earliest: float
    latest: float


class Rests:
    """Every pause that a gateway asked for, by ledger."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._heard: dict[int, list[tuple[float, float]]] = defaultdict(list)  # at (s), until (ms)
        self._unsure: dict[int, float] = defaultdict(float)  # heard just before a crash
        self._due: dict[int, _Due] = {}  # by start, until its first request

    def heard(self, start: Start, seconds: float) -> None:
        span = self._world.span
        self._heard[start.worker].append((span.now(), span.wall_ms() + seconds * 1000))

    def crashed(self, worker: int) -> None:
        """What was heard just now may be lost."""
        now = self._world.span.now()
        lost = [each for each in self._heard[worker] if each[0] > now - _DURABLE]
        self._heard[worker] = [each for each in self._heard[worker] if each not in lost]
        self._unsure[worker] = max([self._unsure[worker], *(until for _, until in lost)])

    def process_begins(self, start: Start) -> None:
        setup = self._world.setup
        if setup.jumps or setup.clock_set or setup.sleeps or setup.fail_at is not None:
            return  # the clock, or the record, cannot be relied on
        now = self._world.span.wall_ms()
        most = now + setup.retry.retry_after_max * 1000
        sure = max((until for _, until in self._heard[start.worker]), default=0.0)
        latest = min(max(sure, self._unsure[start.worker], now), most)
        takes = start.late + _BEGINS
        self._due[start.number] = _Due(now, min(sure, most), latest + takes * 1000)

    def begins(self, start: Start, exchange: Exchange) -> None:
        """The first request of a process: what was kept is over then, and forgotten."""
        due = self._due.pop(start.number, None)
        if due is None:
            return
        now = self._world.span.wall_ms()
        if now < due.earliest - EPS_MS:
            wrong = f"request {exchange.number} begins before an earlier process's Retry-After"
            self._world.wrong(10, wrong)
        # Over the real client what never finds a way is not seen here.
        if self._world.transport == "fake" and now > due.latest + EPS_MS:
            self._world.wrong(10, f"start {start.number} waits longer than it has to")
        self._world.witness.rows[107] += due.earliest > due.began
        self._heard[start.worker].clear()
        self._unsure[start.worker] = 0.0
