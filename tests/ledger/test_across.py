"""Questions across the runs of one ledger."""

from __future__ import annotations

import time
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import event

from tests.ledger.plans import claim, devices, mark, outcome, plan, put_off, record, told
from tests.simulation.clock import VirtualClock
from worker.cli.engine import Past
from worker.ledger.entry import AlsoTouched, Entry, Found, Touched
from worker.ledger.store import Store
from worker.model import AssetId, DeviceKey, Identity, OutcomeKind, Proof, RunEnd

HOUR = 3_600_000


def elsewhere(store: Store, run_id: str, ordinal: int, *ids: str) -> set[str]:
    """What `recorded_elsewhere` says where nobody sets the clock."""
    return store.recorded_elsewhere(run_id, ordinal, ids, in_order_ms=10_000)


def test_recorded_elsewhere(temporary: Store) -> None:
    """Recorded by another run or another target of this run; not by the target itself."""
    plan(temporary, ["a"], "r0")
    claim(temporary, 1, run_id="r0")
    record(temporary, outcome(0, "cancelled", "1"), run_id="r0")
    plan(temporary, ["a", "b"])
    claim(temporary, 2)
    missed = Entry(1, 1, (told("9", "not_cached"),), None)
    record(temporary, outcome(0, "cancelled", "2", "3"), missed)
    assert elsewhere(temporary, "r1", 1, "1", "2", "3", "4", "9") == {"1", "2", "3"}
    assert elsewhere(temporary, "r1", 0, "1", "2", "3", "4") == {"1"}
    assert elsewhere(temporary, "r1", 0) == set()


@pytest.mark.parametrize(
    ("evidence", "recorded_ms", "in_order_ms", "left_out"),
    [
        ("response", 9_000, 0, True),  # a command is cancelled once
        ("search", 4_999, 10_000, True),  # found before this run could have sent anything
        ("search", 5_000, 10_000, False),  # as likely after as before
        ("search", 9_000, 10_000, False),  # found when this run's call may have been executed
        ("search", 4_999, 5_000, True),
        ("search", 4_999, 4_999, False),  # claimed in the future: the clock was set back
        ("search", 4_999, 0, False),
    ],
)
def test_what_another_run_found_may_be_ours(
    temporary: Store, evidence: Proof, recorded_ms: int, in_order_ms: int, *, left_out: bool
) -> None:
    """Row 99: a search of another run tells who cancelled only if it came before our claim."""
    plan(temporary, ["a", "b"])
    plan(temporary, ["b"], "r2")
    claim(temporary, 1, now_ms=4_000)
    claim(temporary, 1, now_ms=5_000)
    claim(temporary, pass_no=2, members=(1,), now_ms=9_500)
    claim(temporary, 1, run_id="r2", now_ms=4_500)
    found = replace(told("1"), evidence=evidence)
    record(temporary, Entry(0, 1, (found,), None), run_id="r2", now_ms=recorded_ms)
    seen = temporary.recorded_elsewhere("r1", 1, ["1", "2"], in_order_ms=in_order_ms)
    assert seen == ({"1"} if left_out else set())


@pytest.mark.parametrize(("ms", "left_out"), [(0, {"1"}), (3_600_000, {"1"}), (-2_000, set())])
async def test_a_clock_that_was_set_back_orders_nothing(
    temporary: Store, ms: int, left_out: set[str]
) -> None:
    """Row 99: set back during a run, it may put what another run found before our claim."""
    plan(temporary, ["a"])
    plan(temporary, ["a"], "r2")
    claim(temporary, 1, now_ms=5_000)
    claim(temporary, 1, run_id="r2", now_ms=4_500)
    found = replace(told("1"), evidence="search")
    record(temporary, Entry(0, 1, (found,), None), run_id="r2", now_ms=4_600)
    clock = VirtualClock()
    past = Past(temporary, "r1", clock, None)
    clock.jump(ms)
    assert past.recorded_elsewhere(0, ["1"]) == left_out


def test_rehearsals_are_worlds_of_their_own(temporary: Store) -> None:
    """Invented ids and doubts concern nobody else, and a rehearsal sees no other run."""
    for run_id, rehearsal in (("x1", True), ("x2", True), ("r1", False), ("r2", False)):
        plan(temporary, ["a", "x" if rehearsal else "b"], run_id, rehearsal=rehearsal)
        claim(temporary, 2, run_id=run_id)
        record(temporary, outcome(0, "cancelled", "1"), run_id=run_id)
    seen = {
        run_id: (
            elsewhere(temporary, run_id, 0, "1"),
            set(temporary.open_intents(run_id)),
            temporary.also_touched_by(run_id),
        )
        for run_id in ("x1", "x2", "r1", "r2")
    }
    b = DeviceKey("p", "b")
    assert seen == {
        "x1": (set(), set(), AlsoTouched()),
        "x2": (set(), set(), AlsoTouched()),
        "r1": ({"1"}, {b}, AlsoTouched([Touched("r2", "nightly", 2)])),
        "r2": ({"1"}, {b}, AlsoTouched([Touched("r1", "nightly", 2)])),
    }
    assert elsewhere(temporary, "x1", 1, "1") == {"1"}


