"""A whole run on the fake gateway and a real ledger in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TypeVar

import anyio
from msgspec.structs import replace

from tests.run.fake_gateway import FakeGateway
from tests.run.rig import ORG, Book, device
from tests.simulation.clock import VirtualClock
from worker.ledger.entry import NewRun
from worker.ledger.store import Store
from worker.ledger.writer import Writer
from worker.model import Device, DeviceKey, OutcomeKind, ReportRow, Stop, Target
from worker.run.reconcile import LookupRules
from worker.run.record import Recorder
from worker.run.retry import RetryRules
from worker.run.safety import AbortRules
from worker.run.session import Ending, Leg, Rules, Session
from worker.run.stop import Bounds, Switch
from worker.run.verify import Subject

T = TypeVar("T")

RULES = Rules(
    orgId=ORG,
    concurrency=16,
    rate=None,
    retry=RetryRules(),
    lookup=LookupRules(),
    abort=AbortRules(),
    max_commands=None,
    drain=8.0,
)
FIRST = (Leg(1),)
GATEWAY = "https://gw"


class Disk:
    """Runs what the writer submits: it takes a while, and may fail from the n-th call on."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.calls = 0
        self.fails_at: int | None = None
        self.error: Exception | None = None

    async def __call__(self, fn: Callable[[], T], /) -> T:
        self.calls += 1
        await anyio.sleep(self._seconds / 2)
        if self.fails_at is not None and self.calls >= self.fails_at:
            assert self.error is not None
            raise self.error
        answer = fn()
        await anyio.sleep(self._seconds / 2)
        return answer


