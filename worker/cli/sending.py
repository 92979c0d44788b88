"""The commands plan and run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from worker.cli import asking, desk, guards
from worker.cli.asked import (
    Ask,
    Done,
    carry_out_asked,
    done,
    open_all_reports,
    refused,
    relimited,
    report_specs,
)
from worker.cli.planning import Asked, Planned, plan_job
from worker.cli.rehearsal import rehearsal
from worker.cli.searching import judge_preview, preview
from worker.cli.series import Office, Order, Result, without_all
from worker.cli.showing import show_plan
from worker.cli.terms import actor, terms_of
from worker.errors import (
    CancelWorkerError,
    LedgerError,
    NotNowError,
    RefusedError,
    SignalError,
    UsageError,
)
from worker.ledger.lock import job_lock
from worker.ledger.store import Store
from worker.model import Rehearsal, RunRecord
from worker.report.files import ReportSpec
from worker.run.session import Leg


def rehearsal_asked(*, rehearse: bool, faults: str | None, seed: int | None) -> Rehearsal | None:
    """`--rehearse`, which `--faults` implies."""
    if not rehearse and faults is None:
        if seed is not None:
            raise UsageError("--seed is for rehearsals: give --rehearse too")
        return None
    return rehearsal(faults, seed)


def plan(job: Path, ask: Ask, *, with_preview: bool) -> int:
    """Freeze a list; what it holds goes to stdout."""
    settings = desk.settings_of(ask.common)
    if with_preview:
        settings.require_gateway().credentials()
    with desk.office(settings) as office:
        planned = _plan(job, office, ask)
        found = preview(planned, office) if with_preview else None
        if lost := office.store.lost():
            raise LedgerError(f"{lost}: the plan went with it, plan again")
        code = judge_preview(found, planned.record.orgId) if found else 0
        missing = f"the plan was not printed: cancel-worker report {planned.record.run_id}"
        with office.signals.showing(without_all(code), [missing]):
            forecast = planned.forecast(settings, asking.resting(office))
            show_plan(planned, forecast, found, usable=not code, as_json=ask.as_json)
            if not code:
                _warn_of_caps(planned, office)
    return code


def _warn_of_caps(planned: Planned, office: Office) -> None:
    try:
        guards.check_caps(planned.record, planned.terms, office.settings)
    except RefusedError as refusal:
        desk.say(f"warning: a run of this plan would be refused: {refusal}")


def run(jobs: Sequence[Path], planned: str | None, ask: Ask, *, dry_run: bool) -> Done:
    """Run jobs one after another, or one frozen plan."""
    if bool(jobs) == bool(planned):
        raise UsageError("give job files, or --plan RUN")
    if dry_run:
        if planned or ask.rehearsal is not None:
            raise UsageError("--dry-run goes with job files only")
        return Done(max(plan(job, ask, with_preview=True) for job in jobs))
    specs = report_specs(ask.reports, several=len(jobs) > 1)
    settings = desk.settings_of(ask.common)
    if ask.rehearsal is None:
        settings.require_gateway().credentials()
    temporary = ask.rehearsal is not None and ask.common.ledger is None
    with desk.office(settings, temporary=temporary) as office:
        until_ms = asking.until(ask.until, office.clock)
        if planned:
            frozen = _planned(planned, office, ask)
            return done(_one_by_one([frozen], specs, until_ms, office, ask))
        plans = _plan_all(jobs, office, ask)
        try:
            return done(_one_by_one(plans, specs, until_ms, office, ask))
        finally:
            _forget_unbegun(plans, office.store)


def _one_by_one(
    plans: Sequence[Planned],
    specs: tuple[ReportSpec, ...],
    until_ms: int | None,
    office: Office,
    ask: Ask,
) -> list[Result]:
    results: list[Result] = []
    reports = open_all_reports(specs, [(each.record, each.terms) for each in plans], office)
    for each, files in zip(plans, reports, strict=True):
        desk.say(*each.notes)
        legs = (Leg(1, limit=each.terms.limit),)
        order = Order(each.record, each.terms, legs, files, until_ms)
        try:
            results.append(_one(order, each, office, ask))
        except SignalError as stopped_by:
            desk.say_error(stopped_by, f"stopped before job {each.record.job}")
            results.append(Result(stopped_by.exit_code, None, over=True))
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
    record = order.record
    try:
        guards.check(record, order.terms, office.settings)
        asking.say_unfinished(office, record.job)
        with job_lock(office.ledger_url, record.job, record.run_id):
            if office.store.run(record.run_id).started_ms is not None:
                raise _started(record)
            return carry_out_asked(order, _what(planned), office, ask)
    except (RefusedError, NotNowError) as refusal:
        return refused(refusal)


def _what(planned: Planned) -> str:
    what = f"cancel {planned.scope_in_words} at {planned.record.gateway}"
    if planned.terms.limit is None:
        return what
    return f"{what}, the first {planned.terms.limit} devices only"


def _started(record: RunRecord) -> RefusedError:
    return RefusedError(
        f"run {record.run_id} was started already: use `cancel-worker resume {record.run_id}`"
    )


def _plan(job: Path, office: Office, ask: Ask) -> Planned:
    asked = Asked(
        limits=ask.limits,
        limit=ask.limit,
        actor=actor(ask.actor, desk.environment()),
        rehearsal=ask.rehearsal,
    )
    return plan_job(job, office, asked)


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
    record = office.store.resolve(run, plan=True)
    if record.started_ms is not None or record.rehearsal is not None:
        raise _started(record)
    digest, listed = office.store.planned(record.run_id)
    if digest != record.digest:
        raise RefusedError(
            f"the list of run {record.run_id} is not the one that was planned (its digest "
            "differs): plan it anew"
        )
    terms = relimited(terms_of(record), ask, office.settings)
    if ask.limit is not None:
        terms = replace(terms, limit=ask.limit)
    return Planned(record, terms, listed or record.targets, 0, ())
