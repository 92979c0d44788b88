"""Works one planned run off: the parts of every room joined around one event loop.

What is given: a run in the ledger, its terms, where the gateway is. What comes back: how its
requests ended. Signals come from their owner for as long as the run can still be stopped.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import islice

import anyio
from msgspec import Struct

from worker.cli.signals import Listen, Listener
from worker.cli.terms import Terms
from worker.cli.watch import Watch
from worker.clock import Clock
from worker.errors import CancelWorkerError
from worker.gateway.client import GatewayClient
from worker.gateway.direct import open_transport
from worker.gateway.exchange import Transport, TransportSettings
from worker.gateway.token import Credentials
from worker.ledger.entry import Entry
from worker.ledger.store import Store
from worker.ledger.waiting import OneThread, Submit
from worker.ledger.writer import Writer
from worker.model import (
    AssetId,
    Device,
    DeviceKey,
    OutcomeKind,
    ReportRow,
    RunRecord,
    Spent,
    Stop,
    Target,
)
from worker.run.reconcile import LookupRules
from worker.run.record import Recorder
from worker.run.retry import RetryPolicy, RetryRules, TokenPatience
from worker.run.session import Ending, Leg, Rules, Session
from worker.run.stop import Bounds, Switch
from worker.run.verify import TOUCHED, Findings, Subject, Subjects

_LEDGER_EVERY = 1.0  # seconds between looks at the ledger's place
_DRIFT_MS = 1_000  # by which a wall clock that nobody sets may fall behind during a run


class Place(Struct, frozen=True):
    """Where requests go and how they behave on the way."""

    transport: TransportSettings
    credentials: Credentials
    request_timeout: float  # seconds
    retry: RetryRules
    lookup: LookupRules
    drain: float  # seconds
    by_id: bool = False
    refused_codes: frozenset[int] = frozenset()
    rests_as: str | None = None  # under which name its Retry-After is kept; None: it is not


class Work(Struct, frozen=True):
    """What is to be done of a run."""

    record: RunRecord
    terms: Terms
    legs: tuple[Leg, ...]
    until_ms: int | None = None


class Past:
    """What the run asks of the ledger (`run.session.Recall`)."""

    def __init__(self, store: Store, run_id: str, clock: Clock, gateway: str | None) -> None:
        """gateway: whose Retry-After is kept, and kept to; None: nobody's."""
        self._store = store
        self._run_id = run_id
        self._gateway = gateway
        self._clock = clock
        self._ahead_ms = self._ahead_of_monotonic_ms()

    def open_intents(self) -> Mapping[Device, int]:
        return self._store.open_intents(self._run_id)

    def recorded_elsewhere(self, ordinal: int, ids: Sequence[str]) -> set[str]:
        now_ms = self._clock.wall_ms()
        set_back = self._ahead_of_monotonic_ms() < self._ahead_ms - _DRIFT_MS
        in_order_ms = 0 if set_back else now_ms  # 0: no moment can be compared with another
        return self._store.recorded_elsewhere(self._run_id, ordinal, ids, in_order_ms=in_order_ms)

    def _ahead_of_monotonic_ms(self) -> int:
        """How far the wall clock is ahead of the monotonic one; less when it was set back."""
        return self._clock.wall_ms() - round(self._clock.monotonic() * 1000)

    def pause(self) -> int | None:
        return None if self._gateway is None else self._store.pause(self._gateway)

    def keep_pause(self, until_ms: int) -> None:
        if self._gateway is not None:
            self._store.keep_pause(self._gateway, until_ms)

    def forget_pause(self, until_ms: int) -> None:
        if self._gateway is not None:
            self._store.forget_pause(self._gateway, until_ms)


@contextmanager
def _deaf(_: Listener) -> Iterator[None]:
    """For where nothing sends signals."""
    yield


