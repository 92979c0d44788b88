"""Moves a frozen list through its courses: legs of targets, a crew of workers, one record.

A leg is what is claimed and worked off in one go: the list itself, what a crash left in doubt,
what an earlier leg put off. The crew never grows; targets that wait stand in the agenda.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import anyio

from worker.clock import Clock
from worker.errors import LedgerError
from worker.ledger.entry import ClaimedTarget
from worker.model import CancelAll, CancelOne, Listed, Stop
from worker.run.agenda import Agenda, Course
from worker.run.case import Call, Case
from worker.run.course import drive
from worker.run.executor import Executor
from worker.run.outcome import as_it_stands, verdict
from worker.run.record import Observer, Recorder
from worker.run.safety import Safety
from worker.run.stop import Switch
from worker.run.wire import Halted

_FEW = 20  # targets in the open until the gateway has shown that it works

#: Batches of claimed targets, each durable before it is handed out.
Claims = AsyncIterator[list[ClaimedTarget]]


class Doubts(Protocol):
    """Whether an earlier run left a device in doubt, and since when (gateway's clock, ms)."""

    def __call__(self, claimed: ClaimedTarget) -> tuple[int, int] | None: ...


class Runner:
    """Works legs off; one for a run."""

    def __init__(
        self,
        executor: Executor,
        recorder: Recorder,
        safety: Safety,
        switch: Switch,
        clock: Clock,
        observer: Observer,
        doubts: Doubts,
        concurrency: int,
    ) -> None:
        self._executor = executor
        self._recorder = recorder
        self._safety = safety
        self._switch = switch
        self._clock = clock
        self._observer = observer
        self._doubts = doubts
        self._concurrency = concurrency
        self._agenda = Agenda(clock, switch, self._begin)
        self._may_put_off = False
        self.put_off: list[int] = []  # ordinals, in the leg at hand
        self.internal_errors = 0

    async def work_off(self, claims: Claims, *, may_put_off: bool) -> None:
        """One leg: all targets of the claims, until each is settled or put off, or the run stops.

        Raises nothing of its own: what ends the run early is on the switch.
        """
        self.put_off.clear()
        self._may_put_off = may_put_off
        self._agenda = Agenda(self._clock, self._switch, self._begin)
        if not self._safety.succeeded:
            self._agenda.open_limit = max(_FEW, self._concurrency)
        async with anyio.create_task_group() as feed:
            feed.start_soon(self._feed, claims)
            async with anyio.create_task_group() as crew:
                for _ in range(self._concurrency):
                    crew.start_soon(self._labour)
            feed.cancel_scope.cancel()  # after a stop a claim may wait for ever
        self._abandon()

    async def _feed(self, claims: Claims) -> None:
        """Keep claimed targets ready; the writer bounds how many there may be."""
        try:
            async for batch in claims:
                self._agenda.add([self._open(claimed) for claimed in batch])
                if not await self._agenda.low():
                    break
        except LedgerError as failure:
            self._lost(failure)
        self._agenda.filled()

    def _open(self, claimed: ClaimedTarget) -> Case:
        """A case with what the ledger knows of its target."""
        target = claimed.target
        case = Case(target, claimed.pass_no, self._clock.monotonic())
        for result in claimed.commands:
            if result.result == "cancelled":  # what else became of a command proves nothing now
                case.recorded[result.command.commandId] = result
        since = self._doubts(claimed)
        if since is not None:
            for call in _doubtful(case):
                call.doubt(*since, until=self._clock.monotonic())
                case.calls.append(call)
        return case

    def _begin(self, case: Case) -> Course:
        return Course(case, self._executor.course(case))

    async def _labour(self) -> None:
        while (course := await self._agenda.next()) is not None:
            await self._move_on(course)

    async def _move_on(self, course: Course) -> None:
        """Drive a course until it waits, ends, or is stopped."""
        case = course.case
        try:
            moment = await drive(course.steps)
        except Halted:
            self._cut_short(case)
        except LedgerError as failure:
            self._lost(failure)
            self._cut_short(case)
        except Exception as bug:  # noqa: BLE001 - one target's bug must not take the others along
            self._broke(case, bug)
        else:
            if moment is None:
                self._close(case)
            else:
                self._agenda.park(course, moment)
                self._count(more=moment <= self._clock.monotonic())

    def _close(self, case: Case) -> None:
        """All of a case's calls are done."""
        self._agenda.closed()
        left = self._agenda.left
        outcome = verdict(case, self._clock.monotonic())
        if self._may_put_off and case.may_be_put_off:
            self.put_off.append(case.target.ordinal)
            self._recorder.put_off(case, outcome.cause or "failed")
            stop = self._safety.put_off(outcome, left=left)
        else:
            self._recorder.settle(case, outcome)
            stop = self._safety.settled(outcome, left=left)
            if self._safety.succeeded:
                self._agenda.unlimited()
        if stop is not None:
            self._switch.throw(stop)
        self._count()

    def _count(self, *, more: bool = False) -> None:
        """more: the target at hand has another call to send."""
        if not self._safety.limited:
            return
        left = more or self._agenda.left
        stop = self._safety.recorded(self._recorder.commands, left=left)
        if stop is not None:
            self._switch.throw(stop)

    def _cut_short(self, case: Case) -> None:
        """The run stopped before the case was done: what may have been executed is unknown."""
        cause = self._switch.stop.rule if self._switch.stop else "aborted"
        outcome = as_it_stands(case, self._clock.monotonic(), _cause(cause))
        self._agenda.closed()
        if outcome is None:
            self._recorder.put_off(case, _cause(cause))
        else:
            self._recorder.settle(case, outcome)

    def _broke(self, case: Case, bug: Exception) -> None:
        self.internal_errors += 1
        self._observer.broke(case.target, bug)
        case.give_up_broken()
        self._agenda.closed()
        outcome = verdict(case, self._clock.monotonic())
        self._recorder.settle(case, outcome)
        stop = self._safety.settled(outcome, left=self._agenda.left)
        if stop is not None:
            self._switch.throw(stop)

    def _lost(self, failure: LedgerError) -> None:
        self._switch.throw(Stop("record", str(failure)))

    def _abandon(self) -> None:
        """After a stop: settle what waited, give back what was claimed and not begun."""
        courses, cases = self._agenda.abandon()
        for course in courses:
            course.steps.close()
            self._cut_short(course.case)
        for case in cases:
            self._agenda.open += 1
            self._cut_short(case)


def _doubtful(case: Case) -> list[Call]:
    """The calls that an earlier pass, run or crash may have made for a target."""
    target = case.target
    if isinstance(target.scope, Listed):
        return [
            Call(CancelOne(target.device, target.orgId, commandId))
            for commandId in target.scope.commandIds
            if commandId not in case.recorded
        ]
    return [Call(CancelAll(target.device, target.orgId))]


def _cause(rule: str) -> str:
    """Why a target was not attempted, in the words of the report."""
    return rule if rule in ("signal", "window", "deadline", "limit") else "aborted"
