"""The commands that plan or send: plan, run, resume, verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import anyio
from msgspec import Struct
from msgspec.structs import replace

from worker.cli import asking, desk
from worker.cli.desk import Common
from worker.cli.engine import Engine, Work
from worker.cli.planning import Asked, Planned, check_caps, plan_job
from worker.cli.rehearsal import rehearsal
from worker.cli.series import Office, Order, Result, carry_out, real_place, summary_of, worst
from worker.cli.showing import show_plan, show_verified
from worker.cli.terms import Terms, actor, terms_of
from worker.cli.watch import Watch
from worker.config import Limits, Settings, resolve_limits
from worker.config.limits import Ceiling
from worker.errors import CancelWorkerError, NotNowError, RefusedError, UsageError
from worker.job.units import format_duration, parse_duration
from worker.ledger.store import Store
from worker.model import OutcomeKind, Rehearsal, RunRecord, Stop
from worker.observe.progress import Progress
from worker.observe.runlog import RunLog
from worker.report.files import ReportSpec, parse_report
from worker.report.summary import encode
from worker.report.text import text
from worker.report.verdict import exit_code
from worker.run.reconcile import LookupRules
from worker.run.session import Leg
from worker.run.verify import Findings

_UNCERTAIN = (OutcomeKind.UNKNOWN, OutcomeKind.CANCELLED_INCOMPLETE)
_RETRIED = {
    "failed": OutcomeKind.FAILED,
    "rejected": OutcomeKind.REJECTED,
    "not_found": OutcomeKind.NOT_FOUND,
}
#: How a refusal begins that is no error of the user's: RefusedError, NotNowError.
WORDS = {7: "refused", 9: "not now"}
_MAX_AGE = {"all_cached": 24 * 3600.0, "listed": 7 * 24 * 3600.0}  # seconds


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
    at_once: bool = False  # a second SIGINT: leave without ceremony


def rehearsal_asked(*, rehearse: bool, faults: str | None, seed: int | None) -> Rehearsal | None:
    """`--rehearse`, which `--faults` implies."""
    if not rehearse and faults is None:
        if seed is not None:
            raise UsageError("--seed is for rehearsals: give --rehearse too")
        return None
    return rehearsal(faults, seed)


def plan(job: Path, ask: Ask, *, preview: bool) -> int:
    """Freeze a list; what it holds goes to stdout."""
    settings = desk.settings_of(ask.common)
    if preview:
        settings.require_gateway().credentials()
    with desk.office(settings) as office:
        planned = _plan(job, office, ask)
        found = _preview(planned, office) if preview else None
        findings = None if isinstance(found, Stop) else found
        show_plan(planned, findings, as_json=ask.as_json)
        if isinstance(found, Stop):
            return _stopped(found)
        try:
            check_caps(planned, office.settings)
        except RefusedError as refused:
            desk.say(f"warning: a run of this plan would be refused: {refused}")
    return 0


def run(jobs: Sequence[Path], planned: str | None, ask: Ask, *, dry_run: bool) -> Done:
    """Run jobs one after another, or one frozen plan."""
    if bool(jobs) == bool(planned):
        raise UsageError("give job files, or --plan RUN")
    if dry_run:
        if planned or ask.rehearsal is not None:
            raise UsageError("--dry-run goes with job files only")
        return Done(max(plan(job, ask, preview=True) for job in jobs))
    specs = _reports(ask.reports, several=len(jobs) > 1)
    settings = desk.settings_of(ask.common)
    if ask.rehearsal is None:
        settings.require_gateway().credentials()
    temporary = ask.rehearsal is not None and ask.common.ledger is None
    with desk.office(settings, temporary=temporary) as office:
        until_ms = asking.until(ask.until, office.clock)
        if planned:
            return _done(
                _one_by_one([_planned(planned, office, ask)], specs, until_ms, office, ask)
            )
        plans = _plan_all(jobs, office, ask)
        try:
            return _done(_one_by_one(plans, specs, until_ms, office, ask))
        finally:
            _forget_unbegun(plans, office.store)


def resume(run: str, ask: Ask, *, retry: str | None, max_age: str | None) -> Done:
    """Finish a run from the ledger alone."""
    specs = _reports(ask.reports, several=False)
    kinds = _kinds(retry)
    settings = desk.settings_of(ask.common)
    settings.require_gateway().credentials()
    with desk.office(settings) as office:
        record = office.store.resolve(run)
        terms = _relimited(terms_of(record), ask, settings)
        _check_resumable(record, max_age, office)
        legs = _what_is_left(record, terms, kinds, office)
        if not legs and record.end is not None:
            desk.say(f"run {record.run_id} is complete: nothing is sent")
            result = Result(record.end.exit_code, summary_of(office.store, record.run_id))
            _show(result, ask)
            return _done([result])
        until_ms = asking.until(ask.until, office.clock)
        order = Order(record, terms, legs, specs, until_ms, resumed=True)
        left = sum(len(leg.members or ()) for leg in legs)
        unclaimed = len(office.store.unclaimed(record.run_id))
        what = f"resume run {record.run_id}: {left + unclaimed} of {record.targets} devices left"
        return _done([_carry_out(order, what, office, ask)])


def verify(run: str, ask: Ask) -> int:
    """Search again; 0, or 4 when something is still cached or has no outcome."""
    settings = desk.settings_of(ask.common)
    settings.require_gateway().credentials()
    with desk.office(settings) as office:
        record = office.store.resolve(run)
        terms = terms_of(record)
        order = Order(record, terms, ())
        asking.say_where(office, order)
        found = _look(order, office, began_ms=record.first_started_ms)
        if isinstance(found, Stop):
            _stopped(found)
        findings = None if isinstance(found, Stop) else found
        counts = office.store.counts(record.run_id)
        open_ones = counts[OutcomeKind.NOT_ATTEMPTED] + len(office.store.in_doubt(record.run_id))
        return show_verified(record, findings, open_ones, as_json=ask.as_json)


# ---------------------------------------------------------------- one run


def _one_by_one(
    plans: Sequence[Planned],
    specs: tuple[ReportSpec, ...],
    until_ms: int | None,
    office: Office,
    ask: Ask,
) -> list[Result]:
    results: list[Result] = []
    for each in plans:
        for note in each.notes:
            desk.say(note)
        legs = (Leg(1, limit=each.terms.limit),)
        order = Order(each.record, each.terms, legs, specs, until_ms)
        results.append(_one(order, each, office, ask))
        if results[-1].over:
            break
    return results


def _forget_unbegun(plans: Sequence[Planned], store: Store) -> None:
    """Refused, or never reached: nobody asked to keep the plan, and `last` must not mean it."""
    with suppress(CancelWorkerError):  # a ledger that fails has said so already
        for each in plans:
            if store.run(each.record.run_id).started_ms is None:
                store.discard(each.record.run_id)


def _one(order: Order, planned: Planned, office: Office, ask: Ask) -> Result:
    try:
        _check_org(order, office.settings)
        check_caps(planned, office.settings)
    except RefusedError as refused:
        return _refused(refused)
    asking.say_unfinished(office, order.record.job)
    what = f"cancel {planned.scope_in_words} at {order.record.gateway}"
    if planned.terms.limit is not None:
        what += f", the first {planned.terms.limit} devices only"
    return _carry_out(order, what, office, ask)


def _carry_out(order: Order, what: str, office: Office, ask: Ask) -> Result:
    """Say where, ask, do, show."""
    asking.say_where(office, order)
    try:
        asking.confirm(what, yes=ask.yes or order.record.rehearsal is not None)
        result = carry_out(order, office)
    except (RefusedError, NotNowError) as refused:
        return _refused(refused)
    _show(result, ask)
    return result


def _refused(refused: CancelWorkerError) -> Result:
    desk.say(f"{WORDS[refused.exit_code]}: {refused}")
    return Result(refused.exit_code, None)


def _show(result: Result, ask: Ask) -> None:
    if result.summary is None:
        return
    if ask.as_json:
        desk.show_bytes(encode(result.summary))
        for note in result.notes:
            desk.say(note)
    else:
        desk.show(text(result.summary, notes=result.notes))


def _done(results: Sequence[Result]) -> Done:
    return Done(
        worst([result.code for result in results]),
        at_once=any(result.at_once for result in results),
    )


def _check_org(order: Order, settings: Settings) -> None:
    if order.record.rehearsal is None:
        settings.require_gateway().check_org(order.record.orgId)


# ---------------------------------------------------------------- planning


def _plan(job: Path, office: Office, ask: Ask) -> Planned:
    asked = Asked(
        limits=ask.limits,
        limit=ask.limit,
        actor=actor(ask.actor, desk.environment()),
        rehearsal=ask.rehearsal,
    )
    return plan_job(job, office.store, office.settings, asked, office.clock)


def _plan_all(jobs: Sequence[Path], office: Office, ask: Ask) -> list[Planned]:
    """All or none: a job that cannot be read leaves no plan of the others behind."""
    plans: list[Planned] = []
    broken: list[UsageError] = []
    for job in jobs:
        try:
            plans.append(_plan(job, office, ask))
        except UsageError as error:
            broken.append(error)
    if broken:
        for made in plans:
            office.store.discard(made.record.run_id)
        raise UsageError("\n".join(map(str, broken)))
    return plans


def _planned(run: str, office: Office, ask: Ask) -> Planned:
    """What `plan` has frozen, if it has not been started and nobody changed it."""
    if Path(run).is_file():
        raise UsageError(f"--plan {run}: plan files: not supported yet; give a run_id")
    record = office.store.resolve(run)
    if record.started_ms is not None or record.rehearsal is not None:
        raise RefusedError(
            f"run {record.run_id} was started already: use `cancel-worker resume {record.run_id}`"
        )
    digest, listed = office.store.planned(record.run_id)
    if digest != record.digest:
        raise RefusedError(
            f"the list of run {record.run_id} is not the one that was planned (its digest "
            "differs): plan it anew"
        )
    terms = _relimited(terms_of(record), ask, office.settings)
    if ask.limit is not None:
        terms = replace(terms, limit=ask.limit)
    return Planned(record, terms, listed or record.targets, 0, ())


class _Agreed(Struct, frozen=True):
    limits: Limits
    ceiling: Ceiling


def _relimited(terms: Terms, ask: Ask, settings: Settings) -> Terms:
    """The terms with the limits that flags change now, under today's ceiling."""
    limits, notes = resolve_limits(ask.limits, None, _Agreed(terms.limits, settings.ceiling))
    for note in notes:
        desk.say(note)
    return replace(terms, limits=limits)


