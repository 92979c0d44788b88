"""Opening a ledger: what is made, what is refused, and in which words."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.ledger.plans import claim, devices, outcome, plan, record
from worker.errors import LedgerError, UsageError
from worker.ledger.database import Database, ledger_path
from worker.ledger.store import Store


def test_made(tmp_path: Path) -> None:
    """A new ledger and its folder are made, readable by the owner alone, with WAL and full sync."""
    path = tmp_path / "new" / "deeper" / "ledger.db"
    store = Store.open(f"sqlite:///{path}")
    plan(store, devices(3))
    raw = store._database.raw
    sides = sorted(side.name for side in path.parent.iterdir())
    modes = {stat.S_IMODE(side.stat().st_mode) for side in path.parent.iterdir()}
    assert (sides, modes) == (["ledger.db", "ledger.db-shm", "ledger.db-wal"], {0o600})
    assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert raw.execute("PRAGMA synchronous").fetchone() == (2,)
    assert raw.execute("PRAGMA busy_timeout").fetchone() == (60_000,)
    store.close()


def test_made_by_two_at_once(tmp_path: Path) -> None:
    """Another process that is just making the same ledger is waited for."""
    path = tmp_path / "ledger.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.2, other.execute, ("COMMIT",)).start()
    store = Store.open(f"sqlite:///{path}")
    assert store.runs() == []
    store.close()
    other.close()


def test_reopened(url: str) -> None:
    """What one process recorded, the next one reads."""
    first = Store.open(url)
    plan(first, devices(2))
    first.close()
    second = Store.open(url)
    assert [run.run_id for run in second.runs()] == ["r1"]
    second.close()


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("sqlite:////abs/l.db", Path("/abs/l.db")),
        ("sqlite:///l.db", Path("l.db").absolute()),
    ],
)
def test_urls(url: str, path: Path | None) -> None:
    """A relative URL is meant from where the process started; without a file it is temporary."""
    assert ledger_path(url) == path


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ledger.db", "not a database URL"),
        ("postgresql://u:CANARY@host/db", "postgresql is not supported yet"),
        ("sqlite:///l.db?mode=ro", "options after ? are not supported"),
    ],
)
def test_urls_refused(url: str, said: str) -> None:
    """Another database, or no URL at all, is refused without repeating the URL."""
    with pytest.raises(UsageError, match=said.replace("?", r"\?")) as raised:
        Store.open(url)
    assert "CANARY" not in str(raised.value)


def test_parent_is_a_file(tmp_path: Path) -> None:
    """A folder that cannot be made: the path, the reason and the remedy."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError) as raised:
        Store.open(f"sqlite:///{tmp_path}/file/ledger.db")
    assert str(raised.value) == (
        f"ledger {tmp_path}/file/ledger.db: Not a directory: "
        "give a folder that you may write to, with ledger.url or --ledger"
    )


def test_folder_in_its_place(tmp_path: Path) -> None:
    """A folder is no ledger."""
    with pytest.raises(UsageError, match="Is a directory"):
        Store.open(f"sqlite:///{tmp_path}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable(tmp_path: Path) -> None:  # pragma: no cover
    """A folder without permission is refused before anything is sent."""
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="Permission denied"):
        Store.open(f"sqlite:///{tmp_path}/ledger.db")


def test_second_name(tmp_path: Path) -> None:
    """Row 98: two names of one file would be two write-ahead logs and two locks."""
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    Store.open(f"sqlite:///{one}").close()
    two.hardlink_to(one)
    before = one.read_bytes()
    for path in (one, two):
        with pytest.raises(UsageError) as raised:
            Store.open(f"sqlite:///{path}")
        assert str(raised.value) == (
            f"ledger {path}: the file has a second name (a hard link), under which another run "
            "would not see this one: remove one of the two names"
        )
    assert one.read_bytes() == before
    two.unlink()
    Store.open(f"sqlite:///{one}").close()


MOUNTED = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_RDONLY, MS_BIND, MS_REMOUNT = 0x20000, 1, 4096, 32
MS_REC, MS_PRIVATE = 16384, 1 << 18
folder = os.path.dirname(sys.argv[1]).encode()
def mount(*a):
    if libc.mount(*a): os._exit(77)
if libc.unshare(CLONE_NEWNS): os._exit(77)
mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
mount(folder, folder, None, MS_BIND, None)
mount(b"none", folder, None, MS_BIND | MS_REMOUNT | MS_RDONLY, None)
from worker.ledger.store import Store
from worker.errors import UsageError
"""
READ = """
try:
    store = Store.look("sqlite:///" + sys.argv[1])
    print([(run.run_id, run.state) for run in store.runs()], len(list(store.rows("r1"))))
    print([found.run_id for found in store.find("deviceKey", "d0", rehearsals=True)])
    print(store.lost())
except UsageError as error:
    print(error)
"""
SEEN = "[('r1', 'interrupted')] 2\n['r1']\nNone\n"


def on_a_read_only_disk(path: Path, script: str) -> str:
    """What a script prints that sees the folder of a ledger mounted read-only."""
    ran = subprocess.run(
        [sys.executable, "-c", MOUNTED + script, str(path)],
        check=False,
        capture_output=True,
        text=True,
    )
    if ran.returncode == 77:  # pragma: no cover
        pytest.skip("mounts are not allowed here")
    return ran.stdout + ran.stderr


def test_read_only_disk(url: str, path: Path) -> None:
    """A ledger that the file system will not let anyone change is refused at open."""
    Store.open(url).close()
    script = """
try:
    Store.open("sqlite:///" + sys.argv[1])
except UsageError as error:
    print(error)
