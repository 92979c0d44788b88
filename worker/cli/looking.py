"""The commands that send nothing: check, schema, report, simulate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec

from worker.cli import desk
from worker.cli.desk import Common
from worker.cli.planning import check_job
from worker.cli.series import summary_of
from worker.cli.signals import SIGNALS
from worker.cli.terms import terms_of
from worker.clock import SystemClock
from worker.config import config_schema
from worker.errors import InvalidInputError, UsageError
from worker.job.schema import job_schema
from worker.ledger.store import Store
from worker.model import RunRecord
from worker.observe.schema import log_schema
from worker.report.remaining import write_remaining_rows
from worker.report.restore import write_restore
from worker.report.rows import write_ndjson
from worker.report.schema import report_schema
from worker.report.summary import encode
from worker.report.table import write_csv
from worker.report.text import text
from worker.simulator.faults import PROFILES
from worker.simulator.serve import describe, serve
from worker.simulator.world import World

SCHEMA_VERSION = 1
_SCHEMAS = {
    "job": job_schema,
    "config": config_schema,
    "report": report_schema,
    "log": log_schema,
}


def check(jobs: Sequence[Path], *, as_json: bool) -> int:
    """Read every job; 0, or 2 when one of them cannot be used."""
    told = [_checked(job) for job in jobs]
    if as_json:
        desk.show_json({"schema_version": SCHEMA_VERSION, "jobs": told})
    for each in told:
        if each["error"]:
            desk.say(*f"error: {each['error']}".split("\n"))
        elif not as_json:
            desk.show(f"{each['path']}: {each['name']}, {each['scope']}, {each['rows']} rows")
        for warning in each["warnings"]:
            desk.say(f"warning: {warning}")
    return 0 if all(each["ok"] for each in told) else UsageError.exit_code


def _checked(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = {
        "path": str(path),
        "ok": False,
        "name": None,
        "scope": None,
        "orgId": None,
        "rows": None,
        "findings": [],
        "more": 0,
        "warnings": [],
        "error": None,
    }
    try:
        job, rows = check_job(path)
    except InvalidInputError as error:
        findings = [msgspec.to_builtins(finding) for finding in error.findings]
        return {**told, "findings": findings, "more": error.more, "error": str(error)}
    except UsageError as error:
        return {**told, "error": str(error)}
    found = {"ok": True, "name": job.name, "scope": job.scope, "orgId": job.orgId, "rows": rows}
    return {**told, **found, "warnings": [str(warning) for warning in job.warnings]}


def schema(of: str) -> None:
    """A JSON Schema on stdout."""
    document = {"schema_version": SCHEMA_VERSION, **_SCHEMAS[of]()}
    desk.show_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def report(run: str, form: str, common: Common) -> None:
    """One run on stdout, in one of the formats."""
    with desk.reading(common) as (store, _):
        record = store.resolve(run)
        summary = summary_of(store, record.run_id)
        if form == "text":
            why = record.end.unverified if record.end else None
            desk.show_text(text(summary, state=record.state, unverified=why))
            return
        if form == "json":
            desk.show_bytes(encode(summary))
            return
        _write_rows(record, store, form)


def _write_rows(record: RunRecord, store: Store, form: str) -> None:
    rows = store.rows(record.run_id)
    with desk.binary_stdout() as out:
        if form == "ndjson":
            write_ndjson(rows, out)
        elif form == "csv":
            write_csv(rows, out, to_terminal=desk.on_terminal())
        elif form == "restore":
            write_restore(record.run_id, rows, SystemClock().wall_ms(), out)
        else:
            write_remaining_rows(rows, terms_of(record).leftovers(), out)


def simulate(port: int, profile: str, seed: int, orgId: str) -> int:
    """Serve the simulated gateway on loopback until a signal."""
    if profile not in PROFILES:
        raise UsageError(f"--faults {profile}: there are {', '.join(PROFILES)}")
    world = World(
        SystemClock(),
        seed,
        profile=PROFILES[profile],
        access_key="simulator-access-key",
        secret_key="simulator-secret-key",  # noqa: S106 - of the simulator only
        any_device=True,
        orgs=[orgId],
    )
    try:
        anyio.run(_serve, world, port)
    except OSError as error:
        raise UsageError(f"--port {port}: {error.strerror}") from None
    return 0


async def _serve(world: World, port: int) -> None:
    over = anyio.Event()

    def end(_: int) -> bool:
        over.set()
        return True

    with SIGNALS.listen(end):
        async with serve(world, port=port) as url:
            desk.show(*describe(world, url).split("\n"))
            await over.wait()
