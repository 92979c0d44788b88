"""From a job file to a frozen run: read, check, resolve the limits, write the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from worker import __version__
from worker.cli.series import Office
from worker.cli.terms import Terms, agree
from worker.config import Settings, resolve_limits
from worker.errors import CancelWorkerError
from worker.job.plan import Forecast, Repeat, Row, forecast, read_job
from worker.job.schema import Job
from worker.ledger.draft import Draft
from worker.ledger.entry import Frozen, NewRun
from worker.ledger.store import Store
from worker.model import Rehearsal, RunRecord


class Asked(Struct, frozen=True):
    """What the command line says about a plan."""

    limits: Mapping[str, str | None] = {}  # text of --rate, --concurrency, --max-devices
    limit: int | None = None
    actor: str = ""
    rehearsal: Rehearsal | None = None


class Planned(Struct, frozen=True):
    """A run that is frozen and has not begun."""

    record: RunRecord
    terms: Terms
    calls: int  # cancel calls, if none is repeated
    united: int  # devices that stand in several sources
    notes: tuple[str, ...]  # for people

    def forecast(self, settings: Settings, resting: float) -> Forecast:
        """Requests and seconds, if all goes well; resting: seconds that the gateway asked for."""
        limits, count = self.terms.limits, self.record.targets
        verifies = self.terms.verify != "none"
        return forecast(
            count,
            self.calls,
            min(self.terms.limit or count, count) if verifies else 0,
            rate=limits.rate,
            concurrency=limits.concurrency,
            waits=resting + (settings.lookup.wait if verifies and count else 0.0),
        )

    @property
    def scope_in_words(self) -> str:
        """What will be cancelled, for people."""
        count = self.record.targets
        devices = f"{count} device{'' if count == 1 else 's'}"
        if self.record.scope == "listed":
            return f"{self.calls} listed command{'' if self.calls == 1 else 's'} of {devices}"
        return f"every cached command of {devices}"


def check_job(path: Path) -> tuple[Job, int]:
    """Read a job against a throw-away ledger; the job and how many rows it names."""
    store = Store.open("sqlite://")
    try:
        with store.draft() as draft:
            job = read_job(path, _Sheet(draft, lambda: None))
    finally:
        store.close()
    return job, sum(source.rows for source in job.sources)


def plan_job(path: Path, office: Office, asked: Asked) -> Planned:
    """Read the job and freeze its list in the ledger.

    Raises InvalidInputError with the findings, SignalError after a signal; nothing is written
    then.
    """
    signals = office.signals
    try:
        planned = _plan_job(path, office, asked)
    except CancelWorkerError:
        signals.check()  # which ended what went wrong
        raise
    if signals.received():
        office.store.discard(planned.record.run_id)
        signals.check()
    return planned


def _plan_job(path: Path, office: Office, asked: Asked) -> Planned:
    store, settings, clock = office.store, office.settings, office.clock
    with store.draft(office.signals.received) as draft:
        job = read_job(path, _Sheet(draft, office.signals.check))
        limits, notes = resolve_limits(asked.limits, job.limits, settings)
        terms = agree(job, limits, asked.limit, settings.public())
        new = NewRun(
            run_id=clock.new_run_id(),
            job=job.name,
            reason=job.reason,
            actor=asked.actor,
            orgId=job.orgId,
            gateway=_gateway_name(settings, asked.rehearsal),
            scope=job.scope,
            version=__version__,
            planned_ms=clock.wall_ms(),
            settings=terms.encode(),
            rehearsal=asked.rehearsal,
        )
        frozen = store.freeze(draft, new, [source.file for source in job.sources])
    return Planned(
        record=store.run(new.run_id),
        terms=terms,
        calls=_calls(job, frozen, asked.limit),
        united=frozen.united,
        notes=(*notes, *_warnings(job), *_united(frozen)),
    )


class _Sheet:
    """A ledger's draft as the job reader knows it."""

    def __init__(self, draft: Draft, check: Callable[[], None]) -> None:
        """`check` raises when the reading has to end."""
        self._draft = draft
        self._check = check

    def add(self, rows: Sequence[Row]) -> None:
        self._check()
        self._draft.add(rows)

    def repeats(self, limit: int) -> list[Repeat]:
        found = self._draft.repeats(limit)
        return [Repeat(Row(*first), Row(*again)) for first, again in found]


def _gateway_name(settings: Settings, rehearsal: Rehearsal | None) -> str:
    if rehearsal is not None:
        return "simulator"
    if settings.gateway is None:
        return "none"
    return f"{settings.gateway.name} {settings.gateway.url}"


def _calls(job: Job, frozen: Frozen, limit: int | None) -> int:
    if job.scope == "listed":
        return frozen.commands
    return frozen.targets if limit is None else min(limit, frozen.targets)


def _warnings(job: Job) -> Sequence[str]:
    more = [f"… and {job.more_warnings} more warnings"] if job.more_warnings > 0 else []
    return [*(f"warning: {finding}" for finding in job.warnings), *more]


def _united(frozen: Frozen) -> Sequence[str]:
    if not frozen.united:
        return []
    return [f"{frozen.united} devices are named by more than one source; each is called once"]