def _reports(texts: Sequence[str], *, several: bool) -> tuple[ReportSpec, ...]:
    specs = tuple(parse_report(given) for given in texts)
    for spec in specs:
        if several and "{job}" not in spec.path and "{run}" not in spec.path:
            raise UsageError(
                f"--report {spec.format}={spec.path}: several jobs would write it: "
                "put {job} or {run} in the path"
            )
    return specs


# ---------------------------------------------------------------- resuming


def _kinds(retry: str | None) -> tuple[OutcomeKind, ...]:
    names = [name.strip() for name in (retry or "").split(",") if name.strip()]
    if unknown := [name for name in names if name not in _RETRIED]:
        raise UsageError(f"--retry {unknown[0]}: write some of {','.join(_RETRIED)}")
    return tuple(_RETRIED[name] for name in names)


def _check_resumable(record: RunRecord, max_age: str | None, office: Office) -> None:
    if record.rehearsal is not None:
        raise UsageError(f"run {record.run_id} was a rehearsal: rehearse it again")
    office.settings.require_gateway().check_org(record.orgId)
    try:
        longest = parse_duration(max_age) if max_age else _MAX_AGE[record.scope]
    except ValueError as error:
        raise UsageError(f"--max-age: {error}") from None
    age = (office.clock.wall_ms() - record.planned_ms) / 1000
    if age > longest:
        raise RefusedError(
            f"run {record.run_id} was planned {age / 3600:.1f} h ago, more than "
            f"{format_duration(longest)}: other commands may be cached by now. Plan it anew, or "
            "give --max-age"
        )