def test_open_intents(temporary: Store) -> None:
    """Devices in doubt elsewhere, as spelled, each since its earliest possible sending."""
    plan(temporary, ["a", "b", "@x", "c"], "r0")
    claim(temporary, 3, run_id="r0", now_ms=5000)
    record(temporary, outcome(1), mark(2, first=77), run_id="r0")
    plan(temporary, ["a"], "r00")
    claim(temporary, 1, run_id="r00", now_ms=4000)
    plan(temporary, ["a"], "else", orgId="o2")
    claim(temporary, 1, run_id="else", now_ms=1)
    plan(temporary, ["a"])
    claim(temporary, 1, now_ms=1)
    expected = {DeviceKey("p", "a"): 4000, AssetId("x"): 77}
    assert temporary.open_intents("r1") == expected


def test_open_intents_of_a_run_whose_clocks_differ(temporary: Store) -> None:
    """Row 96: its claims are by its own clock, which may be late by what it saw."""
    plan(temporary, ["a"], "r0")
    claim(temporary, 1, run_id="r0", now_ms=9_000)
    temporary.commit("r0", [], now_ms=9_000, clock_apart_ms=4_000)
    plan(temporary, ["a"])
    assert temporary.open_intents("r1") == {DeviceKey("p", "a"): 5_000}


@pytest.mark.parametrize("by", ["outcome", "command"])
@pytest.mark.parametrize(("doubted", "called"), [("@x", "a"), ("a", "@x")])
def test_open_intents_by_the_other_name(
    temporary: Store, by: str, doubted: str, called: str
) -> None:
    """Row 105: in doubt by one name, called by the other: told by replies of any run."""
    pair, asset = DeviceKey("p", "a"), AssetId("x")
    reply = outcome(0, identity=Identity("p", "a", "x"))
    if by == "command":
        named = told("1", productKey="p", deviceKey="a", assetId="x")
        reply = outcome(0, "cancelled", commands=(named,))
    plan(temporary, [doubted], "first")
    claim(temporary, 1, run_id="first")
    record(temporary, reply, run_id="first")
    temporary.finish("first", RunEnd(9, 0))
    plan(temporary, [doubted, f"{doubted}2"], "crashed")
    claim(temporary, 2, run_id="crashed", now_ms=7_000)
    plan(temporary, [called])
    as_doubted = {asset, AssetId("x2")} if doubted == "@x" else {pair, DeviceKey("p", "a2")}
    in_both = dict.fromkeys({pair, asset, *as_doubted}, 7_000)
    assert temporary.open_intents("r1") == in_both
    plan(temporary, [doubted], "as before")  # all in one spelling: nothing is searched for it
    assert temporary.open_intents("as before") == dict.fromkeys(as_doubted, 7_000)


def test_other_names_from_rehearsals_and_other_organizations(temporary: Store) -> None:
    """Invented replies and those about other devices of that name tell nothing."""
    for run_id, more in (("x", {"rehearsal": True}), ("o", {"orgId": "o2"})):
        plan(temporary, ["a"], run_id, **more)
        claim(temporary, 1, run_id=run_id)
        record(temporary, outcome(0, identity=Identity("p", "a", "x")), run_id=run_id)
    plan(temporary, ["a"], "crashed")
    claim(temporary, 1, run_id="crashed", now_ms=7_000)
    plan(temporary, ["@x"])
    assert temporary.open_intents("r1") == {DeviceKey("p", "a"): 7_000}


def test_intents_of_finished_runs(temporary: Store) -> None:
    """A finished run has no intents, unless it ended with targets in doubt."""
    for run_id, settled in (("clean", True), ("not", False)):
        plan(temporary, [run_id], run_id)
        claim(temporary, 1, run_id=run_id)
        if settled:
            record(temporary, outcome(0), run_id=run_id)
        temporary.finish(run_id, RunEnd(9, 0))
    plan(temporary, ["a"])
    assert temporary.open_intents("r1") == {DeviceKey("p", "not"): 5000}


def test_thousands_of_finished_runs(temporary: Store) -> None:
    """The question is as cheap on an old ledger as on a new one."""
    plan(temporary, devices(50), "r0")
    claim(temporary, 50, run_id="r0")
    raw = temporary._database.raw
    names = [row[1] for row in raw.execute("PRAGMA table_info(run)")]
    values = ", ".join(
        {"run": "n + 10", "run_id": "'old' || n", "finished_ms": "1", "doubts": "0"}.get(
            n, f'"{n}"'
        )
        for n in names
    )
    raw.execute(
        f"INSERT INTO run WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t "
        f"WHERE n < 5000) SELECT {values} FROM run, t WHERE run_id = 'r0'"
    )
    plan(temporary, ["a"])
    began = time.perf_counter()
    assert len(temporary.open_intents("r1")) == 50
    assert time.perf_counter() - began < 0.5


