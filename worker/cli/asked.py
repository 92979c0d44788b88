"""What a command line asks for, and the steps that every command which sends goes through."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from worker.cli import asking, desk
from worker.cli.desk import Common
from worker.cli.series import Office, Order, Result, carry_out, without_all, without_summary, worst
from worker.cli.signals import last_words
from worker.cli.terms import Terms
from worker.config import Limits, Settings, resolve_limits
from worker.config.limits import Ceiling
from worker.errors import CancelWorkerError, RefusedError, UsageError
from worker.model import Rehearsal, RunRecord
from worker.report.files import ReportFile, ReportSpec, open_reports, parse_report
from worker.report.summary import encode
from worker.report.text import text

#: How a refusal begins that is no error of the user's: RefusedError, NotNowError, SignalError.
WORDS = {7: "refused", 9: "not now", 130: "stopped", 143: "stopped"}


class Ask(Struct, frozen=True):
    """What the command line asks for, checked one by one where it is used."""

    common: Common
    limits: Mapping[str, str | None] = {}
    limit: int | None = None
    until: str | None = None
    reports: tuple[str, ...] = ()
    yes: bool = False
    actor: str | None = None
    as_json: bool = False
    rehearsal: Rehearsal | None = None


class Done(Struct, frozen=True):
    """How a command ended."""

    code: int
    at_once: bool = False  # another signal: leave without ceremony


def carry_out_asked(order: Order, what: str, office: Office, ask: Ask) -> Result:
    """Say where, ask, do, show; the job's lock is held."""
    asking.say_where(office, order)
    try:
        asking.confirm(what, office.signals, yes=ask.yes or order.record.rehearsal is not None)
        result = carry_out(order, office)
    except RefusedError as refusal:
        return refused(refusal)
    show(order, result, office, ask)
    return result


def refused(refusal: CancelWorkerError) -> Result:
    """Say why the run did not begin."""
    desk.say_error(refusal, WORDS[refusal.exit_code])
    return Result(refusal.exit_code, None)


def show(order: Order, result: Result, office: Office, ask: Ask) -> None:
    """The result on stdout, what goes with it on stderr."""
    missing = [*result.notes, without_summary(order, office)]
    with office.signals.showing(without_all(result.code), missing):
        _show(result, ask)


def _show(result: Result, ask: Ask) -> None:
    if result.summary is None:
        last_words(result.notes)
    elif ask.as_json:
        desk.show_bytes(encode(result.summary))
        desk.say(*result.notes)
    else:
        shown = text(result.summary, notes=result.notes, unverified=result.unverified)
        desk.show_text(shown)


def done(results: Sequence[Result]) -> Done:
    """How the command ends, from how its runs ended."""
    return Done(
        worst([result.code for result in results]),
        at_once=any(result.at_once for result in results),
    )


class _Agreed(Struct, frozen=True):
    limits: Limits
    ceiling: Ceiling


def relimited(terms: Terms, ask: Ask, settings: Settings) -> Terms:
    """The terms with the limits that flags change now, under today's ceiling."""
    limits, notes = resolve_limits(ask.limits, None, _Agreed(terms.limits, settings.ceiling))
    desk.say(*notes)
    return replace(terms, limits=limits)


def open_all_reports(
    specs: tuple[ReportSpec, ...], runs: Sequence[tuple[RunRecord, Terms]], office: Office
) -> list[tuple[ReportFile, ...]]:
    """The reports of each run, every path proven before the first run begins.

    UsageError for a report that cannot or may not be written, and for a log that is an input.
    """
    log = office.settings.log.file
    for record, terms in runs:
        for source in terms.sources:
            office.guarded.add(source.file, f"an input of job {record.job}")
    if log is not None and (what := office.guarded.find(log)):
        raise UsageError(f"log.file: {log} is {what}: give another path")
    guarded = office.guarded.copy()
    desk.guard_stream(guarded, sys.stderr, "where messages go")
    if log is not None:
        guarded.add(log, "the log")
    now_ms = office.clock.wall_ms()
    return [
        open_reports(
            specs,
            job=record.job,
            run_id=record.run_id,
            started_ms=_day_of(record, now_ms),
            guarded=guarded,
        )
        for record, _ in runs
    ]


def _day_of(record: RunRecord, now_ms: int) -> int:
    """What `{date}` is taken from: of a run that is complete its start, else now."""
    complete = record.end is not None and record.state == "finished"
    return record.started_ms or now_ms if complete else now_ms


def report_specs(texts: Sequence[str], *, several: bool) -> tuple[ReportSpec, ...]:
    """`--report`, read; UsageError when several jobs would write one file."""
    specs = tuple(parse_report(given) for given in texts)
    for spec in specs:
        if several and "{job}" not in spec.path and "{run}" not in spec.path:
            raise UsageError(
                f"--report {spec.format}={spec.path}: several jobs would write it: "
                "put {job} or {run} in the path"
            )
    return specs
