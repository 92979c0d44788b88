"""Reading back what is recorded of some targets of a run: commands, doubt marks, outcomes.

The one place that turns rows into the model's words again, for claims of a later pass as well as
for reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import BindParameter, ColumnElement, Connection, Select, bindparam, select

from worker.ledger.entry import DoubtMark
from worker.ledger.tables import command, doubt, outcome
from worker.model import UNNAMED, Command, CommandResult, Identity, Named

T = TypeVar("T")
IN_LIST = 500  # values in one IN list

_TOLD = ("ordinal", "result", "evidence", "requestId", "attempt", *Command.__struct_fields__)
_COMMAND = [command.c[name] for name in _TOLD]
_UNSETTLED = ("unknown", "cancelled_incomplete")  # outcomes that leave a doubt as it is

# Statements are built once: building one again costs more than running it.
RUN: BindParameter[int] = bindparam("run")
ORDINALS: BindParameter[int] = bindparam("ordinals", expanding=True)


def _commands(where: ColumnElement[bool]) -> Select[Any]:
    order = (command.c.ordinal, command.c.created_ms, command.c.commandId)
    return select(*_COMMAND).where(command.c.run == RUN, where).order_by(*order)


_COMMANDS_OF = _commands(command.c.ordinal.in_(ORDINALS))
_COMMANDS_BETWEEN = _commands(command.c.ordinal.between(bindparam("lo"), bindparam("hi")))
_SETTLED_SINCE = (
    select(outcome.c.ordinal)
    .where(outcome.c.run == doubt.c.run, outcome.c.ordinal == doubt.c.ordinal)
    .where(outcome.c["pass"] >= doubt.c["pass"], outcome.c.kind.not_in(_UNSETTLED))
)
_MARKS = (
    select(doubt)
    .where(doubt.c.run == RUN, doubt.c.ordinal.in_(ORDINALS), ~_SETTLED_SINCE.exists())
    .order_by(doubt.c["pass"])
)

_NAMED = (
    select(outcome.c.ordinal, outcome.c.productKey, outcome.c.deviceKey, outcome.c.assetId)
    .where(outcome.c.run == RUN, outcome.c.ordinal.in_(ORDINALS))
    .order_by(outcome.c["pass"])
)


def chunks(values: Sequence[T]) -> Iterator[list[T]]:
    """The values, as many at a time as one IN list takes."""
    for at in range(0, len(values), IN_LIST):
        yield list(values[at : at + IN_LIST])


def commands_of(
    connection: Connection, run: int, ordinals: Sequence[int]
) -> dict[int, list[CommandResult]]:
    """The recorded commands by ordinal, in the order they were created, then by id."""
    found: dict[int, list[CommandResult]] = {}
    for part in chunks(ordinals):
        _gather(connection.execute(_COMMANDS_OF, {"run": run, "ordinals": part}), found)
    return found


def commands_between(
    connection: Connection, run: int, lo: int, hi: int
) -> dict[int, list[CommandResult]]:
    """As `commands_of`, for the targets from ordinal `lo` to `hi`."""
    found: dict[int, list[CommandResult]] = {}
    _gather(connection.execute(_COMMANDS_BETWEEN, {"run": run, "lo": lo, "hi": hi}), found)
    return found


def _gather(rows: Iterable[Any], into: dict[int, list[CommandResult]]) -> None:
    for ordinal, result, evidence, requestId, attempt, *said in rows:
        told = CommandResult(Command(*said), result, evidence, requestId, attempt)
        into.setdefault(ordinal, []).append(told)


def marks_of(connection: Connection, run: int, ordinals: Sequence[int]) -> dict[int, DoubtMark]:
    """Doubt marks that nothing has settled since; several passes make one mark."""
    marks: dict[int, DoubtMark] = {}
    for part in chunks(ordinals):
        for row in connection.execute(_MARKS, {"run": run, "ordinals": part}):
            earlier = marks.get(row.ordinal)
            marks[row.ordinal] = DoubtMark(
                min(row.first_sent_ms, earlier.first_sent_ms if earlier else row.first_sent_ms),
                max(row.last_sent_ms, earlier.last_sent_ms if earlier else row.last_sent_ms),
                row.attempts,
                row.cause,
            )
    return marks


def told_of(
    connection: Connection,
    run: int,
    ordinals: Sequence[int],
    commands: Mapping[int, Sequence[CommandResult]],
) -> dict[int, Identity]:
    """What replies named, by ordinal: in outcomes, and in these recorded commands."""
    told = {at: fill(UNNAMED, *(one.command for one in found)) for at, found in commands.items()}
    for part in chunks(ordinals):
        for ordinal, *names in connection.execute(_NAMED, {"run": run, "ordinals": part}):
            told[ordinal] = fill(told.get(ordinal, UNNAMED), Identity(*names))
    return told


def fill(known: Identity, *told: Named) -> Identity:
    """What is known of a device, completed from what was told, the first word first."""
    for part in told:
        known = known.completed_by(part)
    return known
