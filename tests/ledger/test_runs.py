"""Heads of runs: what is kept of one, finding the one that is meant, its state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import event

from tests.ledger.plans import claim, counted, devices, new_run, outcome, plan, record, staged
from worker.errors import UsageError
from worker.ledger.lock import job_lock
from worker.ledger.store import Store
from worker.model import (
    OutcomeKind,
    Rehearsal,
    Requests,
    RunEnd,
    RunRecord,
    Spent,
    Stop,
    Verified,
)


def frozen(store: Store, run_id: str, job: str = "nightly", **more: Any) -> None:
    with store.draft() as draft:
        draft.add([staged("a")])
        store.freeze(draft, new_run(run_id, job, **more), ["a.yaml"])


def test_head(store: Store) -> None:
    """A run's head comes back as it was given, and grows by what happens."""
    frozen(store, "r1", rehearsal=True)
    digest, _ = store.planned("r1")
    planned = RunRecord(
        run_id="r1",
        job="nightly",
        reason="CHG-1",
        actor="me@host",
        orgId="o1",
        gateway="prod https://gw",
        scope="all_cached",
        digest=digest,
        version="0.1",
        planned_ms=1000,
        targets=1,
        settings=b'{"rate":1}',
        rehearsal=Rehearsal("calm", 7),
    )
    assert store.run("r1") == planned
    store.start("r1", 2000)
    store.start("r1", 3000)
    end = RunEnd(
        finished_ms=4000,
        exit_code=5,
        exit_reasons=("stopped",),
        stop=Stop("auth", "bad keys", 1, 2, ("q",)),
        verified=Verified(1, 2, 3),
        log_dropped=6,
        reports={"a.csv": "00"},
    )
    spent = Spent(Requests(3, 4, 5), 9, complete=False)
    store.finish("r1", end, Rehearsal("calm", 7, truth_matches=True), spent)
    done = store.run("r1")
    assert done.spent == spent
    assert (done.state, done.first_started_ms, done.started_ms) == ("stopped", 2000, 3000)
    assert (done.end, done.rehearsal) == (end, Rehearsal("calm", 7, truth_matches=True))


def test_begun_again(store: Store) -> None:
    """A run that is resumed has no end until it ends again."""
    frozen(store, "r1")
    store.start("r1", 2000)
    store.finish("r1", RunEnd(4000, 4))
    store.start("r1", 5000)
    assert (store.run("r1").end, store.run("r1").state) == (None, "interrupted")


def test_what_starts_have_used(store: Store) -> None:
    """A later start goes on with it; once one had no end, it is no longer complete."""
    frozen(store, "r1")
    used, more = Spent(Requests(3, 2, 1), 900), Spent(Requests(5, 2, 1), 1900)
    store.start("r1", 2000)
    store.finish("r1", RunEnd(3000, 4), spent=used)
    store.start("r1", 5000)
    assert store.run("r1").spent == replace(used, complete=False), "interrupted by now"
    store.commit("r1", [], now_ms=6000, spent=more)
    store.commit("r1", [], now_ms=6001)
    store.start("r1", 7000)
    store.finish("r1", RunEnd(8000, 0))
    assert store.run("r1").spent == replace(more, complete=False)


def test_states(store: Store, url: str) -> None:
    """Running is who holds the job's lock; an earlier run of the job without an end is not."""
    for run_id in ("r1", "r2", "r3"):
        frozen(store, run_id)
    store.start("r1", 1)
    store.start("r2", 2)
    with job_lock(url, "nightly", "r2"):
        states = {run.run_id: run.state for run in store.runs()}
    assert states == {"r3": "planned", "r2": "running", "r1": "interrupted"}
    assert store.run("r2").state == "interrupted"
    store.finish("r2", RunEnd(3, 0))
    assert store.run("r2").state == "stopped", "one target is left"
    store.start("r2", 4)
    claim(store, 1, run_id="r2")
    record(store, outcome(0), run_id="r2")
    store.finish("r2", RunEnd(5, 0))
    assert store.run("r2").state == "finished"


def test_temporary_state(temporary: Store) -> None:
    """A ledger without a file dies with its process: what has begun is running."""
    plan(temporary, devices(1))
    assert temporary.run("r1").state == "running"


