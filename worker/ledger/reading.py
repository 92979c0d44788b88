"""What became of a run: rows for reports, and counts of outcomes.

Everything is derived from plan, claims and records alone. The final outcome of a target is the
record of its last pass that settles anything. A target in doubt is `unknown`, whatever an earlier
pass said, or `cancelled_incomplete` where commands were recorded; what is left is
`not_attempted`. Rows come in slices by ordinal, each a short transaction: an open reader would
keep the write-ahead log of a running run from being emptied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import BindParameter, Connection, Row, bindparam, func, select, text

from worker.ledger.doubts import in_doubt
from worker.ledger.entry import Doubt
from worker.ledger.recall import ORDINALS, RUN, chunks, commands_between, fill
from worker.ledger.settle import TARGET, Head, target_of
from worker.ledger.tables import DEFERRED, UNUSUAL, command, outcome, source, target
from worker.model import (
    UNNAMED,
    CommandResult,
    OutcomeKind,
    Proof,
    ReportRow,
    RunEnd,
    Target,
    spelled,
)

SLICE = 1_000  # targets

_ENDS = ("signal", "window", "deadline", "limit")  # rules that are a cause by themselves


class _Record(Struct, gc=False):
    """An outcome row, as a report needs it."""

    kind: str
    cause: str | None
    attempts: int
    evidence: Proof | None
    http_status: int | None
    code: int | None
    message: str | None
    requestId: str | None
    duration_ms: int
    productKey: str | None
    deviceKey: str | None
    assetId: str | None


_RECORD = [outcome.c[name] for name in _Record.__struct_fields__]

# Statements are built once: building one again costs more than running it.
_WITHIN: tuple[BindParameter[int], BindParameter[int]] = (bindparam("lo"), bindparam("hi"))
_PLANNED = (
    select(*TARGET)
    .where(target.c.run == RUN, target.c.ordinal.between(*_WITHIN))
    .order_by(target.c.ordinal)
)
_RECORDS = (
    select(outcome.c.ordinal, *_RECORD)
    .where(outcome.c.run == RUN, outcome.c.ordinal.between(*_WITHIN))
    .order_by(outcome.c.ordinal, outcome.c["pass"])
)
_later = outcome.alias("later")
_of_target = (_later.c.run == outcome.c.run, _later.c.ordinal == outcome.c.ordinal)
_settled = select(_later.c.run).where(*_of_target, _later.c.kind != DEFERRED)
_newer = _settled.where(_later.c["pass"] > outcome.c["pass"])
_finals = select(outcome.c.kind).where(
    outcome.c.run == RUN, outcome.c.kind != DEFERRED, ~_newer.exists()
)
_COUNTED = _finals.add_columns(func.count()).group_by(outcome.c.kind)
_OVERTAKEN = _finals.where(outcome.c.ordinal.in_(ORDINALS))
_cancelled_of = (command.c.run == RUN, command.c.result == "cancelled")
_COMMANDS = select(func.count()).where(*_cancelled_of)
_TOUCHED = select(command.c.ordinal).where(*_cancelled_of, command.c.ordinal.in_(ORDINALS))
_told = (
    select(command.c.run)
    .where(command.c.run == outcome.c.run, command.c.ordinal == outcome.c.ordinal)
    .where(command.c.result == "cancelled")
)
_PUT_OFF_IN_PART = (
    select(outcome.c.ordinal)
    .distinct()
    .where(outcome.c.run == RUN, outcome.c.kind == DEFERRED, text(UNUSUAL))
    .where(_told.exists(), ~_settled.exists())
)
# What was cancelled after such an outcome, by a retry that was put off, makes it less than true.
_NOTHING_EXECUTED = (OutcomeKind.FAILED, OutcomeKind.REJECTED, OutcomeKind.NOT_FOUND)
_OUTDATED = _finals.add_columns(outcome.c.ordinal).where(
    outcome.c.kind.in_([kind.value for kind in _NOTHING_EXECUTED]), text(UNUSUAL), _told.exists()
)


def head_of(connection: Connection, row: Row[Any]) -> Head:
    """The unchanging part of a run, of its row."""
    named = select(source.c.file).where(source.c.run == row.run).order_by(source.c.source)
    files = tuple(connection.execute(named).scalars())
    return Head(row.run, row.run_id, row.job, row.orgId, row.targets, files, bool(row.rehearsal))


def end_of(row: Row[Any]) -> RunEnd | None:
    """How the run of this row ended; None while it has not."""
    return msgspec.json.decode(row.end, type=RunEnd) if row.end else None


def left_cause(end: RunEnd | None) -> str | None:
    """Why targets of a run were not attempted; None while nothing has ended it."""
    if end is None:
        return None
    if end.stop is None:
        return "limit"  # nothing else leaves targets behind when a list is worked off
    return end.stop.rule if end.stop.rule in _ENDS else "aborted"


def read_slice(
    connection: Connection,
    head: Head,
    end: RunEnd | None,
    doubts: dict[int, Doubt],
    lo: int,
    hi: int,
) -> list[ReportRow]:
    """The targets from ordinal `lo` to `hi`."""
    rows = connection.execute(_PLANNED, {"run": head.number, "lo": lo, "hi": hi}).all()
    records = _records(connection, head.number, lo, hi)
    commands = commands_between(connection, head.number, lo, hi)
    left = left_cause(end)
    return [
        _row(
            each,
            records.get(each.ordinal, []),
            doubts.get(each.ordinal),
            tuple(commands.get(each.ordinal, ())),
            left,
        )
        for each in (target_of(head, row) for row in rows)
    ]


def count(connection: Connection, head: Head) -> dict[OutcomeKind, int]:
    """How many targets ended in each outcome; every name is there, the sum is all targets."""
    counts = dict.fromkeys(OutcomeKind, 0)
    of_run = {"run": head.number}
    for kind, number in connection.execute(_COUNTED, of_run):
        counts[OutcomeKind(kind)] = number
    doubtful = list(in_doubt(connection, head.number))
    in_question = set(doubtful)
    for part in chunks(doubtful):
        for kind in connection.execute(_OVERTAKEN, {**of_run, "ordinals": part}).scalars():
            counts[OutcomeKind(kind)] -= 1
    touched = _cancelled(connection, head.number, doubtful)
    counts[OutcomeKind.UNKNOWN] += len(doubtful) - len(touched)
    counts[OutcomeKind.CANCELLED_INCOMPLETE] += len(touched)
    counts[OutcomeKind.CANCELLED_INCOMPLETE] += _put_off_in_part(
        connection, head.number, in_question
    )
    for kind, ordinal in connection.execute(_OUTDATED, of_run):
        if ordinal not in in_question:
            counts[OutcomeKind(kind)] -= 1
            counts[OutcomeKind.CANCELLED_INCOMPLETE] += 1
    counts[OutcomeKind.NOT_ATTEMPTED] += head.targets - sum(counts.values())
    return counts


def count_commands(connection: Connection, head: Head) -> int:
    """How many commands are recorded as cancelled."""
    return int(connection.execute(_COMMANDS, {"run": head.number}).scalar() or 0)


def _records(connection: Connection, run: int, lo: int, hi: int) -> dict[int, list[_Record]]:
    """Outcome records by ordinal, the last pass last."""
    found: dict[int, list[_Record]] = {}
    for ordinal, *record in connection.execute(_RECORDS, {"run": run, "lo": lo, "hi": hi}):
        found.setdefault(ordinal, []).append(_Record(*record))
    return found


def _cancelled(connection: Connection, run: int, ordinals: Sequence[int]) -> set[int]:
    """Those of the targets of which a cancelled command is recorded."""
    found: set[int] = set()
    for part in chunks(ordinals):
        found.update(connection.execute(_TOUCHED, {"run": run, "ordinals": part}).scalars())
    return found


def _put_off_in_part(connection: Connection, run: int, doubtful: set[int]) -> int:
    """How many targets were put off and never settled after something of them was cancelled."""
    found = connection.execute(_PUT_OFF_IN_PART, {"run": run}).scalars()
    return len(set(found) - doubtful)


def _row(
    planned: Target,
    records: list[_Record],
    doubt: Doubt | None,
    commands: tuple[CommandResult, ...],
    left: str | None,
) -> ReportRow:
    final = next((record for record in reversed(records) if record.kind != DEFERRED), None)
    told = None if doubt else final
    in_part = any(result.result == "cancelled" for result in commands)
    kind, cause = _judge(told, doubt, left, in_part=in_part)
    last = told or (records[-1] if records else None)
    named = spelled(planned.device)
    return ReportRow(
        ordinal=planned.ordinal,
        orgId=planned.orgId,
        productKey=named.productKey,
        deviceKey=named.deviceKey,
        assetId=named.assetId,
        outcome=kind,
        cause=cause,
        attempts=last.attempts if last else doubt.mark.attempts if doubt and doubt.mark else 0,
        evidence=told.evidence if told else None,
        http_status=told.http_status if told else None,
        code=told.code if told else None,
        message=told.message if told else None,
        requestId=told.requestId if told else None,
        duration_ms=told.duration_ms if told else None,
        source=planned.source,
        scope=planned.scope,
        commands=commands,
        told=fill(UNNAMED, *records, *(result.command for result in commands)),
    )


def _judge(
    told: _Record | None, doubt: Doubt | None, left: str | None, *, in_part: bool
) -> tuple[OutcomeKind, str | None]:
    if doubt:
        kind = OutcomeKind.CANCELLED_INCOMPLETE if in_part else OutcomeKind.UNKNOWN
        return kind, doubt.mark.cause if doubt.mark else "crashed"
    if told:
        kind = OutcomeKind(told.kind)
        outdated = in_part and kind in _NOTHING_EXECUTED
        return OutcomeKind.CANCELLED_INCOMPLETE if outdated else kind, told.cause
    return OutcomeKind.CANCELLED_INCOMPLETE if in_part else OutcomeKind.NOT_ATTEMPTED, left
