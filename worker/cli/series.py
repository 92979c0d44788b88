"""What surrounds the work on a run: confirm, lock, begin, end, report, exit code.

A series is the jobs of one command line, one after another; each has its own run, lock, reports
and exit code, and the worst code is the command's.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Sequence

import anyio
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from worker.cli.engine import Engine, Place, Work
from worker.cli.lost_ledger import rescue
from worker.cli.rehearsal import judge, rehearse
from worker.cli.signals import Signals
from worker.cli.terms import Terms
from worker.cli.watch import Watch, clocks_in_words
from worker.clock import Clock
from worker.config import Settings
from worker.errors import LedgerError, RefusedError
from worker.ledger.store import Store
from worker.model import Rehearsal, RunEnd, RunRecord, Spent, Stop
from worker.observe.log import LogSink
from worker.observe.progress import Progress
from worker.observe.runlog import RunLog
from worker.report.files import (
    Content,
    NothingLeft,
    ReportFile,
    Unwritten,
    Written,
    write_reports,
)
from worker.report.rows import safely
from worker.report.summary import Summary, document
from worker.report.verdict import exit_code
from worker.run.session import Ending, Leg
from worker.writing import Guarded

TEMPORARY = "sqlite://"  # a ledger that is gone with the process
_RECORD_LOST = LedgerError.exit_code
_SIGNAL = 128  # exit codes above it name the signal

#: Which exit code of several runs is the command's: the first of these.
_WORST = (2, 6, 5, 1, 130, 143, 7, 9, 8, 4, 3, 0)


class Office(Struct, frozen=True):
    """What every run of a command shares."""

    store: Store
    settings: Settings
    log: LogSink
    clock: Clock
    say: Callable[[str], None]  # a line to people, on stderr
    ledger_url: str
    guarded: Guarded = msgspec.field(default_factory=Guarded)  # what nothing is written over
    signals: Signals = msgspec.field(default_factory=Signals)

    @property
    def ledger_name(self) -> str:
        """Where the ledger is, for people."""
        return "temporary" if self.ledger_url == TEMPORARY else self.ledger_url


class Order(Struct, frozen=True):
    """One run to be worked off."""

    record: RunRecord
    terms: Terms
    legs: tuple[Leg, ...]
    reports: tuple[ReportFile, ...] = ()
    until_ms: int | None = None
    resumed: bool = False
    assume_sent: bool = False  # the ledger was restored: what has no outcome may have been sent


class Result(Struct, frozen=True):
    """A run that has ended, as far as it could be read back."""

    code: int
    summary: Summary | None
    notes: tuple[str, ...] = ()
    unverified: str | None = None  # why some targets, or all, were not searched again
    over: bool = False  # the series ends with it
    at_once: bool = False  # another signal: leave without ceremony


def worst(codes: Sequence[int]) -> int:
    """The exit code of a series."""
    return next((code for code in _WORST if code in codes), 0)


def without_all(code: int) -> int:
    """The exit code when a signal cut short what is written or printed.

    A run that a signal had ended itself is still told by that.
    """
    return code if code > _SIGNAL else worst([code, 1])


def ends_series(end: RunEnd) -> bool:
    """Whether the jobs that follow are not run: a signal meant all, a lost record may be again."""
    return (end.stop is not None and end.stop.rule == "signal") or end.exit_code == _RECORD_LOST


def carry_out(order: Order, office: Office) -> Result:
    """Work one run off and report; the caller holds the job's lock.

    Raises RefusedError before anything was cancelled, SignalError before the run begins.
    """
    record, clock = order.record, office.clock
    office.signals.check()
    if order.assume_sent:
        office.store.assume_sent(record.run_id)
    office.store.start(record.run_id, clock.wall_ms())
    engine = Engine(office.store, clock, listen=office.signals.listen)
    runlog = RunLog(office.log, clock, record.run_id, record.job, record.orgId)
    already = office.store.counts(record.run_id) if order.resumed else {}
    progress = Progress(record.targets, already, office.log.console, clock)
    _announce(order, runlog)
    try:
        ending, rehearsal = anyio.run(_work, order, office, engine, Watch(runlog, progress))
    except RefusedError as refused:
        _refuse(order, office, refused)
        raise
    finally:
        progress.close()
    try:
        spent = engine.spent()
        end = _conclude(order, office, ending, rehearsal, spent)
        runlog.run_finished(end, office.store.counts(record.run_id), spent)
    except LedgerError as failure:
        return _unrecorded(engine, office, failure)
    if not ending.durable:
        _dump(engine)
    if engine.hurried:
        end = _kept(office, content_of(order, office), end)
        lost = [Unwritten(file.path, "stopped", file.format) for file in order.reports]
        notes = (*_unwritten(order, office, lost), without_summary(order, office))
        return Result(end.exit_code, None, notes, over=True, at_once=True)
    return report(order, office, end)


async def _work(
    order: Order, office: Office, engine: Engine, watch: Watch
) -> tuple[Ending, Rehearsal | None]:
    """The part with an event loop: real, or against the simulator."""
    record = order.record
    work = Work(record, order.terms, order.legs, order.until_ms)
    if record.rehearsal is None:
        return await engine.work(work, real_place(order, office.settings), watch), None
    settings, concurrency = office.settings, order.terms.limits.concurrency
    stage = rehearse(record, office.store, settings, concurrency, office.clock)
    async with stage as (world, place):
        ending = await engine.work(work, place, watch)
        return ending, judge(record.rehearsal, world, office.store, record.run_id)


def real_place(order: Order, settings: Settings) -> Place:
    """The configured gateway; UsageError when it is not configured, or its keys cannot be read."""
    gateway = settings.require_gateway()
    options = gateway.options
    return Place(
        transport=gateway.transport(order.terms.limits.concurrency),
        credentials=gateway.credentials(),
        request_timeout=options.timeout.request,
        retry=settings.retry,
        lookup=settings.lookup,
        drain=settings.drain,
        by_id=options.cancel_all == "by_id",
        refused_codes=frozenset(options.refused_codes),
        rests_as=gateway.url,
    )


def _announce(order: Order, log: RunLog) -> None:
    record = order.record
    if record.targets == 0:
        log.run_empty()
    log.run_started(
        targets=record.targets,
        digest=record.digest,
        gateway=record.gateway,
        actor=record.actor,
        version=record.version,
        resumed=order.resumed,
        rehearsal=record.rehearsal.profile if record.rehearsal else None,
    )


def _refuse(order: Order, office: Office, refused: RefusedError) -> None:
    """The gateway's word, before the first cancel: the run is over and did nothing."""
    why = "the run was refused"
    end = RunEnd(office.clock.wall_ms(), refused.exit_code, (str(refused),), unverified=why)
    office.store.finish(order.record.run_id, end)


