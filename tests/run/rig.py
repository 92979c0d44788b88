"""The parts of a run put together on the fake gateway, without a ledger.

`Rig.run` moves one target through its course, as a single worker would; `Rig.crew` runs a whole
list with the real runner. What would go into the ledger is kept in `Book`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from msgspec.structs import replace

from tests.run.fake_gateway import FakeGateway
from tests.simulation.clock import VirtualClock
from worker.clock import Clock
from worker.ledger.entry import ClaimedTarget, Deferral, DoubtMark, Entry
from worker.model import (
    AllCached,
    Ambiguous,
    AssetId,
    CommandResult,
    Device,
    DeviceKey,
    Listed,
    Outcome,
    OutcomeKind,
    Refused,
    Stop,
    Target,
)
from worker.run.auth import AuthRule
from worker.run.case import Call, Case
from worker.run.course import drive
from worker.run.executor import Executor
from worker.run.outcome import as_it_stands, verdict
from worker.run.pace import Pace
from worker.run.reconcile import LookupRules, Reconciler
from worker.run.record import Recorder
from worker.run.retry import Budget, RetryPolicy, RetryRules
from worker.run.runner import Doubts, Runner
from worker.run.safety import AbortRules, Safety
from worker.run.stop import Bounds, Switch
from worker.run.wire import Halted, Wire

ORG = "o1"
LOOKUP = LookupRules()
PLENTY = RetryRules(budget=1.0, budget_reserve=100)  # a budget that denies nothing


def device(number: int = 0) -> DeviceKey:
    return DeviceKey("p", f"d{number}")


def whole(number: int = 0, of: Device | None = None) -> Target:
    """A target of scope all_cached."""
    return Target(number, of or device(number), ORG, AllCached(), f"job.yaml:{number + 1}")


def listed(*ids: str, number: int = 0) -> Target:
    return Target(number, device(number), ORG, Listed(ids), f"job.yaml:{number + 1}")


def asset(number: int = 0) -> Target:
    return whole(number, AssetId(f"a{number}"))


def _no_doubt(claimed: ClaimedTarget) -> tuple[int, int] | None:
    return None


class Book:
    """A writer and an observer that keep all they are told."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.retries: list[float] = []
        self.pauses: list[tuple[float, int | None]] = []
        self.rests: list[float] = []
        self.rested: list[float] = []
        self.on_rest: Callable[[float], None] = lambda _: None
        self.bugs: list[BaseException] = []
        self.put_offs: list[tuple[int, str]] = []
        self.seen: list[Outcome] = []
        self.durable: list[tuple[int, tuple[str, ...], OutcomeKind | None]] = []

    def put(self, entry: Entry) -> None:
        self.entries.append(entry)

    def settled(self, outcome: Outcome) -> None:
        self.seen.append(outcome)

    def recorded(
        self, target: Target, commands: Sequence[CommandResult], outcome: Outcome | None
    ) -> None:
        ids = tuple(c.command.commandId for c in commands)
        self.durable.append((target.ordinal, ids, outcome.kind if outcome else None))

    def told(self) -> None:
        """Nothing to count."""

    def put_off(self, target: Target, cause: str) -> None:
        self.put_offs.append((target.ordinal, cause))

    def retried(self, case: Case, call: Call, delay: float) -> None:
        self.retries.append(delay)

    def throttled(self, reply: Refused | Ambiguous, seconds: float, concurrency: int) -> None:
        self.pauses.append((seconds, reply.status))

    def asked_for(self, seconds: float) -> None:
        self.rests.append(seconds)

    def resting(self, seconds: float) -> None:
        self.rested.append(seconds)
        self.on_rest(seconds)

    def broke(self, target: Target, bug: BaseException) -> None:
        self.bugs.append(bug)

    # ---- what a ledger would answer

    @property
    def outcomes(self) -> dict[int, Outcome]:
        """The final outcome of each target that has one."""
        return {e.ordinal: e.verdict for e in self.entries if isinstance(e.verdict, Outcome)}

    @property
    def doubts(self) -> list[DoubtMark]:
        return [e.verdict for e in self.entries if isinstance(e.verdict, DoubtMark)]

    @property
    def deferred(self) -> list[int]:
        """Targets whose last word is a deferral."""
        last = {e.ordinal: e.verdict for e in self.entries if e.verdict is not None}
        return [ordinal for ordinal, v in last.items() if isinstance(v, Deferral)]

    def commands_of(self, ordinal: int) -> dict[str, CommandResult]:
        """Cancelled commands on record of a target, by id."""
        found: dict[str, CommandResult] = {}
        for entry in self.entries:
            if entry.ordinal == ordinal:
                told = entry.verdict.commands if isinstance(entry.verdict, Outcome) else ()
                for result in (*entry.commands, *told):
                    if result.result == "cancelled":
                        found.setdefault(result.command.commandId, result)
        return found


