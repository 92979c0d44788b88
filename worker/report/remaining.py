"""`remaining`: a job of what was not settled well, ready to run again.

Apart because it is the one report that the program reads: a YAML job, every text a JSON-quoted
scalar, and its devices in an NDJSON beside it. YAML is written by hand here; reading it is
another part's trade.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from worker.model import Listed, OutcomeKind, ReportRow, RunRecord
from worker.report.rows import Out, safely

_ALWAYS = frozenset(
    {
        OutcomeKind.UNKNOWN,
        OutcomeKind.CANCELLED_INCOMPLETE,
        OutcomeKind.ANOMALOUS,
        OutcomeKind.FAILED,
        OutcomeKind.NOT_ATTEMPTED,
    }
)
_SETTLED = frozenset({"cancelled", "not_cached"})  # of a listed command: nothing left to do


class Leftovers(Struct, frozen=True):
    """What a remaining job keeps of its origin, in the words of a job file."""

    limits: Mapping[str, int | float | str] = {}  # such as {"rate": "50/s", "deadline": "45m"}
    verify: str | None = None  # None = not written
    abort: Mapping[str, int | float | str] | str | None = None  # "off", or {"failed": "5%"}
    rejected: bool = False  # take these too
    not_found: bool = False


class _Inventory(Struct, frozen=True, omit_defaults=True):
    """A row of the NDJSON beside the job: no key that the strict loader does not know."""

    orgId: str
    assetId: str | None = None
    productKey: str | None = None
    deviceKey: str | None = None
    commandIds: tuple[str, ...] = ()


def write_remaining_rows(rows: Iterable[ReportRow], leftovers: Leftovers, out: Out) -> int:
    """The devices of the job, a line each; returns how many. 0: there is no job to write."""
    wanted = _ALWAYS
    if leftovers.rejected:
        wanted |= {OutcomeKind.REJECTED}
    if leftovers.not_found:
        wanted |= {OutcomeKind.NOT_FOUND}
    count = 0
    for row in rows:
        line = _inventory(row) if row.outcome in wanted else None
        if line is not None:
            out.write(safely(line) + b"\n")
            count += 1
    return count


def _inventory(row: ReportRow) -> _Inventory | None:
    """The row's device in one spelling, and of a listed one what is left of its commands."""
    left: tuple[str, ...] = ()
    if isinstance(row.scope, Listed):
        done = {c.command.commandId for c in row.commands if c.result in _SETTLED}
        left = tuple(text for text in row.scope.commandIds if text not in done)
        if not left:
            return None
    if row.productKey is not None and row.deviceKey is not None:
        return _Inventory(
            row.orgId, productKey=row.productKey, deviceKey=row.deviceKey, commandIds=left
        )
    return _Inventory(row.orgId, assetId=row.assetId, commandIds=left)


def remaining_job(record: RunRecord, rows_file: str, leftovers: Leftovers) -> bytes:
    """The job file. `rows_file` is the NDJSON's name in the same folder.

    No schedule, window or phases; no `min_devices` either, which the few that are left would
    fall below.
    """
    lines = [
        f"# What run {record.run_id} left, written by cancel-worker. Check it, then run it.",
        f"name: {quoted(record.job + '-remaining')}",
    ]
    if record.reason is not None:
        lines.append(f"reason: {quoted(record.reason)}")
    lines += [
        f"orgId: {quoted(record.orgId)}",
        f"scope: {record.scope}",
        "devices_from:",
        f"  - file: {quoted(rows_file)}",
    ]
    lines += _mapping("limits", {k: v for k, v in leftovers.limits.items() if k != "min_devices"})
    if leftovers.verify is not None:
        lines.append(f"verify: {leftovers.verify}")
    if isinstance(leftovers.abort, str):
        lines.append(f"abort: {leftovers.abort}")
    elif leftovers.abort is not None:
        lines += _mapping("abort", leftovers.abort)
    return ("\n".join(lines) + "\n").encode()


def _mapping(key: str, values: Mapping[str, int | float | str]) -> list[str]:
    if not values:
        return []
    return [f"{key}:", *(f"  {name}: {_scalar(value)}" for name, value in values.items())]


def _scalar(value: float | str) -> str:
    return quoted(value) if isinstance(value, str) else str(value)


def quoted(text: str) -> str:
    """A double-quoted scalar that YAML and, up to U+FFFF, JSON read as exactly this text.

    Half a surrogate pair, which neither file can hold, becomes U+FFFD.
    """
    return '"' + "".join(map(_quoted, text)) + '"'


def _quoted(character: str) -> str:
    number = ord(character)
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    if 0xD800 <= number <= 0xDFFF:
        return "\\ufffd"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