def _conclude(
    order: Order, office: Office, ending: Ending, rehearsal: Rehearsal | None, spent: Spent
) -> RunEnd:
    """The verdict, into the ledger."""
    terms, run_id = order.terms, order.record.run_id
    counts = office.store.counts(run_id)
    found = ending.findings
    lost = office.store.lost()
    stop = ending.stop or (Stop("record", lost) if lost else None)
    unverified = found.why if found else _never_verified(terms, stop)
    verdict = exit_code(
        counts,
        stop=stop,
        verified=found.verified() if found else None,
        verify_required=terms.verify_written,
        unverified=unverified,
        internal_errors=ending.internal_errors,
        record_durable=ending.durable and lost is None,
        work_left=_work_left(order, office.store),
        differences=len(rehearsal.differences) if rehearsal else 0,
    )
    end = RunEnd(
        finished_ms=office.clock.wall_ms(),
        exit_code=verdict.code,
        exit_reasons=(*verdict.reasons, *filter(None, [ending.advice])),
        stop=stop,
        verified=found.verified() if found else None,
        unverified=unverified,
        log_dropped=office.log.settle(),
    )
    office.store.finish(run_id, end, rehearsal, spent)
    return end


def _never_verified(terms: Terms, stop: Stop | None) -> str:
    """Why no verification was begun."""
    if terms.verify == "none":
        return "the job has verify: none"
    return f"the run stopped before ({stop.rule})" if stop else "an internal error came before"


def _work_left(order: Order, store: Store) -> bool:
    """Whether some of what was asked for was not attempted; what --limit leaves out was not."""
    run_id = order.record.run_id
    asked = {ordinal for leg in order.legs for ordinal in leg.members or ()}
    ends = [leg.limit or order.record.targets for leg in order.legs if leg.members is None]
    unclaimed = store.unclaimed(run_id)
    if ends and unclaimed and unclaimed.start < max(ends):
        return True
    return any(ends or ordinal in asked for ordinal in store.deferred(run_id))


