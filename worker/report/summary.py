"""The `-o json` document of a run: exactly these keys in exactly this order.

Apart from its text because scripts read it: the struct is the contract, its JSON Schema and
its encoder in one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import asdict

from worker.model import OutcomeKind, Rehearsal, RunRecord, Stop
from worker.report.rows import moment, safely

SCHEMA_VERSION = 1

_Count = Annotated[int, Meta(ge=0)]
_Moment = Annotated[str, Meta(description="RFC 3339, UTC, milliseconds")]


class RehearsalPart(Struct, frozen=True):
    """Set when nothing real was touched."""

    profile: str
    seed: int
    truth_matches: bool | None
    differences: tuple[str, ...]


class StopPart(Struct, frozen=True):
    """Why the run ended before its list did."""

    rule: str
    count: _Count
    of: _Count
    message: str


class Outcomes(Struct, frozen=True):
    """How many targets ended so; every name is there, zeros included."""

    cancelled: _Count = 0
    nothing_cached: _Count = 0
    nothing_matched: _Count = 0
    too_late: _Count = 0
    cancelled_incomplete: _Count = 0
    unknown: _Count = 0
    anomalous: _Count = 0
    not_found: _Count = 0
    rejected: _Count = 0
    failed: _Count = 0
    not_attempted: _Count = 0


class RequestsPart(Struct, frozen=True):
    """Requests to the connect service, over all starts of the run."""

    cancel: _Count
    search: _Count
    retried: _Count
    complete: Annotated[
        bool, Meta(description="false: a start was killed, and its last requests are not counted")
    ]


class VerifiedPart(Struct, frozen=True):
    """What searching again afterwards showed."""

    targets: _Count
    still_cached: Annotated[int, Meta(ge=0, description="older than the run")]
    newer: Annotated[int, Meta(ge=0, description="cached since the run began")]
    unsearched: Annotated[int, Meta(ge=0, description="targets that could not be searched")]


class Summary(Struct, frozen=True):
    """A run, summed up."""

    schema_version: int
    run_id: str
    job: str
    reason: str | None
    actor: str
    orgId: str
    gateway: str
    digest: Annotated[str, Meta(description="SHA-256 of the frozen list")]
    rehearsal: RehearsalPart | None
    started_at: Annotated[str, Meta(description="the first start")] | None
    finished_at: _Moment | None
    duration_s: Annotated[float, Meta(description="active, over all starts")] | None
    exit_code: int | None
    exit_reasons: tuple[str, ...]
    stop: StopPart | None
    targets: _Count
    outcomes: Outcomes
    commands: Annotated[int, Meta(ge=0, description="commands recorded as cancelled")]
    requests: RequestsPart
    verified: VerifiedPart | None
    log_dropped: _Count
    reports: Annotated[dict[str, str], Meta(description="path: SHA-256 of the written file")]


def document(record: RunRecord, counts: Mapping[OutcomeKind, int], commands: int) -> Summary:
    """The document of a run; of one that has not ended, what is known so far.

    `counts` of all targets, derived ones included; `commands` recorded as cancelled.
    """
    end = record.end
    verified = end.verified if end else None
    spent, begun = record.spent, record.first_started_ms is not None
    return Summary(
        schema_version=SCHEMA_VERSION,
        run_id=record.run_id,
        job=record.job,
        reason=record.reason,
        actor=record.actor,
        orgId=record.orgId,
        gateway=record.gateway,
        digest=record.digest,
        rehearsal=_rehearsal(record.rehearsal),
        started_at=moment(record.first_started_ms),
        finished_at=moment(end.finished_ms if end else None),
        duration_s=spent.active_ms / 1000 if begun else None,
        exit_code=end.exit_code if end else None,
        exit_reasons=end.exit_reasons if end else (),
        stop=_stop(end.stop if end else None),
        targets=record.targets,
        outcomes=Outcomes(**{kind.value: counts.get(kind, 0) for kind in OutcomeKind}),
        commands=commands,
        requests=RequestsPart(
            spent.requests.cancel, spent.requests.search, spent.requests.retried, spent.complete
        ),
        verified=VerifiedPart(**asdict(verified)) if verified else None,
        log_dropped=end.log_dropped if end else 0,
        reports=dict(end.reports) if end else {},
    )


def encode(summary: Summary) -> bytes:
    """The document as one line of JSON."""
    return safely(summary) + b"\n"


def _rehearsal(given: Rehearsal | None) -> RehearsalPart | None:
    if given is None:
        return None
    return RehearsalPart(given.profile, given.seed, given.truth_matches, given.differences)


def _stop(given: Stop | None) -> StopPart | None:
    if given is None:
        return None
    message = given.message
    untold = [text for text in given.request_ids if text not in message]
    if untold:
        message = f"{message} (requestId {', '.join(untold)})"
    return StopPart(given.rule, given.count, given.of, message)