class Past:
    """`run.session.Recall` on the store."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store, self._run_id = store, run_id

    def open_intents(self) -> Mapping[Device, int]:
        return self._store.open_intents(self._run_id)

    def recorded_elsewhere(self, ordinal: int, ids: Sequence[str]) -> set[str]:
        return self._store.recorded_elsewhere(self._run_id, ordinal, ids, in_order_ms=2**62)

    def pause(self) -> int | None:
        return self._store.pause(GATEWAY)

    def keep_pause(self, until_ms: int) -> None:
        self._store.keep_pause(GATEWAY, until_ms)

    def forget_pause(self, until_ms: int) -> None:
        self._store.forget_pause(GATEWAY, until_ms)


class Scissors:
    """A transport that remembers when it was told to cut."""

    def __init__(self) -> None:
        self.cuts: list[float] = []

    def cut(self, at: float) -> None:
        self.cuts.append(at)


class Stage:
    """One run, everything in reach; give it the store of another to follow on that."""

    def __init__(
        self,
        devices: int = 0,
        *,
        listed: Sequence[Sequence[str]] = (),
        gateway: FakeGateway | None = None,
        clock: VirtualClock | None = None,
        store: Store | None = None,
        run_id: str = "r1",
        rules: Rules = RULES,
        disk: float = 0.004,
        deadline: float | None = None,
        until_ms: int | None = None,
        planned: bool = False,
    ) -> None:
        self.clock = clock or VirtualClock()
        self.gateway = gateway or FakeGateway(self.clock)
        self.store = store or Store.open("sqlite://")
        self.run_id = run_id
        if not planned:
            self._plan(devices, listed)
        self.store.start(run_id, self.clock.wall_ms())
        self.rules = rules
        self.book, self.switch = Book(), Switch()
        self.bounds = Bounds(self.clock, deadline=deadline, until_ms=until_ms)
        self.recorder = Recorder(self.book, self.switch)
        self.disk, self.scissors = Disk(disk), Scissors()
        self.writer = Writer(
            self.store, run_id, self.disk, self.clock, rules.concurrency, self.recorder.committed
        )
        self.recorder.writer = self.writer
        self.session = Session(
            rules,
            self.gateway,
            self.scissors,
            self.writer,
            Past(self.store, run_id),
            self.clock,
            self.switch,
            self.bounds,
            self.book,
            self.recorder,
        )

    def _plan(self, devices: int, listed: Sequence[Sequence[str]]) -> None:
        ids: list[str | None] = [" ".join(each) for each in listed]
        ids = ids or [None] * devices
        rows = [(0, n + 1, 1, "p", f"d{n}", None, joined) for n, joined in enumerate(ids)]
        scope = "listed" if listed else "all_cached"
        run = NewRun(
            self.run_id, "job", None, "me", ORG, "gw", scope, "0", self.clock.wall_ms(), b"{}"
        )
        with self.store.draft() as draft:
            draft.add(rows)
            self.store.freeze(draft, run, ["job.yaml"])

    async def run(
        self,
        legs: Sequence[Leg] = FIRST,
        *,
        verify: bool = False,
        probe: Target | None = None,
        stop_at: float | None = None,
    ) -> Ending:
        """To its end, which must come within an hour."""
        if stop_at is not None:
            said = Stop("signal", "SIGTERM received")
            asyncio.get_running_loop().call_later(stop_at, self.switch.throw, said)
        with anyio.fail_after(3600.0):
            return await self.session.run(legs, Attempted(self) if verify else None, probe)

    def rows(self) -> list[ReportRow]:
        return list(self.store.rows(self.run_id))

    def counts(self) -> dict[str, int]:
        """Outcomes that came about, by name."""
        return {k.value: n for k, n in self.store.counts(self.run_id).items() if n}

    def ordinals(self, kind: OutcomeKind) -> list[int]:
        return [row.ordinal for row in self.rows() if row.outcome is kind]

    def check(self) -> None:
        """The report against the truth, as a user would read it (invariants 2-5, 7)."""
        sent = {s.device for s in self.gateway.sent("cancel")}
        for row in self.rows():
            assert row.productKey is not None
            assert row.deviceKey is not None
            key = DeviceKey(row.productKey, row.deviceKey)
            taken = self.gateway.taken(key)
            uncertain = row.outcome in {
                OutcomeKind.UNKNOWN, OutcomeKind.CANCELLED_INCOMPLETE, OutcomeKind.ANOMALOUS,
            }  # fmt: skip
            if not uncertain:
                assert taken <= set(row.commandIds), row
            if row.outcome is OutcomeKind.UNKNOWN:
                assert key in sent, f"{row.ordinal} was never sent"
            assert set(row.commandIds) <= self.gateway.cancelled(key)
        assert sum(self.counts().values()) == self.store.run(self.run_id).targets


class Attempted:
    """Every target that was attempted, in batches of so many: `run.verify.Subjects`."""

    def __init__(self, stage: Stage, batch: int = 1_000) -> None:
        self._stage, self._batch = stage, batch

    async def count(self) -> int:
        return len(await self._subjects())

    async def __aiter__(self) -> AsyncIterator[list[Subject]]:
        subjects = await self._subjects()
        for first in range(0, len(subjects), self._batch):
            yield subjects[first : first + self._batch]

    async def _subjects(self) -> list[Subject]:
        rows = await self._stage.writer.ask(self._stage.rows)
        return [subject_of(row) for row in rows if row.outcome is not OutcomeKind.NOT_ATTEMPTED]


class All(Attempted):
    """Every target of the plan."""

    async def _subjects(self) -> list[Subject]:
        return [subject_of(row) for row in await self._stage.writer.ask(self._stage.rows)]


def subject_of(row: ReportRow) -> Subject:
    assert row.productKey is not None
    assert row.deviceKey is not None
    key = DeviceKey(row.productKey, row.deviceKey)
    target = Target(row.ordinal, key, row.orgId, row.scope, row.source)
    return Subject(target, row.told)


def rules(**changed: object) -> Rules:
    return replace(RULES, **changed)


def seed_some(stage: Stage, count: int, every: int = 2) -> None:
    """Every so many-th device holds one command of its own number."""
    for number in range(0, count, every):
        stage.gateway.seed(device(number), f"{number}")
