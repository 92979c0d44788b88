"""A ledger of an older schema is carried forward whole, or stays what it was.

`schema_1.sqlite` was written by the last version of schema 1, `schema_1.json` holds the answers
that it gave. An answer that a later version changes on purpose is changed there by hand.
"""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ledger import history
from tests.ledger.plans import claim, plan, put_off, record
from worker.errors import UsageError
from worker.ledger import migrations
from worker.ledger.migrations import MIGRATIONS, SCHEMA_VERSION, statements_since
from worker.ledger.store import Store

HERE = Path(__file__).parent
ANSWERS = json.loads((HERE / "schema_1.json").read_text())
for run in ANSWERS["runs"]:  # told in another place since
    run["end"] = run["end"] and {k: v for k, v in run["end"].items() if k != "requests"}
    if run["run_id"] == history.UNCERTAIN:  # it ended with work left, which had no word then
        run["state"] = "stopped"
ANSWERS["last"] = ANSWERS["last:nightly"]  # it meant a plan that nobody had started
for told in ANSWERS["of"].values():  # it counted claims that nothing was sent for
    del told["also_touched_by"]


@pytest.fixture
def old(path: Path) -> Path:
    """A ledger of schema 1, closed."""
    path.write_bytes((HERE / "schema_1.sqlite").read_bytes())
    return path


def schema(path: Path) -> dict[str, str]:
    """Each table and index of a file with the statement that made it, one way of spacing."""
    with sqlite3.connect(path) as raw:
        made = raw.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    raw.close()
    return {name: re.sub(r"\s*([(),])\s*", r"\1", " ".join(sql.split())) for name, sql in made}


def version(path: Path) -> str:
    with sqlite3.connect(path) as raw:
        [(value,)] = raw.execute("SELECT value FROM meta WHERE name = 'schema'").fetchall()
    raw.close()
    return str(value)


def kept(now: Any, before: Any) -> Any:
    """What is told now, without the fields that were unknown before."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {
            name: kept(value, before.get(name)) for name, value in now.items() if name in before
        }
    if isinstance(before, list) and isinstance(now, list) and len(now) == len(before):
        return [kept(one, other) for one, other in zip(now, before, strict=True)]
    return now


def test_every_answer_is_kept(old: Path) -> None:
    """What the older version said of each run, this one says too, at once and opened again."""
    for _ in range(2):
        store = Store.open(f"sqlite:///{old}")
        assert kept(history.answers(store), ANSWERS) == ANSWERS
        store.close()
    assert version(old) == str(SCHEMA_VERSION)


def test_as_if_written_today(old: Path, tmp_path: Path) -> None:
    """A ledger with the same past from its first day on gives the same answers, field by field."""
    carried = Store.open(f"sqlite:///{old}")
    fresh = Store.open(f"sqlite:///{tmp_path}/fresh.db")
    history.write(fresh)
    assert history.answers(carried) == history.answers(fresh)
    carried.close()
    fresh.close()


def test_one_schema(old: Path, tmp_path: Path) -> None:
    """New and carried forward are the same tables, columns in the same order, and indexes."""
    fresh = tmp_path / "fresh.db"
    before = schema(old)
    for path in (old, fresh):
        Store.open(f"sqlite:///{path}").close()
    assert schema(old) == schema(fresh)
    assert schema(old) != before


def test_work_goes_on(old: Path) -> None:
    """A run that an older version left open is finished by this one; new runs are recorded."""
    store = Store.open(f"sqlite:///{old}")
    [left] = [each for each in store.in_doubt(history.INTERRUPTED) if each.ordinal == 1]
    claim(store, run_id=history.INTERRUPTED, pass_no=3, members=(1,))
    record(store, put_off(1, 3), run_id=history.INTERRUPTED)
    assert left not in store.in_doubt(history.INTERRUPTED)
    assert store.run(plan(store, ["a"], "new")).clock_apart_ms == 0
    store.close()


def test_versions_are_numbered_without_a_gap() -> None:
    """Each schema since the first has its entry, and its statements come in order."""
    assert list(MIGRATIONS) == list(range(2, SCHEMA_VERSION + 1))
    assert statements_since(SCHEMA_VERSION) == []
    assert statements_since(1) == [one for each in MIGRATIONS.values() for one in each]


@pytest.mark.parametrize("bad", range(len(statements_since(1)) + 1))
def test_a_statement_that_fails(old: Path, bad: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever statement fails, the ledger is of schema 1 to the last byte of its tables."""
    before, todo = schema(old), statements_since(1)
    todo.insert(bad, "INSERT INTO nowhere VALUES (1)")
    monkeypatch.setattr(migrations, "MIGRATIONS", {**dict.fromkeys(MIGRATIONS, ()), 2: tuple(todo)})
    with pytest.raises(UsageError, match=r"ledger .*ledger\.db: database error 1"):
        Store.open(f"sqlite:///{old}")
    assert (schema(old), version(old)) == (before, "1")
    monkeypatch.undo()
    store = Store.open(f"sqlite:///{old}")
    assert kept(history.answers(store), ANSWERS) == ANSWERS
    store.close()


KILLED = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from worker.ledger.migrations import statements_since
from worker.ledger.store import Store

seen = 0

@event.listens_for(Engine, "before_cursor_execute")
def strike(_connection, _cursor, statement, *_):
    global seen
    seen += statement in statements_since(1) or statement.startswith("UPDATE meta")
    if seen > int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

@event.listens_for(Engine, "commit")
def end(_connection):
    if seen:
        os.kill(os.getpid(), signal.SIGKILL)

Store.open(sys.argv[1])
"""


@pytest.mark.parametrize("after", range(len(statements_since(1)) + 2))
def test_killed_in_the_middle(old: Path, after: int) -> None:
    """Killed after so many statements, the last time before the commit: schema 1, nothing lost."""
    before = schema(old)
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, f"sqlite:///{old}", str(after)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (-signal.SIGKILL, "")
    assert (schema(old), version(old)) == (before, "1")
    store = Store.open(f"sqlite:///{old}")
    assert kept(history.answers(store), ANSWERS) == ANSWERS
    store.close()


def test_carried_forward_by_several_at_once(old: Path) -> None:
    """Processes that open the same old ledger at the same moment all get it."""
    script = """
import sys
from worker.ledger.store import Store
store = Store.open(sys.argv[1]); print(len(store.runs())); store.close()
"""
    ran = [
        subprocess.Popen(
            [sys.executable, "-c", script, f"sqlite:///{old}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    assert [process.communicate() for process in ran] == [(b"6\n", b"")] * 4


def test_a_process_of_the_older_version_works_on(old: Path) -> None:
    """A ledger that is in use is carried forward under it: what it writes by name still fits."""
    with sqlite3.connect(old, isolation_level=None) as raw:
        raw.execute("PRAGMA journal_mode=WAL")
        raw.execute("SELECT count(*) FROM run").fetchall()
        Store.open(f"sqlite:///{old}").close()
        raw.execute("INSERT INTO source (run, source, file) VALUES (6, 2, 'x.csv')")
        columns = "run_id, job, actor, orgId, gateway, scope, digest, version, planned_ms, targets"
        raw.execute(f"INSERT INTO run ({columns}) VALUES ('new','j','a','o','g','s','','',1,0)")
        assert raw.execute("SELECT clock_apart_ms FROM run").fetchall() == [(0,)] * 7
    raw.close()
