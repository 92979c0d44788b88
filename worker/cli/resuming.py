"""The command resume: what is left of a run, from the ledger alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from worker.cli import asking, desk
from worker.cli.asked import (
    Ask,
    Done,
    carry_out_asked,
    done,
    open_all_reports,
    relimited,
    report_specs,
    show,
)
from worker.cli.series import Office, Order, report
from worker.cli.terms import terms_of
from worker.errors import RefusedError, UsageError
from worker.job.units import format_duration, parse_duration
from worker.ledger.lock import job_lock
from worker.ledger.store import Store
from worker.model import OutcomeKind, RunRecord
from worker.run.session import Leg

_UNCERTAIN = (OutcomeKind.UNKNOWN, OutcomeKind.CANCELLED_INCOMPLETE)
_RETRIED = {
    "failed": OutcomeKind.FAILED,
    "rejected": OutcomeKind.REJECTED,
    "not_found": OutcomeKind.NOT_FOUND,
}
_MAX_AGE = {"all_cached": 24 * 3600.0, "listed": 7 * 24 * 3600.0}  # seconds


def resume(
    run: str, ask: Ask, *, retry: str | None, max_age: str | None, assume_sent: bool
) -> Done:
    """Finish a run from the ledger alone.

    assume_sent: the ledger is older than the last requests, as after a restore.
    """
    specs = report_specs(ask.reports, several=False)
    kinds = _kinds(retry)
    settings = desk.settings_of(ask.common)
    settings.require_gateway().credentials()
    with desk.office(settings) as office:
        record = office.store.resolve(run)
        with job_lock(office.ledger_url, record.job, record.run_id):
            record = office.store.run(record.run_id)  # as it is now that nobody works on it
            terms = relimited(terms_of(record), ask, settings)
            _check_resumable(record, max_age, office)
            legs = what_is_left(office.store, record, terms.limit, kinds, assume_sent=assume_sent)
            until_ms = asking.until(ask.until, office.clock)
            [files] = open_all_reports(specs, [(record, terms)], office)
            order = Order(
                record, terms, legs, files, until_ms, resumed=True, assume_sent=assume_sent
            )
            if not legs and record.end is not None:
                desk.say(f"run {record.run_id} is complete: nothing is sent")
                result = report(order, office, record.end)
                show(order, result, office, ask)
                return done([result])
            left = sum(len(leg.members or ()) for leg in legs)
            left += 0 if assume_sent else len(office.store.unclaimed(record.run_id))
            what = f"resume run {record.run_id}: {left} of {record.targets} devices left"
            if assume_sent:
                what += ", each looked up before it is called"
            return done([carry_out_asked(order, what, office, ask)])


def what_is_left(
    store: Store,
    record: RunRecord,
    limit: int | None,
    kinds: Sequence[OutcomeKind] = (),
    *,
    assume_sent: bool = False,
) -> tuple[Leg, ...]:
    """In doubt or unknown first, then what was never claimed, then what goes again.

    kinds are final outcomes that are sent again because somebody asks for it. With assume_sent
    nothing is called before it was looked up; `Store.assume_sent` notes that before the run begins.
    """
    run_id = record.run_id
    since_ms = record.first_started_ms or record.planned_ms
    next_pass = store.last_pass(run_id) + (2 if assume_sent else 1)  # one holds that note
    in_doubt = (doubt.ordinal for doubt in store.in_doubt(run_id))
    unsure = {*in_doubt, *store.ordinals_with_outcome(run_id, _UNCERTAIN)}
    unclaimed = store.unclaimed(run_id)
    if limit is not None:
        unclaimed = unclaimed[: max(0, limit - unclaimed.start)]
    if assume_sent:
        unsure |= {*store.deferred(run_id), *unclaimed}
    again = {*chain(store.deferred(run_id), store.ordinals_with_outcome(run_id, kinds))} - unsure
    legs = []
    if unsure:
        legs.append(Leg(next_pass, tuple(sorted(unsure)), in_doubt_since=since_ms))
    if unclaimed and not assume_sent:
        legs.append(Leg(1, limit=limit))
    if again:
        since = since_ms if assume_sent else None
        legs.append(Leg(next_pass + 1, tuple(sorted(again)), in_doubt_since=since))
    return tuple(legs)


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
