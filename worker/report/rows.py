"""One target as reports show it, and NDJSON of it.

Apart from the other formats because `ndjson` and the rows of `json` are the same objects.
Everything here streams: a row is encoded, written and forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from worker.clock import rfc3339
from worker.model import CommandResult, OutcomeKind, Proof, ReportRow, Result
from worker.text import escaped_json


class Out(Protocol):
    """Where bytes of a report go; a buffered file."""

    def write(self, data: bytes, /) -> object: ...


class CommandLine(Struct, frozen=True):
    """One command of a target and what became of it."""

    commandId: str
    name: str | None
    type: int | None
    created_at: str | None
    requestId: str | None
    evidence: Proof | None
    result: Result
    state: int | None


class RowLine(Struct, frozen=True):
    """One target; the device as the job spells it, and last what replies named."""

    orgId: str
    productKey: str | None
    deviceKey: str | None
    assetId: str | None
    outcome: OutcomeKind
    cause: str | None
    commandIds: tuple[str, ...]
    attempts: int
    evidence: Proof | None
    http_status: int | None
    code: int | None
    message: str | None
    requestId: str | None
    duration_ms: int | None
    source: str
    commands: tuple[CommandLine, ...]
    told_productKey: str | None
    told_deviceKey: str | None
    told_assetId: str | None


def row_line(row: ReportRow) -> RowLine:
    """The row with the keys and the order that are promised."""
    return RowLine(
        row.orgId,
        row.productKey,
        row.deviceKey,
        row.assetId,
        row.outcome,
        row.cause,
        row.commandIds,
        row.attempts,
        row.evidence,
        row.http_status,
        row.code,
        row.message,
        row.requestId,
        row.duration_ms,
        row.source,
        tuple(map(_command, row.commands)),
        row.told.productKey,
        row.told.deviceKey,
        row.told.assetId,
    )


def _command(told: CommandResult) -> CommandLine:
    command = told.command
    return CommandLine(
        command.commandId,
        command.name,
        command.type,
        moment(command.created_ms),
        told.requestId,
        told.evidence,
        told.result,
        command.state,
    )


def write_ndjson(rows: Iterable[ReportRow], out: Out) -> int:
    """One JSON object a line, a line a target; returns how many."""
    count = 0
    for row in rows:
        out.write(safely(row_line(row)) + b"\n")
        count += 1
    return count


def moment(ms: int | None) -> str | None:
    """Unix milliseconds as RFC 3339; null for none and for what no calendar has."""
    if ms is None:
        return None
    try:
        return rfc3339(ms)
    except (ValueError, OverflowError, OSError):
        return None


_encode = msgspec.json.Encoder().encode


def safely(value: object) -> bytes:
    """The value as JSON that steers no viewer; half a surrogate pair stands as its escape."""
    try:
        return escaped_json(_encode(value))
    except UnicodeEncodeError:  # UTF-8 cannot write it
        return escaped_json(_encode(_whole(msgspec.to_builtins(value))))


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_whole(item) for item in value]
    return value
