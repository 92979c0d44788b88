"""The ledger's tables, and statements compiled once for the path that every device takes.

One database is both the plan and the record: `target` is written once, `claim` says what may be
in flight, `outcome` only ever grows, `command` holds what a reply told. Nothing here is
SQLite's alone but table options that other dialects ignore, so that the same tables serve
PostgreSQL. Moments are Unix milliseconds in 64-bit integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Delete,
    Index,
    Insert,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    Update,
    func,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

metadata = MetaData()
drafts = MetaData()  # temporary tables: one connection's, gone with it

_INT = BigInteger().with_variant(sqlite.INTEGER(), "sqlite")  # STRICT knows no BIGINT


def _int(name: str, *, key: bool = False, null: bool = False) -> Column[int]:
    return Column(name, _INT, primary_key=key, nullable=null, autoincrement=False)


def _text(name: str, *, key: bool = False, null: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=key, nullable=null)


def _blob(name: str) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=True)


def _identity(*, null: bool) -> list[Column[str]]:
    return [_text(name, null=null) for name in ("productKey", "deviceKey", "assetId")]


def _keyed(name: str, *columns: Column[Any] | Index, home: MetaData = metadata) -> Table:
    """A table whose key is the row: no hidden row number beside it."""
    prefixes = ["TEMPORARY"] if home is drafts else []
    return Table(
        name, home, *columns, prefixes=prefixes, sqlite_strict=True, sqlite_with_rowid=False
    )


meta = _keyed("meta", _text("name", key=True), _text("value"))

run = Table(
    "run",
    metadata,
    Column("run", _INT, primary_key=True),  # short: it stands in the key of every row below
    Column("run_id", Text, nullable=False, unique=True),
    _text("job"),
    _text("reason", null=True),
    _text("actor"),
    _text("orgId"),
    _text("gateway"),
    _text("scope"),
    _text("digest"),
    _text("version"),
    _int("planned_ms"),
    _int("targets"),
    _blob("settings"),
    _blob("rehearsal"),  # JSON; null for a run against a real gateway
    _int("first_started_ms", null=True),
    _int("started_ms", null=True),
    _int("finished_ms", null=True),
    _int("doubts", null=True),  # targets in doubt when it finished: most runs have none
    _blob("end"),  # JSON of a RunEnd
    # The greatest difference of clocks that the run saw.
    Column("clock_apart_ms", _INT, nullable=False, server_default=text("0")),
    _blob("spent"),  # JSON of a Spent; null before the first start
    _blob("counts"),  # JSON, targets by outcome when it finished; null where an older version did
    sqlite_strict=True,
)
Index("run_began", func.coalesce(run.c.first_started_ms, run.c.planned_ms))  # for `runs`, `last`
Index("run_open", run.c.job, sqlite_where=run.c.finished_ms.is_(None))  # few, whatever the history

source = _keyed("source", _int("run", key=True), _int("source", key=True), _text("file"))

target = _keyed(
    "target",
    _int("run", key=True),
    _int("ordinal", key=True),
    _int("source"),
    _int("line"),
    *_identity(null=True),
    _text("commandIds", null=True),  # joined by one space; null: all cached
)
# By run first: a plan adds to one place of the index, however many runs know its devices.
for _name in ("deviceKey", "assetId"):
    _named = target.c[_name]
    Index(f"target_{_name}", target.c.run, _named, sqlite_where=_named.is_not(None))

alias = _keyed(  # a name that replies told of a target and that its plan does not have
    "alias",
    _int("run", key=True),
    _text("name", key=True),  # deviceKey | assetId
    _text("value", key=True),
    _int("ordinal", key=True),
)

claim = _keyed(
    "claim",
    _int("run", key=True),
    _int("lo", key=True),  # before the pass: the range to claim next is found from the end
    _int("pass", key=True),
    _int("hi"),
    _text("members", null=True),  # ordinals joined by one space; null: all from lo to hi
    _int("claimed_ms"),
)

doubt = _keyed(
    "doubt",
    _int("run", key=True),
    _int("ordinal", key=True),
    _int("pass", key=True),
    _int("first_sent_ms"),  # the gateway's clock
    _int("last_sent_ms"),
    _int("attempts"),
    _text("cause"),
)

DEFERRED = "deferred"  # an outcome row that settles nothing: put off to a later pass
USUAL = frozenset({"cancelled", "nothing_cached", "nothing_matched"})
UNUSUAL = "outcome.kind NOT IN ('cancelled', 'nothing_cached', 'nothing_matched')"

outcome = _keyed(
    "outcome",
    _int("run", key=True),
    _int("ordinal", key=True),
    _int("pass", key=True),
    _text("kind"),
    _text("cause", null=True),
    _int("attempts"),
    _int("tainted"),
    _text("evidence", null=True),
    _int("http_status", null=True),
    _int("code", null=True),
    _text("message", null=True),
    _text("requestId", null=True),
    _int("duration_ms"),
    *_identity(null=True),  # what replies told
    _int("recorded_ms"),
)
# What a resume asks for is rare in a run that goes well, so that its index costs nothing.
Index(
    "outcome_unusual",
    outcome.c.run,
    outcome.c.kind,
    outcome.c.ordinal,
    sqlite_where=outcome.c.kind.not_in(sorted(USUAL)),
)

command = _keyed(
    "command",
    _int("run", key=True),
    _int("ordinal", key=True),
    _text("commandId", key=True),
    _text("result"),
    _text("evidence", null=True),
    _text("requestId", null=True),
    _int("attempt"),
    _text("clash", null=True),  # why another target of the run holds the same id
    _int("recorded_ms"),
    _text("orgId", null=True),
    *_identity(null=True),  # as the gateway said
    _int("created_ms", null=True),
    _int("type", null=True),
    _text("name", null=True),
    _text("tslIdentifier", null=True),
    _int("state", null=True),
    _int("timeout", null=True),
    _int("pendingTtl", null=True),
    _blob("inputData"),
)
Index("command_id", command.c.commandId)

pause = _keyed(  # until when a gateway asked for rest, by its URL
    "pause", _text("gateway", key=True), _int("until_ms")
)

# Where rows are laid out before a plan is frozen. An absent identity is '' here, which no
# identity can be, so that grouping needs no rule for nulls.
draft = Table(
    "draft",
    drafts,
    Column("seq", _INT, primary_key=True),
    _int("source"),
    _int("line"),
    _int("col"),
    *_identity(null=False),
    _text("commandIds", null=True),
    prefixes=["TEMPORARY"],
    sqlite_strict=True,
)
twin = _keyed(  # a device that stands in several rows
    "twin",
    _text("productKey", key=True),
    _text("deviceKey", key=True),
    _text("assetId", key=True),
    _int("first"),
    home=drafts,
)
member = _keyed(  # a row of such a device
    "member",
    _int("first", key=True),
    _int("seq", key=True),
    Index("member_seq", "seq"),
    home=drafts,
)

Statement = Insert | Update | Delete | Select[Any]


class Prepared:
    """A statement compiled once, to be run with `exec_driver_sql` on tuples.

    Building the same statement for each group of rows costs three times the rows themselves.
    """

    __slots__ = ("names", "sql")

    def __init__(self, statement: Statement, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self.sql = str(compiled)
        self.names: tuple[str, ...] = tuple(compiled.positiontup or ())

    def rows(self, count: int) -> str:
        """A plain insert for so many rows at once, their values one after another.

        The database then runs through a group in one go, where it would let go of Python's lock,
        and wait for it again, at every row.
        """
        start, _, row = self.sql.partition(" VALUES ")
        return f"{start} VALUES {', '.join([row] * count)}"


def upsert(dialect: str, table: Table, changed: Sequence[str], where: Any = None) -> Insert:
    """Insert; where the key exists (and `where` holds of the old row), replace `changed`."""
    statement: Any = sqlite.insert(table)
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - 2 MB, for nobody with SQLite

        statement = postgresql.insert(table)
    conflict: Insert = statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: statement.excluded[name] for name in changed},
        where=where,
    )
    return conflict


def schema(dialect: Dialect, home: MetaData = metadata) -> list[str]:
    """The statements that make the tables of `home`, in order."""
    made = []
    for table in home.sorted_tables:
        made.append(str(CreateTable(table).compile(dialect=dialect)))
        made += [
            str(CreateIndex(index).compile(dialect=dialect))
            for index in sorted(table.indexes, key=lambda index: str(index.name))
        ]
    return made
