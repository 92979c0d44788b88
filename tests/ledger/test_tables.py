"""The tables and statements on the other database they are meant for."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg

from tests.ledger.plans import claim, devices, mark, outcome, plan, put_off, record, staged
from worker.ledger import tables
from worker.ledger.settle import hot_statements
from worker.ledger.store import Store
from worker.ledger.tables import Prepared
from worker.model import OutcomeKind, RunEnd

POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]


def everything(store: Store) -> None:
    """Ask the ledger each thing it can be asked."""
    with store.draft() as draft:
        draft.add([staged("a", ids="1"), staged("a", 2, 1, "2")])
        draft.repeats(5)
    plan(store, devices(8), "r0")
    plan(store, devices(8))
    claim(store, 6)
    record(store, outcome(0, "cancelled", "1"), mark(1), put_off(2), outcome(3, "cancelled", "1"))
    claim(store, pass_no=2, members=(2,))
    list(store.never_attempted("r1"))
    list(store.ordinals_with_outcome("r1", [OutcomeKind.CANCELLED]))
    list(store.rows("r1"))
    store.recorded_elsewhere("r1", 0, ["1"], in_order_ms=9_000)
    store.counts("r1")
    store.commands("r1")
    store.open_intents("r1")
    store.also_touched_by("r1")
    store.find("commandId", "1")
    store.find("deviceKey", "d1")
    store.find("assetId", "a1")
    store.finish("r1", RunEnd(5, 0))
    store.unfinished("nightly")
    store.runs("nightly", 1)
    store.resolve("r1")
    store.resolve("last:nightly")
    store.last_pass("r1")
    store.planned("r1")
    store.assume_sent("r1")
    store.commit("r1", [], now_ms=1, clock_apart_ms=2500)
    store.keep_pause("https://gw", 5)
    store.pause("https://gw")
    store.forget_pause("https://gw", 5)


def test_postgresql_takes_every_statement(temporary: Store) -> None:
    """Whatever the ledger asks SQLite through the tables, PostgreSQL's compiler can say."""
    asked: list[Any] = []

    def listen(_connection: object, statement: Any, *_rest: object) -> None:
        asked.append(statement)

    event.listen(temporary._database.engine, "before_execute", listen)
    everything(temporary)
    said = {str(statement.compile(dialect=POSTGRESQL)) for statement in asked}
    assert len(said) > 40
    assert not [sql for sql in said if "PRAGMA" in sql or "?" in sql]


def test_hot_statements() -> None:
    """On the hot path, both databases get the same columns in the same order."""
    dialect = psycopg.dialect(paramstyle="format")  # type: ignore[no-untyped-call]
    for name, here in hot_statements("sqlite").items():
        there = hot_statements("postgresql")[name]
        names = Prepared(here, sqlite.dialect()).names
        assert Prepared(there, dialect).names == names
        assert len(names) == Prepared(here, sqlite.dialect()).sql.count("?")


def test_schema() -> None:
    """SQLite's tables are strict, and without row numbers where the key is the row."""
    here = [sql for sql in tables.schema(sqlite.dialect()) if "CREATE TABLE" in sql]
    assert len(here) == 10
    assert all("STRICT" in sql for sql in here)
    rowids = [sql.split()[2] for sql in here if "WITHOUT ROWID" not in sql]
    assert rowids == ["run"]
    there = "".join(tables.schema(POSTGRESQL) + tables.schema(POSTGRESQL, tables.drafts))
    assert "STRICT" not in there
    assert "BIGSERIAL" in there
