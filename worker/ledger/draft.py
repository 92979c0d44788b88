"""Laying out rows before a plan is frozen, and freezing them.

A million rows go into a temporary table as they are read, without any identity index: one
GROUP BY afterwards finds devices that stand in several rows, at a fraction of the time of an
index kept up to date and of the memory of a set. Freezing is one transaction that copies what
is left, numbered by first appearance, so that a crash leaves either a whole plan or none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    Select,
    and_,
    bindparam,
    delete,
    distinct,
    func,
    insert,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)

from worker.errors import UsageError
from worker.ledger import tables
from worker.ledger.database import Database
from worker.ledger.entry import Frozen, NewRun
from worker.ledger.tables import Prepared, draft, member, target, twin
from worker.model import RunRecord

PLAN_KEPT_MS = 14 * 24 * 3600 * 1000  # a plan that nobody starts
SLICE = 10_000  # rows
_DIGESTED = 1_000  # rows that a digest holds at once: what planning took once, a run keeps

# source, line, column, productKey, deviceKey, assetId, commandIds (joined by one space)
Staged = tuple[int, int, int, str | None, str | None, str | None, str | None]

_NOTHING: ColumnElement[str] = literal_column("''")
_KEYS = ("productKey", "deviceKey", "assetId")


class Draft:
    """Rows of a plan that is not frozen yet; gone with the connection."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._grouped = False
        given: dict[str, ColumnElement[Any]] = {name: bindparam(name) for name in _STAGED}
        given |= {name: func.coalesce(bindparam(name), _NOTHING) for name in _KEYS}
        add = insert(draft).values(given)
        self._add = Prepared(add, database.engine.dialect)
        with database.read(UsageError) as connection:
            for statement in tables.schema(connection.dialect, tables.drafts):
                connection.exec_driver_sql(statement)

    def add(self, rows: Sequence[Staged]) -> None:
        """Lay out more rows, in the order of the plan."""
        if rows:
            self._grouped = False
            with self._database.read(UsageError) as connection:
                connection.exec_driver_sql(self._add.sql, list(rows))

    def repeats(self, limit: int) -> list[tuple[Staged, Staged]]:
        """The first `limit` rows that spell a device which their source has spelled before.

        Rows of one inventory that all carry commandIds are joined instead; source 0, the job
        file, is never joined.
        """
        with self._database.read(UsageError) as connection:
            self._group(connection)
            found = connection.execute(_repeats(limit)).all()
        width = len(_STAGED)
        return [(_staged(tuple(row[:width])), _staged(tuple(row[width:]))) for row in found]

    def freeze(self, new: NewRun, files: Sequence[str]) -> Frozen:
        """Write the plan in one transaction; `files` names the sources by their index.

        Plans that nobody has started for so long are removed with it.
        """
        with self._database.read(UsageError) as connection:
            self._group(connection)
            _join(connection)
            united = int(connection.execute(_UNITED).scalar() or 0)
        with self._database.write(UsageError) as connection:
            forget_plans(connection, tables.run.c.planned_ms <= new.planned_ms - PLAN_KEPT_MS)
            number = _write_head(connection, new, files)
            connection.execute(_copy(number))
            digest, targets, commands = digest_of(connection, new, number)
            frozen = {"digest": digest, "targets": targets}
            connection.execute(update(tables.run).where(tables.run.c.run == number).values(frozen))
        return Frozen(new.run_id, digest, targets, commands, united)

    def drop(self) -> None:
        """Forget the rows."""
        with self._database.read(UsageError) as connection:
            tables.drafts.drop_all(connection)

    def _group(self, connection: Connection) -> None:
        if not self._grouped:
            connection.execute(delete(member))
            connection.execute(delete(twin))
            connection.execute(_TWINS)
            connection.execute(_MEMBERS)
            self._grouped = True


@contextmanager
def drafting(database: Database, given_up: Callable[[], bool] | None = None) -> Iterator[Draft]:
    """A draft that is gone when the block ends; given up, what is done to it fails."""
    drawn = Draft(database)
    try:
        with database.until(given_up):
            yield drawn
    finally:
        drawn.drop()


_device = [draft.c[name] for name in _KEYS]
_TWINS = insert(twin).from_select(
    [*_KEYS, "first"],
    select(*_device, func.min(draft.c.seq)).group_by(*_device).having(func.count() > 1),
)
_MEMBERS = insert(member).from_select(
    ["first", "seq"],
    select(twin.c.first, draft.c.seq).join_from(
        draft, twin, and_(*(draft.c[name] == twin.c[name] for name in _KEYS))
    ),
)
_sources = (
    select(func.count(distinct(draft.c.source)).label("sources"))
    .join_from(member, draft, draft.c.seq == member.c.seq)
    .group_by(member.c.first)
    .subquery()
)
_UNITED = select(func.sum(_sources.c.sources - 1))
_STAGED = ("source", "line", "col", *_KEYS, "commandIds")