def test_listing(store: Store) -> None:
    """The last to begin first, of one job or all, as many as asked for."""
    for run_id, job in (("r1", "a"), ("r2", "b"), ("r3", "a")):
        frozen(store, run_id, job)
    assert [run.run_id for run in store.runs()] == ["r3", "r2", "r1"]
    assert [run.run_id for run in store.runs("a")] == ["r3", "r1"]
    assert [run.run_id for run in store.runs("a", 1)] == ["r3"]
    store.start("r2", 3000)
    store.start("r1", 2000)
    store.start("r2", 4000)
    assert [run.run_id for run in store.runs()] == ["r2", "r1", "r3"]


def test_a_run_that_ended_is_not_counted_again(store: Store) -> None:
    """Its outcomes are counted once, when it ends; a resume begins without that."""
    plan(store, devices(3))
    claim(store, 2)
    record(store, outcome(0, "cancelled", "1"), outcome(1))
    asked = reads_of_outcomes(store)
    assert counted(store) == {"cancelled": 1, "nothing_cached": 1, "not_attempted": 1}
    assert asked, "it had not ended"
    store.finish("r1", RunEnd(3000, 0))
    asked.clear()
    store.finish("r1", RunEnd(3001, 0))
    counts = {kind: number for kind, number in store.counts("r1").items() if number}
    assert counts == {
        OutcomeKind.CANCELLED: 1,
        OutcomeKind.NOTHING_CACHED: 1,
        OutcomeKind.NOT_ATTEMPTED: 1,
    }
    assert [run.state for run in store.runs()] == ["stopped"]
    assert asked == []
    store.start("r1", 4000)
    claim(store, 1)
    record(store, outcome(2))
    store.finish("r1", RunEnd(5000, 0))
    assert counted(store) == {"cancelled": 1, "nothing_cached": 2}


def reads_of_outcomes(store: Store) -> list[str]:
    """The statements that count outcomes from now on."""
    asked: list[str] = []

    def listen(_connection: object, _cursor: object, sql: str, *_rest: object) -> None:
        if "FROM outcome" in sql and "count(" in sql and "FROM claim" not in sql:
            asked.append(sql)

    event.listen(store._database.engine, "before_cursor_execute", listen)
    return asked


def test_unfinished(store: Store) -> None:
    """The newest run of the job that was started and has no end."""
    assert store.unfinished("a") is None
    for run_id, job in (("r1", "a"), ("r2", "a"), ("r3", "b"), ("r4", "a")):
        frozen(store, run_id, job)
    store.start("r1", 1)
    store.start("r2", 1)
    store.start("r3", 1)
    newest = store.unfinished("a")
    assert newest is not None
    assert newest.run_id == "r2"
    store.finish("r2", RunEnd(2, 0))
    older = store.unfinished("a")
    assert older is not None
    assert older.run_id == "r1"


@pytest.mark.parametrize(
    ("text", "run_id"),
    [
        ("20261122T020500Z-k3f9ab", "20261122T020500Z-k3f9ab"),
        ("20261122T0205", "20261122T020500Z-k3f9ab"),
        ("20261123", "20261123"),
    ],
)
def test_resolve(store: Store, text: str, run_id: str) -> None:
    """An id, a unique prefix; a whole id before a prefix; to run a plan or to look at it."""
    for name, job in (("20261122T020500Z-k3f9ab", "a"), ("20261123x", "b"), ("20261123", "b")):
        frozen(store, name, job)
    assert store.resolve(text).run_id == run_id
    assert store.resolve(text, plan=True).run_id == run_id


def test_last(store: Store) -> None:
    """The run that was started last, however old its plan; to run a plan, one that was not."""
    for run_id, job in (("r1", "a"), ("r2", "b"), ("r3", "a"), ("r4", "b"), ("r5", "b")):
        frozen(store, run_id, job, rehearsal=run_id == "r5")
    store.start("r2", 2000)
    store.start("r1", 3000)
    last = {text: store.resolve(text).run_id for text in ("last", "last:a", "last:b")}
    assert last == {"last": "r1", "last:a": "r1", "last:b": "r2"}
    plans = {text: store.resolve(text, plan=True).run_id for text in ("last", "last:a")}
    assert plans == {"last": "r4", "last:a": "r3"}, "a rehearsal is no plan to run"
    store.start("r2", 9000)
    assert store.resolve("last").run_id == "r1", "a resume starts no run"


