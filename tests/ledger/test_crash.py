"""Invariant 11: whatever is torn off, the ledger opens and what was committed is there.

And rows 46 and 48: a write that fails is told, leaves nothing by halves, and is the last one.
"""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import event

from tests.ledger.plans import claim, counted, devices, mark, outcome, plan, put_off, told
from tests.simulation.clock import VirtualClock
from worker.errors import LedgerError
from worker.ledger.entry import Claim, ClaimedTarget, Entry
from worker.ledger.store import Store
from worker.ledger.waiting import T
from worker.ledger.writer import Writer

State = tuple[dict[str, int], list[int], int, range]


def state(store: Store) -> State:
    """What a resume would see."""
    doubts = [doubt.ordinal for doubt in store.in_doubt("r1")]
    return counted(store), doubts, store.commands("r1"), store.unclaimed("r1")


def life(store: Store) -> Iterator[None]:
    """A run of many commits, each a mixture of everything."""
    chance = random.Random(7)
    flying: list[int] = []
    while True:
        entries: list[Entry] = []
        for ordinal in flying:
            kind = chance.random()
            if kind < 0.2:
                entries.append(mark(ordinal))
            elif kind < 0.3:
                entries.append(put_off(ordinal))
            elif kind < 0.4:
                entries.append(Entry(ordinal, 1, (told(f"c{ordinal}"),), None))
            elif kind < 0.9:
                entries.append(outcome(ordinal, "cancelled", f"a{ordinal}", f"b{ordinal}"))
        granted = store.commit("r1", entries, Claim(1, count=chance.randint(1, 9)), now_ms=5000)
        flying = [claimed.target.ordinal for claimed in granted.targets]
        yield
        if not flying:
            return


def torn(path: Path, wal: bytes, into: Path) -> str:
    """A copy of the ledger with another write-ahead log; the shared memory is gone."""
    into.mkdir()
    shutil.copy(path, into / "ledger.db")
    (into / "ledger.db-wal").write_bytes(wal)
    return f"sqlite:///{into}/ledger.db"


def test_wal_cut_anywhere(store: Store, path: Path, tmp_path: Path) -> None:
    """The log cut at any byte: exactly the commits that are whole before it."""
    plan(store, devices(80))
    store._database.raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store._database.raw.execute("PRAGMA wal_autocheckpoint=0")
    wal = path.with_name("ledger.db-wal")
    states: list[tuple[int, State]] = [(0, state(store))]
    states += [(wal.stat().st_size, state(store)) for _ in life(store)]
    whole = wal.read_bytes()
    chance = random.Random(1)
    cuts = {size + step for size, _ in states for step in (-1, 0, 1)}
    cuts |= {chance.randrange(len(whole)) for _ in range(30)} | {0, 1, 31, 32, 33}
    for number, cut in enumerate(sorted(cut for cut in cuts if 0 <= cut <= len(whole))):
        survivor = Store.open(torn(path, whole[:cut], tmp_path / f"cut{number}"))
        expected = [known for size, known in states if size <= cut][-1]
        assert state(survivor) == expected, cut
        survivor.close()


def test_wal_damaged_anywhere(store: Store, path: Path, tmp_path: Path) -> None:
    """A byte of the log that turned: the commits before it, never a mixture."""
    plan(store, devices(60))
    store._database.raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store._database.raw.execute("PRAGMA wal_autocheckpoint=0")
    wal = path.with_name("ledger.db-wal")
    states: list[tuple[int, State]] = [(0, state(store))]
    states += [(wal.stat().st_size, state(store)) for _ in life(store)]
    whole = wal.read_bytes()
    chance = random.Random(2)
    for number in range(40):
        at = chance.randrange(32, len(whole))
        bad = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        survivor = Store.open(torn(path, bad, tmp_path / f"bad{number}"))
        expected = [known for size, known in states if size <= at][-1]
        assert state(survivor) in (expected, states[-1][1]), at  # unused bytes may turn
        survivor.close()


def test_a_copy_at_each_commit(store: Store, path: Path, tmp_path: Path) -> None:
    """With the log written back from time to time: each commit is there after a crash."""
    store._database.raw.execute("PRAGMA wal_autocheckpoint=4")
    plan(store, devices(80))
    for number, _ in enumerate(life(store)):
        wal = path.with_name("ledger.db-wal").read_bytes()
        survivor = Store.open(torn(path, wal, tmp_path / f"c{number}"))
        assert state(survivor) == state(store)
        survivor.close()


def fail_at(store: Store, number: int) -> Callable[[], int]:
    """Let the number-th statement (or commit) from now on fail as a bad disk does.

    What is returned ends that, and says how many there were.
    """
    done = 0
    armed = True

    def strike(*_: Any) -> None:
        nonlocal done
        done += armed
        if armed and done == number:
            failure = sqlite3.OperationalError("disk I/O error CANARY")
            failure.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise failure

    event.listen(store._database.engine, "before_cursor_execute", strike)
    event.listen(store._database.engine, "commit", strike)

    def disarm() -> int:
        nonlocal armed
        armed = False
        return done

    return disarm