def test_find_command(temporary: Store) -> None:
    """A command is found in every run that told of it, the newest first, and when."""
    for run_id, result in (("r0", "unknown"), ("r1", "cancelled")):
        plan(temporary, ["@x"], run_id, job=run_id)
        claim(temporary, 1, run_id=run_id)
        entry = Entry(0, 1, (told("7", result, productKey="p", deviceKey="k"), told("8")), None)
        record(temporary, entry, run_id=run_id, now_ms=6000)
        record(temporary, outcome(0, "cancelled"), run_id=run_id, now_ms=7000)
    identity = Identity("p", "k", "x")
    kind = OutcomeKind.CANCELLED
    assert temporary.find("commandId", "7") == [
        Found("r1", "r1", 0, identity, kind, 6000, "7", "cancelled"),
        Found("r0", "r0", 0, identity, kind, 6000, "7", "unknown"),
    ]
    assert temporary.find("commandId", "70") == []


def test_find_rehearsals(temporary: Store) -> None:
    """A rehearsal touched nothing: it is named only where it is asked for, and marked."""
    for run_id in ("r0", "r1"):
        plan(temporary, ["k"], run_id, rehearsal=run_id == "r1")
        claim(temporary, 1, run_id=run_id)
        record(temporary, outcome(0, "cancelled", "7"), run_id=run_id)
    asked = (("commandId", "7"), ("deviceKey", "k"))
    real = Found("r0", "nightly", 0, Identity("p", "k"), OutcomeKind.CANCELLED, 6000, "7")
    real = replace(real, result="cancelled")
    rehearsed = replace(real, run_id="r1", rehearsal=True)
    assert [temporary.find(*each) for each in asked] == [[real]] * 2
    with_them = [temporary.find(*each, rehearsals=True) for each in asked]
    assert with_them == [[rehearsed, real]] * 2


@pytest.mark.parametrize("ended", [False, True])
def test_find_by_a_name_that_only_replies_told(temporary: Store, *, ended: bool) -> None:
    """A run is found by either name of a device, while it is on and when it has ended."""
    plan(temporary, ["k", "@x", "m", "n", "o"])
    claim(temporary, 5)
    record(
        temporary,
        outcome(0, "cancelled", "1", identity=Identity("p", "k", "y")),
        outcome(1, "cancelled", "2", identity=Identity("p", "j", "x")),
        Entry(2, 1, (told("3", productKey="p", deviceKey="m", assetId="z"),), None),
        Entry(3, 1, (told("4", productKey="q", deviceKey="k"),), outcome(3, "anomalous").verdict),
        put_off(4),
    )
    claim(temporary, pass_no=2, members=(4,))
    record(temporary, outcome(4, pass_no=2, identity=Identity("p", "o", "y")))
    if ended:
        temporary.finish("r1", RunEnd(7000, 4))
        temporary.finish("r1", RunEnd(7001, 4))
    names = [("deviceKey", each) for each in "kjmx"] + [("assetId", each) for each in "xyzk"]
    found = {f"{n}={v}": [f.ordinal for f in temporary.find(n, v)] for n, v in names}
    assert found == {
        "deviceKey=k": [0, 3],
        "deviceKey=j": [1],
        "deviceKey=m": [2],
        "deviceKey=x": [],
        "assetId=x": [1],
        "assetId=y": [0, 4],
        "assetId=z": [2],
        "assetId=k": [],
    }
    if ended:  # what a later start is told of is found again when that has ended
        temporary.start("r1", 8000)
        assert [f.ordinal for f in temporary.find("assetId", "z")] == [2]
        record(temporary, outcome(2, "cancelled", pass_no=3, identity=Identity("p", "m", "w")))
        temporary.finish("r1", RunEnd(9000, 4))
        assert [f.ordinal for f in temporary.find("assetId", "w")] == [2]


def test_find_reads_no_table_from_end_to_end(temporary: Store) -> None:
    """Whatever the history: each table of devices is entered by a key or an index."""
    plan(temporary, ["k", "@x"])
    claim(temporary, 2)
    record(temporary, outcome(0, "cancelled", "1"), outcome(1))
    temporary.finish("r1", RunEnd(7000, 0))
    asked: list[tuple[str, Any]] = []

    def listen(_c: object, _cursor: object, sql: str, values: Any, *_rest: object) -> None:
        asked.append((sql, values))

    event.listen(temporary._database.engine, "before_cursor_execute", listen)
    for name, value in (("commandId", "1"), ("deviceKey", "k"), ("assetId", "x")):
        assert temporary.find(name, value)
    raw = temporary._database.raw
    steps = {
        step[3]
        for sql, values in asked
        for step in raw.execute(f"EXPLAIN QUERY PLAN {sql}", values)
        if not sql.startswith("BEGIN")
    }
    assert "SEARCH target USING COVERING INDEX target_assetId (run=? AND assetId=?)" in steps
    assert [step for step in steps if "SCAN" in step] == ["SCAN run USING INDEX run_open"]


