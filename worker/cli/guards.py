"""What a person decides before a run sends anything: `run`, `run --plan` and `resume` ask alike."""

from __future__ import annotations

from worker.cli.terms import Terms
from worker.config import Settings
from worker.errors import RefusedError, UsageError
from worker.model import RunRecord


def check(record: RunRecord, terms: Terms, settings: Settings) -> None:
    """RefusedError for an organization or a length of the list that is not allowed."""
    check_org(record, settings)
    check_caps(record, terms, settings)


def check_org(record: RunRecord, settings: Settings) -> None:
    """RefusedError when the configuration forbids the run's organization."""
    if record.rehearsal is None:
        settings.require_gateway().check_org(record.orgId)


def check_caps(record: RunRecord, terms: Terms, settings: Settings) -> None:
    """RefusedError when the list is longer than max_devices or shorter than min_devices."""
    limits, count = terms.limits, record.targets
    if count > limits.max_devices:
        ceiling = settings.ceiling.max_devices
        bound = ceiling is not None and count > ceiling
        remedy = "raise limits.max_devices in the job or give --max-devices"
        if record.started_ms is not None:  # the job is not read again
            remedy = "give --max-devices"
        if bound:
            allowed = f"no more than {ceiling} (ceiling.max_devices)"
            remedy = f"the configuration allows {allowed}: split the list"
        raise RefusedError(
            f"{record.job}: the list has {count} devices, max_devices is "
            f"{limits.max_devices}: nothing was sent. If the list is right, {remedy}"
        )
    if limits.min_devices is not None and count < limits.min_devices:
        raise RefusedError(
            f"{record.job}: the list has {count} devices, min_devices is "
            f"{limits.min_devices}: nothing was sent. Is the inventory complete?"
        )


def check_real(record: RunRecord) -> None:
    """UsageError for a rehearsal: the gateway knows nothing of its devices."""
    if record.rehearsal is not None:
        raise UsageError(f"run {record.run_id} was a rehearsal: rehearse it again")
