"""One start of the worker in a world: the command line's own wiring on the world's parts.

What `cli.series.carry_out` does around the event loop is done here inside it, with the same
functions; a crash leaves everything as it is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from tests.simulation.gateway import ACCESS_KEY, SECRET_KEY
from tests.simulation.ledgers import Ledger, Listing
from tests.simulation.setup import Setup
from worker.cli.engine import Engine, Place, Work
from worker.cli.resuming import what_is_left
from worker.cli.series import Office, Order, _announce, _conclude, _refuse
from worker.cli.signals import Listener
from worker.cli.terms import Terms, terms_of
from worker.cli.watch import Watch
from worker.clock import Clock
from worker.config import Limits
from worker.errors import LedgerError, RefusedError
from worker.gateway.exchange import Transport, TransportSettings
from worker.gateway.token import Credentials
from worker.model import Outcome, OutcomeKind, RunEnd, Secret, Stop
from worker.observe.log import memory_log
from worker.observe.progress import Progress
from worker.observe.runlog import RunLog
from worker.run.session import Ending, Leg

_NO_SUCCESS = ("failed", "rejected", "unknown", "not_found", "not_attempted")


@contextmanager
def _signals(listener: Listener) -> Iterator[None]:
    """The signals of a world come from its loop (`SeededLoop.kill`)."""
    loop = asyncio.get_running_loop()
    for number in (2, 15):
        loop.add_signal_handler(number, listener, number)
    try:
        yield
    finally:
        for number in (2, 15):
            loop.remove_signal_handler(number)


class Start(Struct, eq=False):
    """One process and what it came to."""

    number: int
    worker: int
    run_id: str
    run: int  # its number in the ledger, and 100 times its worker's
    began: float
    listing: Listing
    limit: int | None = None  # so many targets of what is left
    late: float = 0.0  # seconds after the others of its act
    beside: int = 0  # so many others run at the same time
    legs: tuple[Leg, ...] = ()
    settled: list[Outcome] = []
    stop: Stop | None = None
    stopped_at: float | None = None  # true time
    stopped_loop: float | None = None
    began_loop: float = 0.0
    deadline_loop: float | None = None
    until_ms: int | None = None
    retried: int = 0
    ending: Ending | None = None
    end: RunEnd | None = None
    code: int | None = None  # exit code; None after a crash
    refused: bool = False
    crashed: bool = False
    terminal: frozenset[int] = frozenset()  # ordinals that are done before it starts
    asked: frozenset[int] = frozenset()  # ordinals that it is for
    work_left: bool = False  # some of these were not attempted
    lines: list[bytes] = []
    respelled: int = 0  # devices of its list that another run has in doubt by their other name
    unrecorded: int = 0
    opened: set[int] = set()  # targets of which a request has begun
    closed: set[int] = set()  # settled or put off
    succeeded: bool = False
    tally: Counter[str] | None = None  # of outcomes, as it left them


class Tell(Watch):
    """The observer that the command line uses, and a witness beside it."""

    def __init__(
        self, log: RunLog, progress: Progress, start: Start, now: Any, note: Any, die: Any
    ) -> None:
        super().__init__(log, progress)
        self._start = start
        self._now = now
        self._note = note
        self._die = die

    def settled(self, outcome: Outcome) -> None:
        self._start.settled.append(outcome)
        target = outcome.target
        self._start.closed.add(target.ordinal)
        self._start.succeeded |= outcome.kind.value not in _NO_SUCCESS
        self._note("settled", target.ordinal, outcome.kind.value, outcome.cause)
        super().settled(outcome)
        self._die(outcome)

    def recorded(self, target: Any, commands: Any, outcome: Any) -> None:
        ids = tuple(c.command.commandId for c in commands if c.result == "cancelled")
        self._note("durable", target.ordinal, ids, outcome.kind.value if outcome else None)
        super().recorded(target, commands, outcome)

    def put_off(self, target: Any, cause: str) -> None:
        self._note("put off", target.ordinal, cause)
        self._start.closed.add(target.ordinal)
        super().put_off(target, cause)

    def retried(self, case: Any, call: Any, delay: float) -> None:
        self._start.retried += 1
        self._note("retry", case.target.ordinal, round(delay, 3))
        super().retried(case, call, delay)

    def throttled(self, reply: Any, seconds: float, concurrency: int) -> None:
        self._note("paused", round(seconds, 3), concurrency)
        super().throttled(reply, seconds, concurrency)

    def resting(self, seconds: float) -> None:
        self._note("resting", round(seconds, 3))
        super().resting(seconds)

    def stopping(self, stop: Stop) -> None:
        start = self._start
        start.stop = stop
        start.stopped_at, start.stopped_loop = self._now()
        self._note("stop", stop.rule, stop.message)
        super().stopping(stop)

    def broke(self, target: Any, bug: BaseException) -> None:
        self._note("bug", target.ordinal, type(bug).__name__)
        super().broke(target, bug)


def terms(setup: Setup) -> Terms:
    return Terms(
        limits=Limits(
            concurrency=setup.concurrency,
            rate=setup.rate,
            max_commands=setup.max_commands,
            deadline=setup.deadline,
        ),
        verify=cast("Any", setup.verify),
        verify_written=setup.verify_written,
        abort=setup.abort,
        sources=(),
        limit=setup.limit,
    )


def place(setup: Setup, worker: int) -> Place:
    return Place(
        transport=TransportSettings(
            url=f"http://gateway{worker}.sim", connections=setup.concurrency, keepalive=4.0
        ),
        credentials=Credentials(Secret(f"{ACCESS_KEY}{worker}"), Secret(SECRET_KEY)),
        request_timeout=setup.request_timeout,
        retry=setup.retry,
        lookup=setup.lookup,
        drain=setup.drain,
        by_id=setup.by_id,
        rests_as=f"http://gateway{worker}.sim",
    )


class Process:
    """Starts the worker and sees it through."""

    def __init__(
        self,
        setup: Setup,
        ledger: Ledger,
        clock: Clock,
        connect: Callable[[TransportSettings, Clock], Transport],
        submit: Callable[[], Any],
        now: Callable[[], tuple[float, float]],
        note: Callable[..., None],
        die: Callable[[Outcome], None],
    ) -> None:
        """die: hears of each outcome, and perhaps ends the process."""
        self._die = die
        self._setup = setup
        self._ledger = ledger
        self._clock = clock
        self._connect = connect
        self._submit = submit
        self._now = now
        self._note = note

    async def run(self, start: Start, kinds: Sequence[OutcomeKind]) -> None:
        """As `run`, or `resume`, of the command line."""
        setup, clock, store = self._setup, self._clock, self._ledger.store
        sink, kept = memory_log(clock)
        start.lines = kept.lines
        office = Office(store, cast("Any", None), sink, clock, lambda _: None, "sqlite://")
        try:
            record = store.run(start.run_id)
            agreed = replace(terms_of(record), limit=start.limit)
            resumed = record.started_ms is not None
            start.legs = (
                what_is_left(store, record, agreed.limit, kinds)
                if resumed
                else (Leg(1, limit=agreed.limit),)
            )
            if resumed and not start.legs and record.end is not None:
                start.code, start.end = record.end.exit_code, record.end
                return
            order = Order(record, agreed, start.legs, (), start.until_ms, resumed)
            store.start(start.run_id, clock.wall_ms())
            runlog = RunLog(sink, clock, record.run_id, record.job, record.orgId)
            engine = Engine(
                store,
                clock,
                listen=_signals,
                connect=self._connect,
                submit=self._submit,
                batch=setup.batch,
            )
            watch = Tell(
                runlog, Progress(0, {}, None, clock), start, self._now, self._note, self._die
            )
            _announce(order, runlog)
            work = Work(record, agreed, start.legs, start.until_ms)
            start.began_loop = self._now()[1]
            if setup.deadline is not None:
                start.deadline_loop = start.began_loop + setup.deadline
            try:
                start.ending = await engine.work(work, place(setup, start.worker), watch)
            except RefusedError as refused:
                start.refused, start.code = True, 7
                _refuse(order, office, refused)
                return
            start.unrecorded = len(engine.unrecorded)
            spent = engine.spent()
            start.end = _conclude(order, office, start.ending, None, spent)
            start.code = start.end.exit_code
            runlog.run_finished(start.end, {}, spent)
        except LedgerError as failure:
            start.code = 6
            self._note("ledger", str(failure))
