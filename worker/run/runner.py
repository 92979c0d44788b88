"""Moves a frozen list through its courses: legs of targets, a crew of workers, one record.

A leg is what is claimed and worked off in one go: the list itself, what a crash left in doubt,
what an earlier leg put off. Nearly every target needs one call and gets a plain answer: it is
launched, and settled by a plain call when the reply is there. All else is a course, moved on by a
crew that never grows; targets that wait stand in the agenda.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Protocol

import anyio

from worker.clock import Clock
from worker.errors import LedgerError
from worker.ledger.entry import ClaimedTarget
from worker.model import UNNAMED, Answered, CancelAll, CancelOne, Evidence, Listed, Outcome, Stop
from worker.run.agenda import Agenda, Course
from worker.run.case import Call, Case
from worker.run.course import drive
from worker.run.executor import Executor
from worker.run.outcome import as_it_stands, of_answer, verdict
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
        self._agenda = self._new_agenda()
        self._may_put_off = False
        self._waiting: int | None = 0  # targets of other legs that are still to come
        self._in_air = 0  # launched calls
        self._down = anyio.Event()  # none of them is left
        self._broken: Exception | None = None  # a bug that no target can be blamed for
        self.put_off: list[int] = []  # ordinals, in the leg at hand
        self.internal_errors = 0

    @property
    def open_targets(self) -> int | None:
        """How many are begun and not settled, those put off too; None: more may begin."""
        if self._agenda.left or self._waiting is None:
            return None
        return self._agenda.open + len(self.put_off) + self._waiting

    async def work_off(self, claims: Claims, *, may_put_off: bool, waiting: int | None = 0) -> None:
        """One leg: all targets of the claims, until each is settled or put off, or the run stops.

        waiting: how many targets earlier legs put off; None: a leg with others follows. Raises
        nothing of its own: what ends the run early is on the switch.
        """
        self.put_off.clear()
        self._may_put_off = may_put_off
        self._waiting = waiting
        self._agenda = self._new_agenda()
        if not self._safety.succeeded:
            self._agenda.open_limit = max(_FEW, self._concurrency)
        try:
            async with anyio.create_task_group() as feed:
                feed.start_soon(self._feed, claims)
                async with anyio.create_task_group() as crew:
                    for _ in range(self._concurrency):
                        crew.start_soon(self._labour)
                await self._landing()
                feed.cancel_scope.cancel()  # after a stop a claim may wait for ever
            self._abandon()
        finally:
            self._agenda.shut()  # however this ended: what comes back now begins nothing

    async def _landing(self) -> None:
        """Wait until what was launched has come back: after a stop it has its drain."""
        while self._in_air:
            self._down = anyio.Event()
            await self._down.wait()
        if self._broken is not None:
            raise self._broken

    async def _feed(self, claims: Claims) -> None:
        """Keep claimed targets ready; the writer bounds how many there may be."""
        try:
            async for batch in claims:
                self._agenda.add(batch)
                if not await self._agenda.low():
                    break
        except LedgerError as failure:
            self._lost(failure)
        self._agenda.filled()

    def _new_agenda(self) -> Agenda:
        return Agenda(self._clock, self._switch, self._concurrency, self._begin)

    def _open(self, claimed: ClaimedTarget, sent: float | None = None) -> Case:
        """A case with what the ledger knows of its target; sent: when it was launched."""
        case = Case(claimed.target, claimed.pass_no, sent)
        case.told = claimed.told
        for result in claimed.commands:
            if result.result == "cancelled":  # what else became of a command proves nothing now
                case.recorded[result.command.commandId] = result
        since = self._doubts(claimed)
        if since is not None:
            for call in _doubtful(case):
                call.doubt(*since, until=self._clock.monotonic())
                case.calls.append(call)
        return case

    # ------------------------------------------------------------ by plain calls

    def _begin(self, claimed: ClaimedTarget) -> None:
        """Launch the only call of a target without a past; the others get their course."""
        now = self._clock.monotonic()
        new = not claimed.commands and self._doubts(claimed) is None
        landed = partial(self._landed, claimed, now)
        self._in_air += 1
        try:
            if new and self._executor.launch(claimed.target, now, landed):
                return
        except Exception as bug:  # noqa: BLE001 - one target's bug must not take the others along
            self._in_air -= 1
            self._broke(self._open(claimed), bug)
            return
        self._in_air -= 1
        self._hand(self._open(claimed))

    def _hand(self, case: Case) -> None:
        self._agenda.hand(Course(case, self._executor.course(case)))

    def _landed(
        self, claimed: ClaimedTarget, sent: float, said: Evidence | Exception | None
    ) -> None:
        """A launched call came back. Called by the transport: nothing may be raised."""
        try:
            self._in_air -= 1
            self._take_in(claimed, sent, said)
            self._agenda.deal()
        except Exception as bug:  # noqa: BLE001 - raised where somebody can see it
            self._broken = self._broken or bug
            self._switch.throw(Stop("internal_error", "a bug of ours"))
        if not self._in_air:
            self._down.set()

    def _take_in(
        self, claimed: ClaimedTarget, sent: float, said: Evidence | Exception | None
    ) -> None:
        """Settle the target at once, or make a case of it, which may have to go on."""
        outcome = case = None
        done = False
        try:
            if type(said) is Answered and claimed.told is UNNAMED:
                outcome = of_answer(claimed.target, said, sent, self._clock.monotonic())
            if outcome is None and not isinstance(said, Exception):
                case = self._open(claimed, sent)
                done = self._executor.landed(case, said, sent)
        except Exception as bug:  # noqa: BLE001 - one target's bug must not take the others along
            said = bug
        if isinstance(said, Exception):
            if case is None:
                case = Case(claimed.target, claimed.pass_no, sent)
                case.told = claimed.told
            self._executor.broke(case)
            self._broke(case, said)
        elif outcome is not None:
            self._agenda.closed()
            self._recorder.settle_at_once(outcome, claimed.pass_no)
            self._settled(outcome)
        elif case is not None and done:
            self._close(case)
        elif case is not None:
            self._hand(case)

    # ------------------------------------------------------------ by the crew

    async def _labour(self) -> None:
        while (course := await self._agenda.next()) is not None:
            await self._move_on(course)
            self._agenda.deal()

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

    # ------------------------------------------------------------ the end of a target

    def _close(self, case: Case) -> None:
        """All of a case's calls are done."""
        self._agenda.closed()
        outcome = verdict(case, self._clock.monotonic())
        if not (self._may_put_off and case.may_be_put_off):
            self._recorder.settle(case, outcome)
            self._settled(outcome)
            return
        self.put_off.append(case.target.ordinal)
        self._recorder.put_off(case, outcome.cause or "failed")
        stop = self._safety.put_off(outcome, left=self._agenda.left)
        if stop is not None:
            self._switch.throw(stop)
        self._count()

    def _settled(self, outcome: Outcome) -> None:
        """It is handed to the record: what does it mean for the run?"""
        stop = self._safety.settled(outcome, left=self._agenda.left)
        if stop is not None:
            self._switch.throw(stop)
        elif self._safety.succeeded:
            self._agenda.open_limit = None
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
        self._settled(outcome)

    def _lost(self, failure: LedgerError) -> None:
        self._switch.throw(Stop("record", str(failure)))

    def _abandon(self) -> None:
        """After a stop: settle what waited, give back what was claimed and not begun."""
        courses, targets = self._agenda.abandon()
        for course in courses:
            course.steps.close()
            self._cut_short(course.case)
        for claimed in targets:
            self._cut_short(self._open(claimed))


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