"""
    assert on_a_read_only_disk(path, script) == (
        f"ledger {path}: Read-only file system: "
        "give a folder that you may write to, with ledger.url or --ledger\n"
    )


def used(store: Store) -> None:
    """A run that was killed: one target is in doubt, one settled."""
    plan(store, devices(2))
    claim(store, 2)
    record(store, outcome(0, "cancelled", "1"))


def test_a_ledger_that_can_only_be_read_is_read(url: str, path: Path) -> None:
    """An archive on a read-only disk, nothing beside it: looked at, and left as it is."""
    store = Store.open(url)
    used(store)
    store.close()
    names = sorted(each.name for each in path.parent.iterdir())
    assert names == ["ledger.db"]
    before = path.read_bytes()
    assert on_a_read_only_disk(path, READ) == SEEN
    assert (path.read_bytes(), sorted(each.name for each in path.parent.iterdir())) == (
        before,
        names,
    )


def test_a_ledger_in_use_is_read_with_its_write_ahead_log(store: Store, path: Path) -> None:
    """Of a ledger that somebody else writes, what stands in its log is seen too."""
    used(store)
    assert path.with_name("ledger.db-wal").stat().st_size
    assert on_a_read_only_disk(path, READ) == SEEN


def test_a_write_ahead_log_that_cannot_be_read_is_not_passed_over(
    store: Store, path: Path, tmp_path: Path
) -> None:
    """A copy with a log and without the file that leads through it: the file is not all."""
    used(store)
    copy = tmp_path / "copy" / "ledger.db"
    copy.parent.mkdir()
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).write_bytes(
            path.with_name(path.name + suffix).read_bytes()
        )
    assert on_a_read_only_disk(copy, READ) == (
        f"ledger {copy}: cannot be opened: copy it, with the -wal file beside it, "
        "to a folder that you may write to\n"
    )
    looked = Store.look(f"sqlite:///{copy}")
    assert [run.run_id for run in looked.runs()] == ["r1"]
    looked.close()


def test_an_older_ledger_that_can_only_be_read_is_carried_in_a_copy(path: Path) -> None:
    """An archive of an earlier version shows what it holds, and stays of its version."""
    path.write_bytes((Path(__file__).parent / "schema_1.sqlite").read_bytes())
    before = path.read_bytes()
    script = """
store = Store.look("sqlite:///" + sys.argv[1])
print([run.state for run in store.runs()])
print([found.run_id for found in store.find("assetId", "x")])
"""
    assert on_a_read_only_disk(path, script) == (
        "['planned', 'finished', 'finished', 'interrupted', 'stopped', 'finished']\n"
        "['20261103T020000Z-cccccc', '20261102T020000Z-bbbbbb', '20261101T020000Z-aaaaaa']\n"
    )
    assert path.read_bytes() == before


def test_not_a_database(path: Path, url: str) -> None:
    """A file of something else is left as it is."""
    path.write_bytes(b"devices:\n  - assetId: a\n" * 100)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="not a ledger"):
        Store.open(url)
    assert path.read_bytes() == before


@pytest.mark.parametrize("table", ["meta", "things"])
def test_another_database(path: Path, url: str, table: str) -> None:
    """A database of another program is refused and left alone, even with a table of our name."""
    with sqlite3.connect(path) as raw:
        raw.execute(f"CREATE TABLE {table} (name TEXT, value TEXT)")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(UsageError, match="a database, but not a ledger"):
        Store.open(url)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("version", "said"),
    [("4", "newer cancel-worker .schema 4."), ("0", "not a ledger"), ("x", "not a ledger")],
)
def test_version(path: Path, url: str, version: str, said: str) -> None:
    """A newer ledger is refused with its version; it is not changed."""
    Store.open(url).close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE meta SET value = ?", (version,))
    raw.close()
    with pytest.raises(UsageError, match=said):
        Store.open(url)


def test_two_open_at_once(tmp_path: Path) -> None:
    """Processes that make the same ledger at the same moment all get it."""
    script = """
import sys
from worker.ledger.store import Store
store = Store.open(sys.argv[1]); print(len(store.runs())); store.close()
"""
    for attempt in range(3):
        url = f"sqlite:///{tmp_path}/l{attempt}.db"
        ran = [
            subprocess.Popen(
                [sys.executable, "-c", script, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            for _ in range(4)
        ]
        assert [process.communicate() for process in ran] == [(b"0\n", b"")] * 4


def test_write_lock(url: str) -> None:
    """A write takes the lock at its begin, so that two writers never run into each other late."""
    one, two = Database(url), Database(url)
    two.raw.execute("PRAGMA busy_timeout=0")
    with one.write(), pytest.raises(LedgerError, match="locked by another process"), two.write():
        pass
    with one.read(), one.engine.connect():
        pass
    one.close()
    two.close()


def test_broken_for_good(store: Store) -> None:
    """After a failed write nothing is written any more, and what was there can be read."""
    plan(store, devices(2))
    store._database.raw.execute("PRAGMA query_only=1")
    said = r"ledger .*ledger.db: read-only$"
    with pytest.raises(LedgerError, match=said):
        claim(store, 1)
    store._database.raw.execute("PRAGMA query_only=0")
    with pytest.raises(LedgerError, match=said):
        claim(store, 1)
    assert store.unclaimed("r1") == range(2)


def test_damaged(path: Path, url: str) -> None:
    """A damaged ledger says so, without SQL."""
    store = Store.open(url)
    plan(store, devices(5000))
    store.close()
    with path.open("r+b") as file:
        file.seek(20 * 4096)
        file.write(b"\xff" * 4096 * 10)
    store = Store.open(url)
    with pytest.raises(LedgerError) as raised:
        list(store.rows("r1"))
    assert str(raised.value) == f"ledger {path}: damaged"
    store.close()
