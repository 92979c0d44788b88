"""The command resume: what is left of a run, from the ledger alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from msgspec.structs import replace

from worker.cli import asking, desk, guards
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
            # The limit of the run has done its work: what is left is the rest of the plan.
            terms = replace(relimited(terms_of(record), ask, settings), limit=ask.limit)
            _check_resumable(record, max_age, office)
            guards.check(record, terms, settings)
            left = what_is_left(office.store, record, None, kinds, assume_sent=assume_sent)
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
            what = _what(order, left, office.store.unclaimed(record.run_id).start)
            return done([carry_out_asked(order, what, office, ask)])


def _what(order: Order, left: Sequence[Leg], unclaimed: int) -> str:
    """What is confirmed: how many devices are left, and how many of them are meant.

    unclaimed: the first ordinal that was never claimed.
    """
    record, limit = order.record, order.terms.limit
    count = sum(
        (leg.limit or record.targets) - unclaimed if leg.members is None else len(leg.members)
        for leg in left
    )
    what = f"resume run {record.run_id}: {count} of {record.targets} devices left"
    if limit is not None and limit < count:
        what += f", the next {limit} only"
    if order.assume_sent:
        what += ", each looked up before it is called"
    return what


def what_is_left(
    store: Store,
    record: RunRecord,
    limit: int | None,
    kinds: Sequence[OutcomeKind] = (),
    *,
    assume_sent: bool = False,
) -> tuple[Leg, ...]:
    """In doubt or unknown first, then what was never claimed, then what goes again.

    kinds are final outcomes that are sent again because somebody asks for it. limit: so many
    targets of all these; where it leaves some out, those that were claimed before come first.
    With assume_sent nothing is called before it was looked up; `Store.assume_sent` notes that
    before the run begins.
    """
    run_id = record.run_id
    since_ms = record.first_started_ms or record.planned_ms
    next_pass = store.last_pass(run_id) + (2 if assume_sent else 1)  # one holds that note
    in_doubt = (doubt.ordinal for doubt in store.in_doubt(run_id))
    unsure = {*in_doubt, *store.ordinals_with_outcome(run_id, _UNCERTAIN)}
    unclaimed = store.unclaimed(run_id)
    if assume_sent:
        unsure |= {*store.deferred(run_id), *unclaimed}
        unclaimed = range(0)
    again = {*chain(store.deferred(run_id), store.ordinals_with_outcome(run_id, kinds))} - unsure
    room = record.targets if limit is None else limit
    looked_up = tuple(sorted(unsure)[:room])
    repeated = tuple(sorted(again)[: room - len(looked_up)])
    unclaimed = unclaimed[: room - len(looked_up) - len(repeated)]
    legs = []
    if looked_up:
        legs.append(Leg(next_pass, looked_up, in_doubt_since=since_ms))
    if unclaimed:
        legs.append(Leg(1, limit=unclaimed.stop))
    if repeated:
        since = since_ms if assume_sent else None
        legs.append(Leg(next_pass + 1, repeated, in_doubt_since=since))
    return tuple(legs)


def _kinds(retry: str | None) -> tuple[OutcomeKind, ...]:
    names = [name.strip() for name in (retry or "").split(",") if name.strip()]
    if unknown := [name for name in names if name not in _RETRIED]:
        raise UsageError(f"--retry {unknown[0]}: write some of {','.join(_RETRIED)}")
    return tuple(_RETRIED[name] for name in names)


def _check_resumable(record: RunRecord, max_age: str | None, office: Office) -> None:
    guards.check_real(record)
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
