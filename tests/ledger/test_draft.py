"""From rows to a frozen plan: order, uniting, joining, repeats, the digest."""

from __future__ import annotations

import hashlib
import resource
import sys
import time

import pytest

from tests.ledger.plans import Staged, claim, new_run, staged
from worker.errors import UsageError
from worker.ledger.draft import Draft
from worker.ledger.entry import Frozen
from worker.ledger.store import Store
from worker.model import AllCached, AssetId, DeviceKey, Listed, Target

FILES = ["a.yaml", "fleet.csv", "more.ndjson"]


def freeze(store: Store, *rows: Staged, scope: str = "all_cached", run_id: str = "r1") -> Frozen:
    with store.draft() as draft:
        for row in rows:
            draft.add([row])
        return store.freeze(draft, new_run(run_id, scope=scope), FILES)


def targets(store: Store, run_id: str = "r1") -> list[Target]:
    store.start(run_id, 1)
    return [claimed.target for claimed in claim(store, 100, run_id=run_id)]


def test_order_and_source(temporary: Store) -> None:
    """Targets are numbered as they were named, each with the place that named it."""
    freeze(temporary, staged("b", 3), staged("@x", 9), staged("a", 2, source=1))
    assert targets(temporary) == [
        Target(0, DeviceKey("p", "b"), "o1", AllCached(), "a.yaml:3"),
        Target(1, AssetId("x"), "o1", AllCached(), "a.yaml:9"),
        Target(2, DeviceKey("p", "a"), "o1", AllCached(), "fleet.csv:2"),
    ]


def test_united(temporary: Store) -> None:
    """One device in several sources is one target, named by the first; each reunion counts."""
    frozen = freeze(
        temporary,
        staged("a", 1),
        staged("b", 2),
        staged("b", 7, source=1),
        staged("c", 8, source=1),
        staged("b", 9, source=2),
        staged("a", 10, source=2),
    )
    found = [(t.ordinal, t.device, t.source) for t in targets(temporary)]
    assert found == [
        (0, DeviceKey("p", "a"), "a.yaml:1"),
        (1, DeviceKey("p", "b"), "a.yaml:2"),
        (2, DeviceKey("p", "c"), "fleet.csv:8"),
    ]
    assert (frozen.targets, frozen.united, frozen.commands) == (3, 3, 0)


def test_given_up(temporary: Store) -> None:
    """A long statement ends, nothing of the plan is left, and the ledger takes the next one."""
    asked: list[bool] = []

    def given_up() -> bool:
        asked.append(True)
        return True

    def plan(draft: Draft) -> None:
        draft.add([staged(f"d{number}", number + 1) for number in range(20_000)])
        temporary.freeze(draft, new_run("r1"), FILES)

    with temporary.draft(given_up) as draft, pytest.raises(UsageError, match="given up"):
        plan(draft)
    assert asked
    assert temporary.runs() == []
    freeze(temporary, staged("a", 1))
    assert [run.run_id for run in temporary.runs()] == ["r1"]


def test_spellings_stay_apart(temporary: Store) -> None:
    """Neither an assetId and a key of one text, nor keys that only join to one, are united."""
    rows: list[Staged] = [
        (0, 1, 1, "p", "x", None, None),
        (0, 2, 1, None, None, "x", None),
        (0, 3, 1, "px", "", None, None),
        (0, 4, 1, "x", "p", None, None),
    ]
    assert freeze(temporary, *rows).targets == 4


def test_joined(temporary: Store) -> None:
    """The commandIds of a device's rows become one list: in order, each once."""
    frozen = freeze(
        temporary,
        staged("a", 2, 1, "3 1"),
        staged("b", 3, 1, "9"),
        staged("a", 4, 1, "2"),
        staged("a", 5, 1, "1 4"),
        staged("a", 2, 2, "4 5"),
        scope="listed",
    )
    assert [(t.device, t.scope, t.source) for t in targets(temporary)] == [
        (DeviceKey("p", "a"), Listed(("3", "1", "2", "4", "5")), "fleet.csv:2"),
        (DeviceKey("p", "b"), Listed(("9",)), "fleet.csv:3"),
    ]
    assert (frozen.targets, frozen.commands, frozen.united) == (2, 6, 1)


def test_joined_in_slices(temporary: Store) -> None:
    """A device's ids stay together however many rows there are."""
    rows = [staged(f"d{n % 7}", n, 1, str(n)) for n in range(25_000)]
    with temporary.draft() as draft:
        draft.add(rows)
        frozen = temporary.freeze(draft, new_run(scope="listed"), FILES)
    assert (frozen.targets, frozen.commands) == (7, 25_000)
    assert targets(temporary)[3].scope == Listed(tuple(str(n) for n in range(3, 25_000, 7)))


def test_many_joined(temporary: Store) -> None:
    """More joined devices than one slice holds."""
    with temporary.draft() as draft:
        draft.add([staged(f"d{n // 2}", n, 1, str(n)) for n in range(20_100)])
        frozen = temporary.freeze(draft, new_run(scope="listed"), FILES)
    assert (frozen.targets, frozen.commands) == (10_050, 20_100)