class Rig:
    """One run's machinery, every part in reach."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        gateway: FakeGateway | None = None,
        retry: RetryRules = PLENTY,
        lookup: LookupRules = LOOKUP,
        abort: AbortRules | None = None,
        concurrency: int = 16,
        rate: float | None = None,
        deadline: float | None = None,
        max_commands: int | None = None,
        by_id: bool = False,
        elsewhere: Iterable[str] = (),
        doubts: Doubts = _no_doubt,
    ) -> None:
        self.clock: Clock = clock or VirtualClock()
        self.gateway = gateway or FakeGateway(self.clock)
        self.book = Book()
        self.switch = Switch()
        self.bounds = Bounds(self.clock, deadline=deadline)
        self.retry = retry
        self.pace = Pace(self.clock, self.switch, concurrency, rate)
        self.policy = RetryPolicy(retry, self.clock)
        self.budget = Budget(retry)
        self.wire = Wire(
            self.gateway,
            self.pace,
            self.policy,
            self.switch,
            self.bounds,
            self.clock,
            self.book,
            AuthRule(lambda: self.runner.open_targets),
        )
        self.elsewhere = set(elsewhere)
        self.reconciler = Reconciler(
            self.wire, self.gateway, lookup, self.policy, self.clock, self._recorded_elsewhere
        )
        self.recorder = Recorder(self.book, self.switch)
        self.recorder.writer = self.book
        self.executor = Executor(
            self.wire,
            self.gateway,
            self.reconciler,
            self.policy,
            self.budget,
            Budget(retry),
            self.clock,
            self.recorder,
            by_id=by_id,
        )
        self.safety = Safety(abort, max_commands, ORG)
        self.runner = Runner(
            self.executor,
            self.recorder,
            self.safety,
            self.switch,
            self.clock,
            self.book,
            doubts,
            concurrency,
        )

    async def run(self, target: Target, *recorded: CommandResult) -> Outcome | None:
        """One target through its course; None: not attempted."""
        return await self.drive(self.runner._open(ClaimedTarget(target, 0, recorded)))

    async def launched(self, target: Target) -> Outcome | None:
        """One target through the runner, which launches it where it can; None: not attempted."""

        async def claims() -> AsyncIterator[list[ClaimedTarget]]:
            yield [self._claimed(target, 0)]

        await self.runner.work_off(claims(), may_put_off=False)
        return self.book.outcomes.get(target.ordinal)

    async def drive(self, case: Case) -> Outcome | None:
        course = self.executor.course(case)
        ended = False
        try:
            while (moment := await drive(course)) is not None:
                if not await self.switch.sleep(moment - self.clock.monotonic()):
                    course.close()
                    break
            else:
                ended = True
        except Halted:
            pass
        now = self.clock.monotonic()
        return verdict(case, now) if ended else as_it_stands(case, now, "aborted")

    async def crew(self, targets: Sequence[Target], *, batch: int = 0) -> Stop | None:
        """A whole list with the real runner, later passes included."""
        size = batch or max(1, len(targets))
        by_ordinal = {t.ordinal: t for t in targets}
        await self.leg(targets, 0, size)
        for later in range(1, self.retry.passes + 1):
            put_off = tuple(self.runner.put_off)
            if not put_off or not await self.switch.sleep(self.retry.cooldown):
                break
            self.budget.next_pass()
            self.safety.next_pass()
            await self.leg([by_ordinal[o] for o in put_off], later, size)
        return self.switch.stop

    async def leg(self, targets: Sequence[Target], pass_no: int, size: int) -> None:
        may_put_off = pass_no < self.retry.passes

        async def claims() -> AsyncIterator[list[ClaimedTarget]]:
            for lo in range(0, len(targets), size):
                yield [self._claimed(t, pass_no) for t in targets[lo : lo + size]]

        await self.runner.work_off(claims(), may_put_off=may_put_off)

    def _claimed(self, target: Target, pass_no: int) -> ClaimedTarget:
        return ClaimedTarget(target, pass_no, tuple(self.book.commands_of(target.ordinal).values()))

    async def _recorded_elsewhere(self, target: Target, ids: list[str]) -> set[str]:
        return self.elsewhere & set(ids)


def without_duration(outcome: Outcome | None) -> Outcome | None:
    """The outcome as a test can write it down."""
    return None if outcome is None else replace(outcome, duration_ms=0)