def _repeats(limit: int) -> Select[Any]:
    """The first row of a device in its source, beside the row that repeats it."""
    where = [member.c.first, draft.c.source]
    bare = func.count(draft.c.commandIds) < func.count()
    group = (
        select(*where, func.min(draft.c.seq).label("head"))
        .join_from(member, draft, draft.c.seq == member.c.seq)
        .group_by(*where)
        .having(and_(func.count() > 1, or_(draft.c.source == 0, bare)))
        .subquery()
    )
    head, again = draft.alias("head"), draft.alias("again")
    return (
        select(*(head.c[name] for name in _STAGED), *(again.c[name] for name in _STAGED))
        .select_from(group)
        .join(head, head.c.seq == group.c.head)
        .join(member, member.c.first == group.c.first)
        .join(again, and_(again.c.seq == member.c.seq, again.c.source == group.c.source))
        .where(again.c.seq != group.c.head)
        .order_by(again.c.seq)
        .limit(limit)
    )


def _staged(row: tuple[Any, ...]) -> Staged:
    source, line, column, *rest = row
    product, device, asset, ids = (value or None for value in rest)
    return source, line, column, product, device, asset, ids


def _join(connection: Connection) -> None:
    """Give the first row of a device the commandIds of all its rows, in order, each once."""

    def parts() -> Iterator[tuple[int, str]]:
        after = (-1, -1)
        while True:
            rows = connection.execute(
                select(member.c.first, member.c.seq, draft.c.commandIds)
                .join_from(member, draft, draft.c.seq == member.c.seq)
                .where(tuple_(member.c.first, member.c.seq) > after)
                .where(draft.c.commandIds.is_not(None))
                .order_by(member.c.first, member.c.seq)
                .limit(SLICE)
            ).all()
            if not rows:
                return
            yield from ((first, ids) for first, _, ids in rows)
            after = (rows[-1][0], rows[-1][1])

    assign = (
        update(draft).where(draft.c.seq == bindparam("first")).values(commandIds=bindparam("ids"))
    )
    batch: list[dict[str, object]] = []
    for first, group in groupby(parts(), key=lambda part: part[0]):
        ids = dict.fromkeys(one for _, joined in group for one in joined.split(" "))
        batch.append({"first": first, "ids": " ".join(ids)})
        if len(batch) == SLICE:
            connection.execute(assign, batch)
            batch = []
    if batch:
        connection.execute(assign, batch)


def _write_head(connection: Connection, new: NewRun, files: Sequence[str]) -> int:
    rehearsal = msgspec.json.encode(new.rehearsal) if new.rehearsal else None
    head = {
        **{name: getattr(new, name) for name in NewRun.__struct_fields__},
        "rehearsal": rehearsal,
        "digest": "",
        "targets": 0,
    }
    made = insert(tables.run).values(head).returning(tables.run.c.run)
    number = int(connection.execute(made).scalar_one())
    named = [{"run": number, "source": index, "file": file} for index, file in enumerate(files)]
    connection.execute(insert(tables.source), named)
    return number


def forget_plans(connection: Connection, which: ColumnElement[bool]) -> None:
    """Remove such plans, with their lists; a run that was started stays on record."""
    run = tables.run.c
    # One whose devices were assumed to be called has begun, though no process of it has.
    plans = select(run.run).where(run.first_started_ms.is_(None), run.started_ms.is_(None), which)
    for table in (target, tables.source, tables.run):
        connection.execute(delete(table).where(table.c.run.in_(plans)))


def _copy(number: int) -> Insert:
    """What is left of the draft, numbered by first appearance."""
    again = select(member.c.seq).where(member.c.seq == draft.c.seq, member.c.first != member.c.seq)
    rows = select(
        literal_column(str(number)),
        func.row_number().over(order_by=draft.c.seq) - 1,
        draft.c.source,
        draft.c.line,
        *(func.nullif(draft.c[name], _NOTHING) for name in _KEYS),
        draft.c.commandIds,
    ).where(~again.exists())
    columns = ["run", "ordinal", "source", "line", *_KEYS, "commandIds"]
    return insert(target).from_select(columns, rows.order_by(draft.c.seq))


def digest_of(connection: Connection, new: NewRun | RunRecord, number: int) -> tuple[str, int, int]:
    """sha256 over orgId, scope and the targets in order, one JSON array a line; how many."""
    encoder = msgspec.json.Encoder()
    summed = hashlib.sha256(encoder.encode_lines([(new.orgId, new.scope)]))
    fields = (target.c.productKey, target.c.deviceKey, target.c.assetId, target.c.commandIds)
    query = (
        select(*fields)
        .where(target.c.run == number, target.c.ordinal.between(bindparam("lo"), bindparam("hi")))
        .order_by(target.c.ordinal)
    )
    targets = commands = 0
    while True:
        bounds = {"lo": targets, "hi": targets + _DIGESTED - 1}
        rows = [tuple(row) for row in connection.execute(query, bounds)]
        summed.update(encoder.encode_lines(rows))
        targets += len(rows)
        commands += sum(row[3].count(" ") + 1 for row in rows if row[3])
        if len(rows) < _DIGESTED:
            return summed.hexdigest(), targets, commands
