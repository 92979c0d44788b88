"""Row 97: a ledger knows whether its path still leads to the file that it has open."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ledger.plans import claim, counted, devices, outcome, plan, record
from worker.errors import UsageError
from worker.ledger import database
from worker.ledger.database import Database
from worker.ledger.place import Identity, identity_of
from worker.ledger.store import Store

Change = Callable[[Path], None]


def removed(path: Path) -> None:
    path.unlink()


def moved(path: Path) -> None:
    path.rename(path.with_name("old.db"))


def replaced(path: Path) -> None:
    """As a restore does: another file under the same name."""
    other = path.with_name("other.db")
    shutil.copy(path, other)
    other.replace(path)


def folder_moved(path: Path) -> None:
    path.parent.rename(path.parent.with_name("old"))


def folder_became_a_link(path: Path) -> None:
    """To a copy of the folder."""
    shutil.copytree(path.parent, path.parent.with_name("copy"))
    folder_moved(path)
    path.parent.symlink_to("copy")


def side_file_removed(suffix: str) -> Change:
    def change(path: Path) -> None:
        path.with_name(path.name + suffix).unlink()

    return change


def side_file_replaced(path: Path) -> None:
    replaced(path.with_name("ledger.db-wal"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.db"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (removed, "its file was removed or moved away"),
        (moved, "its file was removed or moved away"),
        (replaced, "its file was replaced by another one"),
        (folder_moved, "its file was removed or moved away"),
        (folder_became_a_link, "its file was replaced by another one"),
        (side_file_removed("-wal"), "its file {path}-wal was removed or moved away"),
        (side_file_removed("-shm"), "its file {path}-shm was removed or moved away"),
        (side_file_replaced, "its file {path}-wal was replaced by another one"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_lost(store: Store, path: Path, change: Change, said: str) -> None:
    """Whatever happened to it, the ledger says so, and still records for this process."""
    plan(store, devices(3))
    assert store.lost() is None
    change(path)
    lost = f"ledger {path}: {said.format(path=path)} while it was in use"
    assert store.lost() == lost
    claim(store, 3)
    record(store, outcome(0, "cancelled", "1"), outcome(1))
    assert counted(store) == {"cancelled": 1, "nothing_cached": 1, "unknown": 1}
    assert store.lost() == lost


def test_lost_for_good(store: Store, path: Path) -> None:
    """Put back, it stays lost: somebody may have used the path meanwhile."""
    moved(path)
    lost = store.lost()
    path.with_name("old.db").rename(path)
    assert store.lost() == lost is not None


def test_kept(store: Store, path: Path) -> None:
    """What others do with a ledger in use changes nothing: they read, back up, and leave."""
    plan(store, devices(200))
    for _ in range(3):
        other = Store.open(f"sqlite:///{path}")
        claim(other, 10)
        other.close()
        with sqlite3.connect(path) as raw, sqlite3.connect(path.with_name("copy.db")) as copy:
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            raw.backup(copy)
            raw.execute("VACUUM")
        raw.close()
        copy.close()
        claim(store, 10)
        assert store.lost() is None


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_kept_under_another_name(tmp_path: Path, path: Path, kind: str) -> None:
    """By a link it is the same file with the same side files, until the link leads elsewhere."""
    Store.open(f"sqlite:///{path}").close()
    link = tmp_path / ("linked.db" if kind == "file" else "linked")
    link.symlink_to(path if kind == "file" else path.parent)
    store = Store.open(f"sqlite:///{link if kind == 'file' else link / 'ledger.db'}")
    plan(store, devices(3))
    assert store.lost() is None
    assert path.with_name("ledger.db-wal").stat().st_size > 0
    shutil.copytree(path.parent, tmp_path / "other")
    link.unlink()
    link.symlink_to(tmp_path / ("other/ledger.db" if kind == "file" else "other"))
    assert store.lost() is not None
    store.close()


def test_folder_moved_and_linked_to(store: Store, path: Path) -> None:
    """A folder that moved and left a link behind: people still open the same file."""
    folder_moved(path)
    path.parent.symlink_to("old")
    assert store.lost() is None


def test_temporary(temporary: Store) -> None:
    """A ledger without a file cannot be lost."""
    assert (temporary.path, temporary.lost()) == (None, None)


def test_replaced_while_it_is_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first look at a file and its opening: refused."""
    Store.open(f"sqlite:///{path}").close()

    def slow(there: Path) -> Identity | None:
        seen = identity_of(there)
        replaced(there)
        return seen

    monkeypatch.setattr(database, "identity_of", slow)
    with pytest.raises(
        UsageError, match=r"replaced by another one .*: nothing was sent, try again"
    ):
        Database(f"sqlite:///{path}")


def test_what_replaced_it_is_left_alone(store: Store, path: Path) -> None:
    """A new ledger at the path keeps its commits when the process of the lost one ends."""
    plan(store, devices(3))
    moved(path)
    for suffix in ("-wal", "-shm"):
        path.with_name(f"ledger.db{suffix}").unlink()
    new = Store.open(f"sqlite:///{path}")
    plan(new, devices(2), "r2")
    store.close()
    assert [run.run_id for run in new.runs()] == ["r2"]
    assert new.lost() is None
    new.close()