def test_plans_that_nobody_starts(store: Store) -> None:
    """A plan of 14 days that was never started goes when the next one is frozen."""
    day = 86_400_000
    for run_id, at in (("old", 0), ("kept", 1), ("started", 0), ("assumed", 0)):
        frozen(store, run_id, planned_ms=at)
    store.start("started", 1)
    store.assume_sent("assumed")
    frozen(store, "day 13", planned_ms=13 * day)
    all_of_them = ["assumed", "day 13", "kept", "old", "started"]
    assert sorted(run.run_id for run in store.runs()) == all_of_them
    frozen(store, "day 14", planned_ms=14 * day)
    left = ["assumed", "day 13", "day 14", "kept", "started"]
    assert sorted(run.run_id for run in store.runs()) == left
    assert len(store.in_doubt("assumed")) == 1
    raw = store._database.raw
    kept = [raw.execute(f"SELECT count(*) FROM {name}").fetchone() for name in ("target", "source")]
    assert kept == [(5,), (5,)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("S", "S: no such run in ledger {path}: see `cancel-worker runs`"),
        ("s_", "s_: no such run in ledger {path}: see `cancel-worker runs`"),
        ("r1", "r1: 3 runs begin so: write one of r12 (a), r11 (a), r10 (a)"),
        ("last", "last: no run was started in ledger {path}"),
        ("last:b", "last:b: no run of job b was started in ledger {path}"),
    ],
)
def test_unclear(store: Store, path: Path, text: str, said: str) -> None:
    """What cannot be meant is named, with the candidates; letters and signs are literal."""
    for run_id in ("r10", "r11", "r12", "sx"):
        frozen(store, run_id, "a")
    with pytest.raises(UsageError) as raised:
        store.resolve(text)
    assert str(raised.value) == said.format(path=path)


def test_many_candidates(store: Store) -> None:
    """Ten candidates are named, the newest first, and that there are more."""
    for number in range(12):
        frozen(store, f"r{number:02}")
    with pytest.raises(UsageError) as raised:
        store.resolve("r")
    listed = ", ".join(f"r{number:02} (nightly)" for number in range(11, 1, -1))
    assert str(raised.value) == f"r: 12 runs begin so: write one of {listed}, …"


def test_no_runs(store: Store) -> None:
    """An empty ledger says so."""
    with pytest.raises(UsageError, match="last: no run was started in ledger"):
        store.resolve("last")
    with pytest.raises(UsageError, match="last:a: no plan of job a waits to be run in ledger"):
        store.resolve("last:a", plan=True)
    with pytest.raises(UsageError, match="r1: no such run"):
        store.run("r1")
    with pytest.raises(UsageError, match="r1: no such run"):
        claim(store, 1)


def test_looking_makes_no_ledger(tmp_path: Path) -> None:
    """Where there is none, a command that only looks sees an empty one and leaves nothing."""
    store = Store.look(f"sqlite:///{tmp_path}/none/ledger.db")
    assert store.runs() == []
    with pytest.raises(UsageError) as raised:
        store.resolve("last")
    store.close()
    assert str(raised.value) == f"last: no run was started in ledger {tmp_path}/none/ledger.db"
    assert list(tmp_path.iterdir()) == []


def test_pauses(store: Store, url: str) -> None:
    """What a gateway asked for outlives the process; the later moment holds until it is over."""
    seen = []
    for until_ms in (5000, 9000, 7000):
        store.keep_pause("https://one", until_ms)
        seen.append(store.pause("https://one"))
    other = Store.open(url)
    seen += [other.pause("https://one"), other.pause("https://two")]
    for until_ms in (8999, 9000):
        other.forget_pause("https://one", until_ms)
        seen.append(store.pause("https://one"))
    other.close()
    assert seen == [5000, 9000, 9000, 9000, None, 9000, None]