def test_each_operation_fails_once(tmp_path: Path) -> None:
    """Fail the 1st, 2nd, 3rd … operation of a commit until one goes through."""
    entries = [
        outcome(0, "cancelled", "1", "2"),
        mark(1),
        put_off(2),
        Entry(3, 1, (told("3"),), None),
    ]
    for number in range(1, 30):
        url = f"sqlite:///{tmp_path}/l{number}.db"
        store = Store.open(url)
        plan(store, devices(10))
        claim(store, 4)
        before = state(store)
        disarm = fail_at(store, number)
        failure = attempt(store, entries)
        if failure is None:
            assert disarm() < number
            assert number > 8
            assert state(store)[1] == [1, 3, 4, 5, 6, 7]
            store.close()
            return
        assert failure == f"ledger {tmp_path}/l{number}.db: disk I/O error"
        with pytest.raises(LedgerError, match="disk I/O error"):
            store.start("r1", 1)
        store.close()
        again = Store.open(url)
        assert state(again) == before
        again.close()
    pytest.fail("no commit went through")


def attempt(store: Store, entries: list[Entry]) -> str | None:
    """What a commit says when it fails."""
    try:
        store.commit("r1", entries, Claim(1, count=4), now_ms=1)
    except LedgerError as failure:
        return str(failure)
    return None


def test_full_disk(store: Store, path: Path) -> None:
    """A full disk ends the record in a known place; what was there before stays."""
    plan(store, devices(2000))
    raw = store._database.raw
    pages = raw.execute("PRAGMA page_count").fetchone()[0]
    raw.execute(f"PRAGMA max_page_count={pages + 12}")
    last = state(store)
    run = life(store)
    with pytest.raises(LedgerError) as raised:  # noqa: PT012  # which commit fails is SQLite's
        while True:
            next(run)
            last = state(store)
    assert str(raised.value) == f"ledger {path}: disk full"
    assert state(store) == last
    assert last[2] > 0


async def _inline(fn: Callable[[], T], /) -> T:
    return fn()


@pytest.mark.parametrize("number", [*range(1, 40), 60, 90, 130])
def test_a_run_on_a_bad_disk(tmp_path: Path, number: int) -> None:
    """Row 48: every entry is durable or pending, none is lost and none is both."""
    store = Store.open(f"sqlite:///{tmp_path}/l.db")
    plan(store, devices(30))
    put: list[Entry] = []
    clock = VirtualClock()

    async def run() -> list[Entry]:
        writer = Writer(store, "r1", _inline, clock, 2, lambda *_: None)
        writer.open_pass(1)

        async def send(claimed: ClaimedTarget) -> None:
            ordinal = claimed.target.ordinal
            put.append(outcome(ordinal, "cancelled", f"a{ordinal}"))
            writer.put(put[-1])

        async with anyio.create_task_group() as group:
            group.start_soon(writer.serve)
            try:
                while batch := await writer.claim():
                    for claimed in batch:
                        await send(claimed)
                await writer.flush()
            except LedgerError:
                pass
            writer.close()
        return list(writer.pending())

    fail_at(store, number)
    pending = anyio.run(run)
    store.close()
    again = Store.open(f"sqlite:///{tmp_path}/l.db")
    durable = [row.ordinal for row in again.rows("r1") if row.outcome == "cancelled"]
    assert sorted([*durable, *(e.ordinal for e in pending)]) == [e.ordinal for e in put]
    in_doubt = {doubt.ordinal for doubt in again.in_doubt("r1")}
    assert {entry.ordinal for entry in pending} <= in_doubt  # write-ahead: nothing unclaimed went
    assert len(in_doubt) <= 4
    again.close()


KILLED = """
import os, sys
from tests.ledger.plans import devices, outcome, plan
from worker.ledger.entry import Claim
from worker.ledger.store import Store
store = Store.open(sys.argv[1])
plan(store, devices(100000))
entries = []
while True:
    granted = store.commit("r1", entries, Claim(1, count=8), now_ms=5000)
    claimed = [each.target.ordinal for each in granted.targets]
    os.write(1, (" ".join(map(str, claimed)) + "\\n").encode())
    entries = [outcome(ordinal, "cancelled", f"a{ordinal}") for ordinal in claimed]
"""


def test_killed(url: str, tmp_path: Path) -> None:
    """Row 44: after SIGKILL at any moment, what went out is recorded or named as in doubt."""
    for number in range(2):
        url = f"sqlite:///{tmp_path}/k{number}.db"
        root = Path(__file__).parents[2]
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE, text=True, cwd=root
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5 + 40 * number)]
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        whole = ("".join(lines) + rest).rpartition("\n")[0]
        sent = {int(word) for word in whole.split()}
        store = Store.open(url)
        doubts = {doubt.ordinal for doubt in store.in_doubt("r1")}
        settled = {
            row.ordinal
            for row in store.rows("r1")
            if row.outcome == "cancelled" and row.commandIds == (f"a{row.ordinal}",)
        }
        assert sent <= settled | doubts
        assert len(doubts) <= 16
        store.close()
