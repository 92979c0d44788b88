"""`restore`: every cancelled command with what is needed to issue it again.

Apart from the rows because it is about commands, not targets, and because it alone carries
inputData. This program never issues a command itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Raw, Struct

from worker.model import Command, ReportRow
from worker.report.rows import Out, moment, safely

SCHEMA_VERSION = 1
_NULL = Raw(b"null")


class RestoreLine(Struct, frozen=True):
    """One cancelled command; `remaining_ttl` in seconds, null where no ttl is known.

    productKey, deviceKey and assetId are the job's; what the reply named comes last.
    """

    schema_version: int
    orgId: str
    productKey: str | None
    deviceKey: str | None
    assetId: str | None
    commandId: str
    name: str | None
    type: int | None
    tslIdentifier: str | None
    inputData: Raw | str
    timeout: int | None
    pendingTtl: int | None
    remaining_ttl: int | None
    created_at: str | None
    cancelled_by: str  # run id
    told_productKey: str | None
    told_deviceKey: str | None
    told_assetId: str | None


def write_restore(run_id: str, rows: Iterable[ReportRow], now_ms: int, out: Out) -> int:
    """One cancelled command a line; returns how many. `now_ms`: the gateway's clock, if known.

    A command that was cancelled under another device's name stands under that name.
    """
    count = 0
    for row in rows:
        for told in row.commands:
            if told.result == "cancelled":
                out.write(safely(_line(run_id, row, told.command, now_ms)) + b"\n")
                count += 1
    return count


def _line(run_id: str, row: ReportRow, command: Command, now_ms: int) -> RestoreLine:
    productKey, deviceKey, assetId = _named(row, command)
    return RestoreLine(
        schema_version=SCHEMA_VERSION,
        orgId=command.orgId or row.orgId,
        productKey=productKey,
        deviceKey=deviceKey,
        assetId=assetId,
        commandId=command.commandId,
        name=command.name,
        type=command.type,
        tslIdentifier=command.tslIdentifier,
        inputData=_raw(command.inputData),
        timeout=command.timeout,
        pendingTtl=command.pendingTtl,
        remaining_ttl=_remaining(command, now_ms),
        created_at=moment(command.created_ms),
        cancelled_by=run_id,
        told_productKey=command.productKey,
        told_deviceKey=command.deviceKey,
        told_assetId=command.assetId,
    )


def _named(row: ReportRow, command: Command) -> tuple[str | None, str | None, str | None]:
    """As the job spells the device; a command of provably another device as the reply named it."""
    told = (command.productKey, command.deviceKey, command.assetId)
    known = (row.productKey, row.deviceKey, row.assetId)
    if any(None not in pair and pair[0] != pair[1] for pair in zip(told, known, strict=True)):
        return told
    return known


def _remaining(command: Command, now_ms: int) -> int | None:
    if command.pendingTtl is None or command.created_ms is None:
        return None
    age_s = max(0, now_ms - command.created_ms) / 1000
    return max(0, int(command.pendingTtl - age_s))


def _raw(data: bytes | None) -> Raw | str:
    """JSON as it was received, on one line; bytes that are no JSON as text, never lost."""
    if data is None:
        return _NULL
    try:
        data.decode()
        return Raw(msgspec.json.format(data, indent=-1))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return data.decode("utf-8", "backslashreplace")