def test_find_device(temporary: Store) -> None:
    """A device is found as planned and as told; where it was only planned, nothing touched it."""
    plan(temporary, ["k"], "r0")  # claimed and nothing more: in doubt
    claim(temporary, 1, run_id="r0")
    plan(temporary, ["@x", "@y", "k"])
    claim(temporary, 3)
    record(
        temporary,
        outcome(0, "nothing_cached", identity=Identity("p", "k", "x")),
        Entry(1, 1, (told("1", productKey="q", deviceKey="k"), told("2")), None),
        outcome(2, "cancelled", "3"),
    )
    plan(temporary, ["k"], "r2")
    found = [
        (f.run_id, f.ordinal, f.outcome.value, f.at_ms, f.commandId)
        for f in temporary.find("deviceKey", "k")
    ]
    assert found == [
        ("r1", 0, "nothing_cached", 6000, None),
        ("r1", 1, "cancelled_incomplete", 6000, "1"),
        ("r1", 1, "cancelled_incomplete", 6000, "2"),
        ("r1", 2, "cancelled", 6000, "3"),
        ("r0", 0, "unknown", None, None),
    ]


def touched(
    store: Store, run_id: str, names: list[str], began: int, ended: int | None, **more: Any
) -> None:
    """A run that settled the first two of its targets; without an end it has them in doubt."""
    plan(store, names, run_id, **more)
    store._database.raw.execute(
        "UPDATE run SET first_started_ms = ?, started_ms = ? WHERE run_id = ?",
        (began, began, run_id),
    )
    claim(store, 2, run_id=run_id)
    if ended is not None:
        record(store, *map(outcome, range(min(2, len(names)))), run_id=run_id)
        store.finish(run_id, RunEnd(ended, 0))


NOW = 100 * HOUR


def test_also_touched(temporary: Store) -> None:
    """Runs that overlapped, or touched the same devices within 48 h before, and how many."""
    touched(temporary, "long ago", ["a", "b"], 1, NOW - 48 * HOUR - 1)
    touched(temporary, "before", ["a", "@x"], 1, NOW - 48 * HOUR)
    touched(temporary, "still on", ["b", "a", "@x"], NOW + 5, None)  # claimed two of them
    touched(temporary, "others", ["y", "z"], NOW, NOW + 1)
    touched(temporary, "r1", ["@x", "a", "b"], NOW, NOW + HOUR)
    touched(temporary, "afterwards", ["b"], NOW + HOUR + 1, None)
    plan(temporary, ["a"], "planned")
    unstart = "UPDATE run SET first_started_ms = NULL WHERE run_id = 'planned'"
    temporary._database.raw.execute(unstart)
    found = [Touched("still on", "nightly", 1), Touched("before", "nightly", 2)]
    assert temporary.also_touched_by("r1") == AlsoTouched(found)
    assert temporary.also_touched_by("planned") == AlsoTouched()


def test_what_touched_nothing(temporary: Store) -> None:
    """Claims that were proven unsent, runs that claimed nothing, another gateway: not named."""
    touched(temporary, "other gateway", ["a"], NOW, NOW + 1, gateway="test https://gw2")
    touched(temporary, "rehearsal", ["a"], NOW, NOW + 1, rehearsal=True)
    touched(temporary, "unsent", ["a", "b"], NOW, None)
    record(temporary, put_off(0), put_off(1), run_id="unsent")
    temporary.finish("unsent", RunEnd(NOW + 1, 5))
    plan(temporary, ["a", "b"], "refused")
    temporary.start("refused", NOW)
    temporary.finish("refused", RunEnd(NOW + 1, 7))
    touched(temporary, "r1", ["a", "b"], NOW, NOW + HOUR)
    assert temporary.also_touched_by("r1") == AlsoTouched()


def test_only_the_newest_are_compared(temporary: Store) -> None:
    """However many there are, three are looked into; how many are left is said."""
    for number in range(9):
        touched(temporary, f"{number}", ["a", "b"], NOW, NOW + 1)
    touched(temporary, "r1", ["a", "b"], NOW, NOW + HOUR)
    found = [Touched(f"{number}", "nightly", 2) for number in (8, 7, 6)]
    assert temporary.also_touched_by("r1") == AlsoTouched(found, not_compared=6)
