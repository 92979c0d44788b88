"""What plan and verify put on stdout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import asdict

from worker.cli import desk
from worker.cli.planning import Planned
from worker.model import RunRecord
from worker.run.verify import Findings, StillCached

SCHEMA_VERSION = 1
_SHOWN = 20  # devices that are named in a text


def show_plan(planned: Planned, preview: Findings | None, *, as_json: bool) -> None:
    """A frozen plan, and what is cached now where it was asked."""
    record, forecast = planned.record, planned.forecast
    if as_json:
        desk.show_json(_plan_document(planned, preview))
        return
    lines = [
        f"planned    {record.run_id} ({record.job}); nothing was cancelled",
        f"orgId      {record.orgId}",
        f"scope      {record.scope}: {planned.scope_in_words}",
        f"digest     {record.digest}",
        f"requests   {forecast.requests}, about {forecast.seconds:.0f} s",
    ]
    lines += [f"source     {s.file} ({s.rows} rows)" for s in planned.terms.sources]
    lines += planned.notes
    if preview is not None:
        lines += _preview_lines(preview)
    lines.append(f"run it     cancel-worker run --plan {record.run_id}")
    desk.show(*lines)


def show_verified(
    record: RunRecord,
    findings: Findings | None,
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
    record: RunRecord, findings: Findings | None, without_outcome: int, code: int
) -> dict[str, Any]:
    verified = findings.verified() if findings else None
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": record.run_id,
        "job": record.job,
        "orgId": record.orgId,
        "verified": None if verified is None else asdict(verified),
        "without_outcome": without_outcome,
        "still_cached": [_named(each) for each in findings.still_cached] if findings else [],
        "exit_code": code,
    }


def _verified_lines(
    record: RunRecord, findings: Findings | None, without_outcome: int
) -> Iterator[str]:
    verified = findings.verified() if findings else None
    found = findings.still_cached if findings else []
    if verified is None:
        yield f"run {record.run_id}: not verified{_why(findings)}"
        if found:
            yield "still cached, as far as searches were answered:"
    else:
        yield (
            f"run {record.run_id}: {verified.targets} targets searched, "
            f"{verified.still_cached} commands older than the run are still cached, "
            f"{verified.newer} were cached since"
        )
    yield from (f"  {_line(each)}" for each in found[:_SHOWN])
    if len(found) > _SHOWN:
        yield f"  … and {len(found) - _SHOWN} more devices (-o json has them all)"
    if without_outcome:
        yield f"{without_outcome} targets have no outcome: cancel-worker resume {record.run_id}"


def _plan_document(planned: Planned, preview: Findings | None) -> dict[str, Any]:
    record, forecast = planned.record, planned.forecast
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
        "denied": preview.denied,
        "devices_with_commands": len(preview.still_cached),
        "commands": sum(len(each.commandIds) for each in preview.still_cached),
        "devices": [_named(each) for each in preview.still_cached],
    }


def _preview_lines(preview: Findings) -> list[str]:
    if preview.denied:
        return ["preview    the gateway refuses this key a search"]
    commands = sum(len(each.commandIds) for each in preview.still_cached)
    lines = [
        (
            f"preview    {commands} commands are cached now, on {len(preview.still_cached)} of "
            f"{preview.targets} devices searched"
        )
    ]
    if preview.unsearched:
        lines.append(f"           {preview.unsearched} devices could not be searched")
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


def _why(findings: Findings | None) -> str:
    if findings is None:
        return ": stopped before the end"
    if findings.denied:
        return ": the gateway refuses this key a search"
    return f": {findings.unsearched} searches failed"
