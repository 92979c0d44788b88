"""Only searching: the command verify, and the preview of a plan."""

from __future__ import annotations

import anyio
from msgspec.structs import replace

from worker.cli import asking, desk
from worker.cli.asked import Ask, check_org
from worker.cli.engine import Engine, Work
from worker.cli.lost_ledger import rescue
from worker.cli.planning import Planned
from worker.cli.series import Office, Order, content_of, real_place, without_all
from worker.cli.showing import show_verified
from worker.cli.terms import terms_of
from worker.cli.watch import Watch
from worker.errors import LedgerError
from worker.model import OutcomeKind, Stop
from worker.observe.progress import Progress
from worker.observe.runlog import RunLog
from worker.report.verdict import exit_code
from worker.run.reconcile import LookupRules
from worker.run.verify import Findings


def verify(run: str, ask: Ask) -> int:
    """Search again; 0, or 4 when something is still cached or has no outcome.

    6 when the ledger was removed, moved or replaced meanwhile, 130 or 143 after a signal.
    """
    settings = desk.settings_of(ask.common)
    settings.require_gateway().credentials()
    with desk.office(settings) as office:
        record = office.store.resolve(run)
        terms = terms_of(record)
        order = Order(record, terms, ())
        asking.say_where(office, order)
        found = look(order, office, began_ms=record.first_started_ms)
        if isinstance(found, Stop):
            stopped(found)
        findings = None if isinstance(found, Stop) else found
        lost = office.store.lost()
        if lost is not None:
            rescue(lost, office.store, content_of(order, office), office.say)
        counts = office.store.counts(record.run_id)
        open_ones = counts[OutcomeKind.NOT_ATTEMPTED] + len(office.store.in_doubt(record.run_id))
        if lost is not None:
            code = LedgerError.exit_code
        elif isinstance(found, Stop) and found.rule == "signal":
            code = 128 + found.count
        else:
            code = _code(findings, open_ones)
        missing = f"what was found was not printed: cancel-worker verify {record.run_id}"
        with office.signals.showing(without_all(code), [missing]):
            show_verified(record, findings, open_ones, code, as_json=ask.as_json)
        return code


def _code(findings: Findings | None, without_outcome: int) -> int:
    verified = findings.verified() if findings else None
    fine = verified is not None and not verified.still_cached and not without_outcome
    return 0 if fine else 4


def look(
    order: Order, office: Office, began_ms: int | None, lookup: LookupRules | None = None
) -> Findings | Stop:
    engine = Engine(office.store, office.clock, listen=office.signals.listen)
    record = order.record
    log = RunLog(office.log, office.clock, record.run_id, record.job, record.orgId)
    watch = Watch(log, Progress(0, {}, None, office.clock))
    place = real_place(order, office.settings)
    if lookup is not None:
        place = replace(place, lookup=lookup)
    work = Work(record, order.terms, ())
    return anyio.run(engine.look, work, place, watch, began_ms)


def stopped(stop: Stop) -> int:
    """Say why the searching ended early; the exit code of that."""
    desk.say(f"stopped: {stop.rule}: {stop.message}")
    return exit_code({}, stop=stop, work_left=True).code


def preview(planned: Planned, office: Office) -> Findings | Stop:
    """What is cached now for the whole list: one search a device, believed at once."""
    order = Order(planned.record, planned.terms, ())
    check_org(order, office.settings)
    asking.say_where(office, order)
    return look(order, office, began_ms=None, lookup=LookupRules(wait=0.0, tries=1))
