"""Only searching: the command verify, and the preview of a plan."""

from __future__ import annotations

import anyio
from msgspec.structs import replace

from worker.cli import asking, desk, guards
from worker.cli.asked import Ask
from worker.cli.engine import Engine, Work
from worker.cli.lost_ledger import rescue
from worker.cli.planning import Planned
from worker.cli.series import Office, Order, content_of, real_place, without_all
from worker.cli.showing import show_verified
from worker.cli.terms import terms_of
from worker.cli.watch import Watch
from worker.errors import LedgerError, RefusedError
from worker.model import OutcomeKind, Stop
from worker.observe.progress import Progress
from worker.observe.runlog import RunLog
from worker.report.verdict import exit_code
from worker.run.reconcile import LookupRules
from worker.run.safety import NOT_FOUND, none_found
from worker.run.verify import Findings
from worker.run.words import advice, requested

_STOPPED = 5  # for safety


def verify(run: str, ask: Ask) -> int:
    """Search again; 0, or 4 when something is still cached or has no outcome.

    6 when the ledger was removed, moved or replaced meanwhile, 130 or 143 after a signal.
    """
    settings = desk.settings_of(ask.common)
    settings.require_gateway().credentials()
    with desk.office(settings) as office:
        record = office.store.resolve(run)
        guards.check_real(record)
        guards.check_org(record, settings)
        terms = terms_of(record)
        order = Order(record, terms, ())
        asking.say_where(office, order)
        found = look(order, office, began_ms=record.first_started_ms)
        if found.stop is not None:
            _say_stop(found.stop)
        lost = office.store.lost()
        if lost is not None:
            rescue(lost, office.store, content_of(order, office), office.say)
        counts = office.store.counts(record.run_id)
        open_ones = counts[OutcomeKind.NOT_ATTEMPTED] + len(office.store.in_doubt(record.run_id))
        if lost is not None:
            code = LedgerError.exit_code
        elif found.stop is not None and found.stop.rule == "signal":
            code = 128 + found.stop.count
        else:
            code = _code(found, open_ones)
        missing = f"what was found was not printed: cancel-worker verify {record.run_id}"
        with office.signals.showing(without_all(code), [missing]):
            show_verified(record, found, open_ones, code, as_json=ask.as_json)
        return code


def _code(found: Findings, without_outcome: int) -> int:
    verified = found.verified()
    in_doubt = verified.still_cached or verified.unsearched or found.stop or without_outcome
    return 4 if in_doubt else 0


def look(
    order: Order, office: Office, began_ms: int | None, lookup: LookupRules | None = None
) -> Findings:
    engine = Engine(office.store, office.clock, listen=office.signals.listen)
    record = order.record
    log = RunLog(office.log, office.clock, record.run_id, record.job, record.orgId)
    watch = Watch(log, Progress(0, {}, None, office.clock))
    place = real_place(order, office.settings)
    if lookup is not None:
        place = replace(place, lookup=lookup)
    work = Work(record, order.terms, ())
    return anyio.run(engine.look, work, place, watch, began_ms)


def _say_stop(stop: Stop) -> None:
    """Why the searching ended early."""
    desk.say(f"stopped: {stop.rule}: {stop.message}")


def preview(planned: Planned, office: Office) -> Findings:
    """What is cached now for the whole list: one search a device, believed at once."""
    order = Order(planned.record, planned.terms, ())
    guards.check_org(planned.record, office.settings)
    asking.say_where(office, order)
    return look(order, office, began_ms=None, lookup=LookupRules(wait=0.0, tries=1))


def judge_preview(found: Findings, orgId: str) -> int:
    """The exit code of a preview; one that could not look ends as a run would, and says why."""
    if found.stop is not None:
        _say_stop(found.stop)
        return exit_code({}, stop=found.stop, work_left=True).code
    if found.absent >= NOT_FOUND and found.absent == found.targets + found.unsearched:
        desk.say(f"stopped: {none_found(found.absent, orgId)}")
        return _STOPPED
    if found.targets or not found.unsearched:
        return 0
    if found.refused is None:
        desk.say(f"stopped: the preview was not possible: {found.why}")
        return _STOPPED
    why = f"{found.why}{requested(found.refused)}. {advice(found.refused, orgId)}"
    desk.say(f"refused: the preview was not possible: {why}")
    return RefusedError.exit_code