class Engine:
    """Runs work; one for a process."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        listen: Listen = _deaf,
        connect: Callable[[TransportSettings, Clock], Transport] = open_transport,
        submit: Callable[[], Submit] = OneThread,
        batch: int = 1_000,
    ) -> None:
        """`listen` tells of signals, `connect` reaches the gateway, `submit` the ledger; a
        simulated world gives its own.

        batch: targets of a verification that are read at a time.
        """
        self._store = store
        self._clock = clock
        self._listen = listen
        self._connect = connect
        self._submit = submit
        self._interrupts = 0
        self._batch = batch
        self.hurried = False  # a second SIGINT: leave as soon as all is recorded
        self.unrecorded: tuple[Entry, ...] = ()  # what the ledger did not take, after a failure
        self.spent: Callable[[], Spent] = Spent  # what the run has used, earlier starts included

    async def work(self, work: Work, place: Place, watch: Watch) -> Ending:
        """Send what the work asks for; RefusedError when a permission is missing."""
        terms = work.terms
        before, began = self._store.run(work.record.run_id).spent, self._clock.monotonic()

        def spent() -> Spent:
            active = self._clock.monotonic() - began
            return before.plus(session.requests, round(active * 1000))

        async with self._machine(work, place, watch) as (session, writer):
            self.spent = writer.spent = spent
            needs_search = place.by_id or terms.verify_written
            probe = self._first(work) if needs_search else None
            kinds = _looked_at(terms)
            verify = None if terms.verify == "none" else self._ended(writer, work, kinds)
            try:
                return await session.run(work.legs, verify, probe)
            finally:
                self.unrecorded = tuple(writer.pending())

    async def look(self, work: Work, place: Place, watch: Watch, began_ms: int | None) -> Findings:
        """Only search; what was cached after began_ms (local clock; None: now) counts apart.

        Of a run that has begun, what its `verify` names; of one that has not, every target.
        """
        async with self._machine(work, place, watch) as (session, writer):
            begun = work.record.started_ms is not None
            kinds = _looked_at(work.terms) if begun else frozenset(OutcomeKind)
            return await session.look(self._ended(writer, work, kinds), began_ms)

    @asynccontextmanager
    async def _machine(
        self, work: Work, place: Place, watch: Watch
    ) -> AsyncIterator[tuple[Session, Writer]]:
        """Everything that sends and records, for as long as the block lasts."""
        switch = Switch()
        switch.on_throw(watch.stopping)
        transport = self._connect(place.transport, self._clock)
        session, writer = self._session(work, place, watch, switch, transport)
        refusal: CancelWorkerError | None = None
        try:
            async with anyio.create_task_group() as group:
                if self._store.path is not None:
                    group.start_soon(self._watch_ledger, switch)
                try:
                    with self._listen(lambda number: self._stop(number, session, switch)):
                        yield session, writer
                except CancelWorkerError as error:
                    refusal = error  # raised below: a task group would wrap it
                group.cancel_scope.cancel()
        finally:
            await transport.aclose()
        if refusal is not None:
            raise refusal

    def _session(
        self, work: Work, place: Place, watch: Watch, switch: Switch, transport: Transport
    ) -> tuple[Session, Writer]:
        """The parts of a run, joined; nothing of it has begun."""
        clock, run_id, limits = self._clock, work.record.run_id, work.terms.limits
        policy = RetryPolicy(place.retry, clock)
        deadline = None if limits.deadline is None else clock.monotonic() + limits.deadline
        bounds = Bounds(clock, deadline=deadline, until_ms=work.until_ms)
        client = GatewayClient(
            transport,
            place.credentials,
            clock,
            TokenPatience(policy, clock, switch, bounds),
            place.request_timeout,
            place.refused_codes,
        )
        recorder = Recorder(watch, switch)
        writer = Writer(
            self._store, run_id, self._submit(), clock, limits.concurrency, recorder.committed
        )
        recorder.writer = writer

        def apart(ms: int) -> None:
            writer.put_clock_apart(ms)
            watch.clocks_apart(ms)

        client.skew.known_apart(work.record.clock_apart_ms)
        client.skew.on_apart = apart
        past = Past(self._store, run_id, clock, place.rests_as)
        rules = _rules(work, place)
        session = Session(
            rules, client, transport, writer, past, clock, switch, bounds, watch, recorder
        )
        return session, writer

    async def _watch_ledger(self, switch: Switch) -> None:
        """Stop the run once its ledger is not the file that people will open.

        What is in flight is still recorded: the caller writes it to another place.
        """
        while (lost := self._store.lost()) is None:
            if not await switch.sleep(_LEDGER_EVERY):
                return
        switch.throw(Stop("record", lost))

    def _stop(self, number: int, session: Session, switch: Switch) -> bool:
        """SIGINT and SIGTERM stop politely, a second SIGINT at once; False: the verdict stands."""
        if session.ended:
            return False
        self._interrupts += int(number == signal.SIGINT)
        name = signal.Signals(number).name
        switch.throw(Stop("signal", f"{name} received", count=number))
        if self._interrupts > 1:
            self.hurried = True
            session.hurry()
        return True

    def _ended(self, writer: Writer, work: Work, kinds: frozenset[OutcomeKind] | None) -> Subjects:
        return _Ended(self._store, writer, work.record.run_id, kinds, self._batch)

    def _first(self, work: Work) -> Target | None:
        """The first target that this work will call: one that is settled gets no more requests."""
        if not work.legs:
            return None
        members = work.legs[0].members
        for row in self._store.rows(work.record.run_id):
            left = row.outcome is OutcomeKind.NOT_ATTEMPTED
            if row.ordinal in members[:1] if members else left:
                return target_of(row)
        return None


class _Ended:
    """The targets of a run that ended so: `run.verify.Subjects`."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        run_id: str,
        kinds: frozenset[OutcomeKind] | None,
        batch: int,
    ) -> None:
        """kinds: None is every target that was attempted."""
        self._store = store
        self._writer = writer
        self._run_id = run_id
        self._kinds = kinds or frozenset(OutcomeKind) - {OutcomeKind.NOT_ATTEMPTED}
        self._batch = batch

    async def count(self) -> int:
        counts = await self._writer.ask(lambda: self._store.counts(self._run_id))
        return sum(counts[kind] for kind in self._kinds)

    async def __aiter__(self) -> AsyncIterator[list[Subject]]:
        targets = self._targets()
        while batch := await self._writer.ask(lambda: list(islice(targets, self._batch))):
            yield batch

    def _targets(self) -> Iterator[Subject]:
        for row in self._store.rows(self._run_id):
            if row.outcome in self._kinds:
                yield Subject(target_of(row), row.told)


def _rules(work: Work, place: Place) -> Rules:
    limits = work.terms.limits
    return Rules(
        orgId=work.record.orgId,
        concurrency=limits.concurrency,
        rate=limits.rate,
        retry=place.retry,
        lookup=place.lookup,
        abort=work.terms.abort,
        max_commands=limits.max_commands,
        drain=place.drain,
        by_id=place.by_id,
    )


def _looked_at(terms: Terms) -> frozenset[OutcomeKind] | None:
    return None if terms.verify == "all" else TOUCHED


def target_of(row: ReportRow) -> Target:
    """The target that a report row is about, spelled as the job did."""
    device: Device = AssetId(row.assetId or "")
    if row.productKey and row.deviceKey:
        device = DeviceKey(row.productKey, row.deviceKey)
    return Target(row.ordinal, device, row.orgId, row.scope, row.source)
