"""What is done next: a course whose moment has come, else a target not yet begun.

As many places as the run may have requests in flight: a target takes one while it is moved on, by
a launched call or by a worker, and none while it waits. Waiting courses stand here, in a heap by
their moment. Begun targets stay few until the gateway has shown that it works at all.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

import anyio

from worker.clock import Clock
from worker.ledger.entry import ClaimedTarget
from worker.run.case import Case
from worker.run.stop import Switch


class Course:
    """A case and the coroutine that moves it on."""

    __slots__ = ("case", "steps")

    def __init__(self, case: Case, steps: Coroutine[Any, Any, None]) -> None:
        self.case = case
        self.steps = steps


class Agenda:
    """Deals out the targets of one leg until there is none left, or the run stops."""

    def __init__(
        self, clock: Clock, switch: Switch, places: int, begin: Callable[[ClaimedTarget], None]
    ) -> None:
        """`begin` takes a target on: it launches its call, or hands over its course."""
        self._clock = clock
        self._switch = switch
        self._places = places
        self._begin = begin
        self._ready: deque[ClaimedTarget] = deque()
        self._handed: deque[Course] = deque()  # to be moved on now; each has its place
        self._waiting: list[tuple[float, int, Course]] = []
        self._order = count()
        self._idle: list[anyio.Event] = []  # of workers that wait, the last to come first out
        self._ample = 0  # so many ready targets need no more beside them
        self._wanted = anyio.Event()  # fewer than that are ready
        self._filled = False
        self._busy = 0  # places taken
        self._shut = False
        self.open_limit: int | None = None  # begun and unsettled targets at once; None: no limit
        self.open = 0  # begun, neither settled nor put off
        switch.on_throw(lambda _: self._stopped())

    @property
    def left(self) -> bool:
        """Whether anything has not begun yet."""
        return bool(self._ready) or not self._filled

    def add(self, targets: list[ClaimedTarget]) -> None:
        """More targets to begin."""
        self._ready.extend(targets)
        self._ample = len(self._ready) // 2
        self.deal()

    async def low(self) -> bool:
        """Wait until half of what was added last has begun; False when the run is stopping."""
        while self._switch.stop is None and len(self._ready) > self._ample:
            self._wanted = anyio.Event()
            await self._wanted.wait()
        return self._switch.stop is None

    def filled(self) -> None:
        """No more targets will be added."""
        self._filled = True
        self._wake()

    def deal(self) -> None:
        """Begin what may begin; to be called whenever a place or a limit became free."""
        while self._ready and self._may_begin():
            claimed = self._ready.popleft()
            if len(self._ready) == self._ample:
                self._wanted.set()
            self.open += 1
            self._busy += 1
            self._begin(claimed)
        if self._waiting and self._busy < self._places:
            self._wake(1)  # somebody must see to the next moment

    def hand(self, course: Course) -> None:
        """Let a worker move the course on now, in the place that its target has."""
        if self._shut:
            course.steps.close()
            return
        self._handed.append(course)
        self._wake(1)

    def park(self, course: Course, moment: float) -> None:
        """Come back to the course at this monotonic moment."""
        self._busy -= 1
        heapq.heappush(self._waiting, (moment, next(self._order), course))
        if self._waiting[0][2] is course:
            self._wake(1)

    def closed(self) -> None:
        """A target that had a place is settled, or put off; `deal` gives the place on."""
        self.open -= 1
        self._busy -= 1
        if self.open == 0 and not self.left:
            self._wake()

    async def next(self) -> Course | None:
        """The next course to move on; None when there is none left, or the run is stopping."""
        while self._switch.stop is None:
            if (course := self._take()) is not None:
                self.deal()
                return course
            if self.open == 0 and not self.left:
                return None
            bell = anyio.Event()
            self._idle.append(bell)
            if not self._waiting or self._busy >= self._places:
                await bell.wait()
                continue
            with anyio.move_on_after(self._waiting[0][0] - self._clock.monotonic()):
                await bell.wait()
            if not bell.is_set():
                self._idle.remove(bell)
        return None

    def abandon(self) -> tuple[list[Course], list[ClaimedTarget]]:
        """What the run's end leaves: courses that were waiting, and targets not begun."""
        waited = sorted(self._waiting, key=lambda entry: entry[:2])
        courses = [*self._handed, *(course for _, _, course in waited)]
        targets = list(self._ready)
        self.open += len(targets)
        self._busy += len(waited) + len(targets)
        for emptied in (self._handed, self._waiting, self._ready):
            emptied.clear()
        return courses, targets

    def shut(self) -> None:
        """Nobody moves anything on any more: nothing begins, and no course is kept."""
        self._shut = True
        self._ready.clear()
        while self._handed:
            self._handed.pop().steps.close()

    def _may_begin(self) -> bool:
        if self._busy >= self._places or self._switch.stop is not None:
            return False
        if self.open_limit is not None and self.open >= self.open_limit:
            return False
        return not (self._waiting and self._is_due())

    def _is_due(self) -> bool:
        return bool(self._waiting) and self._waiting[0][0] <= self._clock.monotonic()

    def _take(self) -> Course | None:
        """What can be moved on now."""
        if self._handed:
            return self._handed.popleft()
        if self._busy < self._places and self._is_due():
            self._busy += 1
            return heapq.heappop(self._waiting)[2]
        return None

    def _stopped(self) -> None:
        self._wanted.set()
        self._wake()

    def _wake(self, count: int | None = None) -> None:
        """Let so many idle workers look again; all of them without a count."""
        for _ in range(len(self._idle) if count is None else min(count, len(self._idle))):
            self._idle.pop().set()