def report(order: Order, office: Office, end: RunEnd) -> Result:
    """Write the report files, and note in the ledger what was written."""
    store, run_id, signals = office.store, order.record.run_id, office.signals
    content = content_of(order, office)
    results = write_reports(order.reports, content)
    written = {result.path: result.sha256 for result in results if isinstance(result, Written)}
    lost = [result for result in results if isinstance(result, Unwritten)]
    notes = _unwritten(order, office, lost)
    notes += [
        f"{result.path}: nothing remains, so no job was written"
        for result in results
        if isinstance(result, NothingLeft)
    ]
    if written or lost:
        reasons = tuple(f"report not written: {file.path}" for file in lost)
        code = end.exit_code
        if lost:
            code = without_all(code) if signals.cut else worst([code, 1])
        end = replace(
            end, reports=written, exit_code=code, exit_reasons=(*end.exit_reasons, *reasons)
        )
        store.finish(run_id, end)
    end = _kept(office, content, end)
    if signals.again:
        notes.append(without_summary(order, office))
        return Result(end.exit_code, None, tuple(notes), over=True, at_once=True)
    apart = clocks_in_words(content.record.clock_apart_ms)
    notes += [f"note: {apart}"] if apart else []
    notes += _also_touched(store, run_id)
    return Result(
        end.exit_code,
        summary_of(store, run_id),
        tuple(notes),
        unverified=end.unverified,
        over=ends_series(end),
    )


def content_of(order: Order, office: Office) -> Content:
    """What reports of a run are made of."""
    store, run_id = office.store, order.record.run_id
    return Content(
        record=store.run(run_id),
        summary=summary_of(store, run_id),
        rows=lambda: office.signals.in_time(store.rows(run_id)),
        now_ms=office.clock.wall_ms(),
        leftovers=order.terms.leftovers(),
    )


def _unwritten(order: Order, office: Office, lost: Sequence[Unwritten]) -> list[str]:
    """What happened to each report that is missing, and the command that writes it."""
    run_id = order.record.run_id
    notes = []
    for file in lost:
        note = f"report {file.path} was not written: {file.problem}"
        if office.ledger_url != TEMPORARY:
            path = shlex.quote(file.path)
            note += f": cancel-worker report {run_id} --format {file.format} > {path}"
        notes.append(note)
    return notes


def without_summary(order: Order, office: Office) -> str:
    """What stands for the summary when there is no time for it."""
    if office.ledger_url == TEMPORARY:
        return "the summary was not printed, and its ledger was temporary"
    return f"the summary was not printed: cancel-worker report {order.record.run_id}"


def _kept(office: Office, content: Content, end: RunEnd) -> RunEnd:
    """The end as it is after a last look at the ledger's place: a lost one is never a success."""
    lost = office.store.lost()
    if lost is None:
        return end
    saved = rescue(lost, office.store, content, office.say)
    reasons = end.exit_reasons if end.exit_code == _RECORD_LOST else (lost, *end.exit_reasons)
    end = replace(
        end,
        exit_code=_RECORD_LOST,
        exit_reasons=reasons,
        stop=end.stop or Stop("record", lost),
        reports={**end.reports, **saved},
    )
    office.store.finish(content.record.run_id, end)
    return end


def summary_of(store: Store, run_id: str) -> Summary:
    """The run, summed up from the ledger alone."""
    return document(store.run(run_id), store.counts(run_id), store.commands(run_id))


def _also_touched(store: Store, run_id: str) -> list[str]:
    """Devices that other runs on this ledger touched too; a job of every minute has many."""
    found = store.also_touched_by(run_id)
    notes = [
        f"{other.devices} of these devices {'was' if other.devices == 1 else 'were'} also touched "
        f"by run {other.run_id} ({other.job})"
        for other in found.runs
    ]
    if left := found.not_compared:
        runs = "1 earlier run" if left == 1 else f"{left} earlier runs"
        notes.append(f"not compared with {runs} of the last 48 h: cancel-worker find deviceKey=…")
    return notes


def _unrecorded(engine: Engine, office: Office, failure: LedgerError) -> Result:
    """The ledger does not even take the end of the run."""
    _dump(engine)
    office.say(f"error: {failure}")
    return Result(_RECORD_LOST, None, over=True)


def _dump(engine: Engine) -> None:
    """What the ledger did not take goes to stderr, one JSON line a target, as a last resort."""
    lines = [b"not in the ledger: " + safely(entry) for entry in engine.unrecorded]
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), b"".join(line + b"\n" for line in lines))