def test_repeats(temporary: Store) -> None:
    """The same spelling twice in one source, in the order of the second; joined rows are none."""
    rows = [
        staged("a", 1),
        staged("b", 2, ids="1"),
        staged("a", 3),
        staged("b", 4, ids="2"),  # the job file is never joined
        staged("c", 1, 1, "1"),
        staged("c", 2, 1, "2"),  # joined
        staged("d", 3, 1, "1"),
        staged("d", 4, 1),  # one of them carries none
        staged("a", 5, 1),  # another source
        staged("@a", 6),
        staged("a", 7),
    ]
    with temporary.draft() as draft:
        draft.add(rows)
        pairs = [(0, 2), (1, 3), (6, 7), (0, 10)]
        assert draft.repeats(20) == [(rows[first], rows[again]) for first, again in pairs]
        assert draft.repeats(1) == [(rows[0], rows[2])]
        draft.add([staged("@a", 8)])
        assert draft.repeats(20)[-1] == (rows[9], staged("@a", 8))


def test_digest(temporary: Store) -> None:
    """sha256 over organization, scope and the list in order; places are not part of it."""
    plain = freeze(temporary, staged("a", 1), staged("@x", 2))
    said = b'["o1","all_cached"]\n["p","a",null,null]\n[null,null,"x",null]\n'
    assert plain.digest == hashlib.sha256(said).hexdigest()
    assert freeze(temporary, staged("a", 8, 1), staged("@x", 9), run_id="r2").digest == plain.digest
    assert freeze(temporary, staged("@x"), staged("a"), run_id="r3").digest != plain.digest
    listed = freeze(temporary, staged("a", ids="1"), scope="listed", run_id="r4")
    assert freeze(temporary, staged("a"), scope="listed", run_id="r5").digest != listed.digest
    assert temporary.planned("r4") == (listed.digest, 1)


def test_digest_notices_a_change(temporary: Store) -> None:
    """A list that somebody changed in the database has another digest."""
    frozen = freeze(temporary, staged("a"), staged("b"))
    temporary._database.raw.execute("UPDATE target SET deviceKey = 'c' WHERE ordinal = 1")
    assert temporary.planned("r1")[0] != frozen.digest


def test_all_or_nothing(store: Store) -> None:
    """A plan that could not be written leaves no trace; the run cannot be found."""
    raw = store._database.raw
    with store.draft() as draft:
        draft.add([staged(f"d{n}") for n in range(5000)])
        raw.execute(f"PRAGMA max_page_count={raw.execute('PRAGMA page_count').fetchone()[0] + 5}")
        with pytest.raises(UsageError, match="disk full"):
            store.freeze(draft, new_run(), FILES)
    counts = [raw.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("run", "target")]
    assert (store.runs(), counts) == ([], [0, 0])


def test_draft_is_gone(store: Store) -> None:
    """Rows of a draft reach neither the ledger's file nor the next draft."""
    for _ in range(2):
        with store.draft() as draft:
            draft.add([])
            draft.add([staged("a")])
            assert draft.repeats(5) == []
    names = store._database.raw.execute("SELECT count(*) FROM sqlite_temp_master").fetchone()
    assert names == (0,)


def test_discard(store: Store) -> None:
    """A plan that was never started can be forgotten; one that was, cannot."""
    freeze(store, staged("a"))
    freeze(store, staged("b"), run_id="r2")
    store.discard("r1")
    assert [run.run_id for run in store.runs()] == ["r2"]
    store.start("r2", 5)
    with pytest.raises(UsageError, match="r2 was started"):
        store.discard("r2")
    assert store._database.raw.execute("SELECT count(*) FROM target").fetchone() == (1,)


def _timed(store: Store, rows: int) -> tuple[float, float]:
    """Seconds to lay out and freeze so many rows, and the growth of memory in MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = 0.0
    with store.draft() as draft:
        for lo in range(0, rows, 10_000):
            chunk = [staged(f"mqtt_{n:07d}", n, 1) for n in range(lo, lo + 10_000)]
            began = time.perf_counter()
            draft.add(chunk)
            spent += time.perf_counter() - began
        began = time.perf_counter()
        assert draft.repeats(20) == []
        assert store.freeze(draft, new_run(), FILES).targets == rows
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return spent + time.perf_counter() - began, grown / 1024


@pytest.mark.parametrize(
    ("rows", "seconds"), [(100_000, 4.0), pytest.param(1_000_000, 16.0, marks=pytest.mark.slow)]
)
def test_many_rows(store: Store, rows: int, seconds: float) -> None:
    """A million rows are frozen in flat memory; half the goal's speed is enough on a busy host."""
    if sys.gettrace() is not None:
        seconds *= 4  # coverage counts lines, not time
    took, grown = _timed(store, rows)
    assert took < seconds
    assert grown < 30