def _what_is_left(
    record: RunRecord, terms: Terms, kinds: Sequence[OutcomeKind], office: Office
) -> tuple[Leg, ...]:
    """In doubt or unknown first, then what was never claimed, then what goes again."""
    store, run_id = office.store, record.run_id
    since_ms = record.first_started_ms or record.planned_ms
    next_pass = store.last_pass(run_id) + 1
    in_doubt = (doubt.ordinal for doubt in store.in_doubt(run_id))
    unsure = sorted({*in_doubt, *store.ordinals_with_outcome(run_id, _UNCERTAIN)})
    again = sorted({*chain(store.deferred(run_id), store.ordinals_with_outcome(run_id, kinds))})
    legs = []
    if unsure:
        legs.append(Leg(next_pass, tuple(unsure), in_doubt_since=since_ms))
    unclaimed = store.unclaimed(run_id)
    if unclaimed and (terms.limit is None or unclaimed.start < terms.limit):
        legs.append(Leg(1, limit=terms.limit))
    again = [ordinal for ordinal in again if ordinal not in set(unsure)]
    if again:
        legs.append(Leg(next_pass + 1, tuple(again)))
    return tuple(legs)


# ---------------------------------------------------------------- only searching


def _look(
    order: Order, office: Office, began_ms: int | None, lookup: LookupRules | None = None
) -> Findings | Stop:
    engine = Engine(office.store, office.log, office.clock)
    record = order.record
    log = RunLog(office.log, office.clock, record.run_id, record.job, record.orgId)
    watch = Watch(log, Progress(0, {}, None, office.clock))
    place = real_place(order, office.settings)
    if lookup is not None:
        place = replace(place, lookup=lookup)
    work = Work(record, order.terms, ())
    return anyio.run(engine.look, work, place, watch, began_ms)


def _stopped(stop: Stop) -> int:
    """Say why the searching ended early; the exit code of that."""
    desk.say(f"stopped: {stop.rule}: {stop.message}")
    return exit_code({}, stop=stop, work_left=True).code


def _preview(planned: Planned, office: Office) -> Findings | Stop:
    """What is cached now for the whole list: one search a device, believed at once."""
    order = Order(planned.record, planned.terms, ())
    _check_org(order, office.settings)
    asking.say_where(office, order)
    return _look(order, office, began_ms=None, lookup=LookupRules(wait=0.0, tries=1))
