"""What a worker does next: a course whose moment has come, else a target not yet begun.

Waiting courses stand here, in a heap by their moment, and hold no worker. Begun targets stay few
until the gateway has shown that it works at all.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

import anyio

from worker.clock import Clock
from worker.run.case import Case
from worker.run.stop import Switch


class Course:
    """A case and the coroutine that moves it on."""

    __slots__ = ("case", "steps")

    def __init__(self, case: Case, steps: Coroutine[Any, Any, None]) -> None:
        self.case = case
        self.steps = steps


class Agenda:
    """Hands out work to the workers of one leg until there is none left, or the run stops."""

    def __init__(self, clock: Clock, switch: Switch, begin: Callable[[Case], Course]) -> None:
        self._clock = clock
        self._switch = switch
        self._begin = begin
        self._ready: deque[Case] = deque()
        self._waiting: list[tuple[float, int, Course]] = []
        self._order = count()
        self._idle: list[anyio.Event] = []  # of workers that wait, the last to come first out
        self._ample = 0  # so many ready targets need no more beside them
        self._wanted = anyio.Event()  # fewer than that are ready
        self._filled = False
        self.open_limit: int | None = None  # begun and unsettled targets at once; None: no limit
        self.open = 0  # begun, neither settled nor put off
        switch.on_throw(lambda _: self._stopped())

    @property
    def left(self) -> bool:
        """Whether anything has not begun yet."""
        return bool(self._ready) or not self._filled

    def add(self, cases: list[Case]) -> None:
        """More targets to begin."""
        self._ready.extend(cases)
        self._ample = len(self._ready) // 2
        self._wake(len(cases))

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

    def park(self, course: Course, moment: float) -> None:
        """Come back to the course at this monotonic moment."""
        heapq.heappush(self._waiting, (moment, next(self._order), course))
        if self._waiting[0][2] is course:
            self._wake(1)

    def closed(self) -> None:
        """A target that had begun is settled, or put off."""
        self.open -= 1
        if self.open == 0 and not self.left:
            self._wake()
        elif self.open_limit is not None:
            self._wake(1)

    def unlimited(self) -> None:
        """The gateway works: begin as many as there are workers."""
        if self.open_limit is not None:
            self.open_limit = None
            self._wake()

    async def next(self) -> Course | None:
        """The next course to move on; None when there is none left, or the run is stopping."""
        while self._switch.stop is None:
            if (course := self._take()) is not None:
                if self._waiting:
                    self._wake(1)  # somebody else must see to the next moment
                return course
            if self.open == 0 and not self.left:
                return None
            bell = anyio.Event()
            self._idle.append(bell)
            if not self._waiting:
                await bell.wait()
                continue
            with anyio.move_on_after(self._waiting[0][0] - self._clock.monotonic()):
                await bell.wait()
            if not bell.is_set():
                self._idle.remove(bell)
        return None

    def _take(self) -> Course | None:
        """What can be done now."""
        if self._waiting and self._waiting[0][0] <= self._clock.monotonic():
            return heapq.heappop(self._waiting)[2]
        if not self._ready or (self.open_limit is not None and self.open >= self.open_limit):
            return None
        self.open += 1
        case = self._ready.popleft()
        if len(self._ready) <= self._ample:
            self._wanted.set()
        return self._begin(case)

    def abandon(self) -> tuple[list[Course], list[Case]]:
        """What the run's end leaves: courses that were waiting, and targets not begun."""
        courses = [course for _, _, course in sorted(self._waiting, key=lambda entry: entry[:2])]
        cases = list(self._ready)
        self._waiting.clear()
        self._ready.clear()
        return courses, cases

    def _stopped(self) -> None:
        self._wanted.set()
        self._wake()

    def _wake(self, count: int | None = None) -> None:
        """Let so many idle workers look again; all of them without a count."""
        for _ in range(len(self._idle) if count is None else min(count, len(self._idle))):
            self._idle.pop().set()
