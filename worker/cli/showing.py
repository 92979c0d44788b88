"""What plan and verify put on stdout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import asdict

from worker.cli import desk
from worker.cli.planning import Planned
from worker.job.plan import Forecast, out_of_reach
from worker.model import RunRecord
from worker.run.verify import Findings, StillCached

SCHEMA_VERSION = 1
_SHOWN = 20  # devices that are named in a text


def show_plan(
    planned: Planned,
    forecast: Forecast,
    preview: Findings | None,
    *,
    usable: bool,
    as_json: bool,
) -> None:
    """A frozen plan, and what is cached now where it was asked.

    usable: a run of it would not end at once.
    """
    record, limits = planned.record, planned.terms.limits
    if as_json:
        desk.show_json(_plan_document(planned, forecast, preview))
        return
    lines = [
        f"planned    {record.run_id} ({record.job}); nothing was cancelled",
        f"orgId      {record.orgId}",
        f"scope      {record.scope}: {planned.scope_in_words}",
        f"digest     {record.digest}",
        f"requests   {_requests(forecast)}, about {forecast.seconds:.0f} s",
    ]
    if (why := out_of_reach(limits.rate, limits.concurrency)) is not None:
        lines.append(f"           {why}")
    lines += [f"source     {s.file} ({s.rows} rows)" for s in planned.terms.sources]
    lines += planned.notes
    if preview is not None:
        lines += _preview_lines(preview)
    if usable:
        lines.append(f"run it     cancel-worker run --plan {record.run_id}")
    desk.show(*lines)


def show_verified(
    record: RunRecord,
    findings: Findings,
    without_outcome: int,
    code: int,
    *,
    as_json: bool,
) -> None:
    """What searching again showed, and the exit code that it means."""
    if as_json:
        desk.show_json(_verified_document(record, findings, without_outcome, code))
    else:
        desk.show(*_verified_lines(record, findings, without_outcome))


def _verified_document(
    record: RunRecord, findings: Findings, without_outcome: int, code: int
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": record.run_id,
        "job": record.job,
        "orgId": record.orgId,
        "verified": asdict(findings.verified()),
        "unsearched_because": findings.why,
        "without_outcome": without_outcome,
        "still_cached": [_named(each) for each in findings.still_cached],
        "exit_code": code,
    }


def _verified_lines(record: RunRecord, findings: Findings, without_outcome: int) -> Iterator[str]:
    verified, found = findings.verified(), findings.still_cached
    if verified.unsearched and not verified.targets:
        yield f"run {record.run_id}: not verified: {findings.why}"
    elif not verified.targets:
        yield f"run {record.run_id}: there was no target to search"
    else:
        yield (
            f"run {record.run_id}: {verified.targets} targets searched, "
            f"{verified.still_cached} commands older than the run are still cached, "
            f"{verified.newer} were cached since"
        )
        if verified.unsearched:
            again = f"cancel-worker verify {record.run_id}"
            yield f"{verified.unsearched} targets not searched: {findings.why}: {again}"
    yield from (f"  {_line(each)}" for each in found[:_SHOWN])
    if len(found) > _SHOWN:
        yield f"  … and {len(found) - _SHOWN} more devices (-o json has them all)"
    if without_outcome:
        yield f"{without_outcome} targets have no outcome: cancel-worker resume {record.run_id}"


def _requests(forecast: Forecast) -> str:
    if not forecast.searches:
        return str(forecast.requests)
    cancels = f"{forecast.calls} cancel, {forecast.searches} search"
    return f"{forecast.requests} at most ({cancels})"


def _plan_document(
    planned: Planned, forecast: Forecast, preview: Findings | None
) -> dict[str, Any]:
    record = planned.record
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": record.run_id,
        "job": record.job,
        "reason": record.reason,
        "orgId": record.orgId,
        "gateway": record.gateway,
        "scope": record.scope,
        "digest": record.digest,
        "targets": record.targets,
        "commands": planned.calls if record.scope == "listed" else None,
        "united": planned.united,
        "sources": [
            {"file": s.file, "sha256": s.sha256, "rows": s.rows} for s in planned.terms.sources
        ],
        "requests": forecast.requests,
        "estimate_s": round(forecast.seconds, 1),
        "notes": list(planned.notes),
        "preview": None if preview is None else _preview_document(preview),
    }


def _preview_document(preview: Findings) -> dict[str, Any]:
    return {
        "searched": preview.targets,
        "not_searched": preview.unsearched,
        "not_searched_because": preview.why,
        "not_found": preview.absent,
        "devices_with_commands": len(preview.still_cached),
        "commands": sum(len(each.commandIds) for each in preview.still_cached),
        "devices": [_named(each) for each in preview.still_cached],
    }


def _preview_lines(preview: Findings) -> list[str]:
    if preview.unsearched and not preview.targets:
        return [f"preview    not possible: {preview.why}"]
    commands = sum(len(each.commandIds) for each in preview.still_cached)
    lines = [
        (
            f"preview    {commands} commands are cached now, on {len(preview.still_cached)} of "
            f"{preview.targets} devices searched"
        )
    ]
    if preview.unsearched:
        lines.append(f"           {preview.unsearched} devices not searched: {preview.why}")
    if preview.absent:
        lines.append(f"           {preview.absent} devices do not exist for this orgId")
    lines += [f"           {_line(each)}" for each in preview.still_cached[:_SHOWN]]
    if len(preview.still_cached) > _SHOWN:
        lines.append("           … (-o json has them all)")
    return lines


def _named(found: StillCached) -> dict[str, Any]:
    device = found.target.device
    names = ("productKey", "deviceKey", "assetId")
    return {
        **{name: getattr(device, name, None) for name in names},
        "commandIds": list(found.commandIds),
    }


def _line(found: StillCached) -> str:
    named = " ".join(f"{key}={value}" for key, value in _named(found).items() if _is_text(value))
    return f"{named}: {len(found.commandIds)} commands"


def _is_text(value: object) -> bool:
    return isinstance(value, str)
