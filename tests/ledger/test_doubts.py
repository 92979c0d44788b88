"""What a resume finds open: in doubt, put off, never claimed, or settled in a certain way."""

from __future__ import annotations

import pytest

from tests.ledger.plans import (
    claim,
    counted,
    devices,
    mark,
    new_run,
    outcome,
    plan,
    put_off,
    record,
    staged,
    told,
)
from worker.ledger.entry import Doubt, DoubtMark, Entry
from worker.ledger.store import Store
from worker.model import OutcomeKind


def test_claimed_and_nothing_more(store: Store) -> None:
    """A claimed target without a record is in doubt since its claim."""
    plan(store, devices(6))
    claim(store, 2, now_ms=5000)
    claim(store, 3, now_ms=5005)
    record(store, outcome(0), put_off(1), outcome(3), mark(4, first=7, last=9))
    assert store.in_doubt("r1") == [
        Doubt(2, 1, 5005),
        Doubt(4, 1, 5005, DoubtMark(7, 9, 1, "disconnected")),
    ]
    assert [doubt.since_ms for doubt in store.in_doubt("r1")] == [5005, 7]
    assert list(store.deferred("r1")) == [1]
    assert store.unclaimed("r1") == range(5, 6)
    assert list(store.never_attempted("r1")) == [1, 5]
    assert store.last_pass("r1") == 1


def test_commands_alone_settle_nothing(store: Store) -> None:
    """Recorded commands without a verdict leave the target in doubt, but not unknown."""
    plan(store, devices(2))
    claim(store, 2)
    record(store, Entry(0, 1, (told("1"),), None), Entry(1, 1, (told("2", "not_cached"),), None))
    assert [doubt.ordinal for doubt in store.in_doubt("r1")] == [0, 1]
    assert counted(store) == {"cancelled_incomplete": 1, "unknown": 1}


def test_a_later_claim_opens_it_again(store: Store) -> None:
    """Whatever an earlier pass settled, a target claimed again is in doubt until it is recorded."""
    plan(store, devices(3))
    claim(store, 3, now_ms=5000)
    record(store, outcome(0, "failed"), put_off(1), outcome(2))
    claim(store, pass_no=2, members=(0, 1), now_ms=7000)
    assert store.in_doubt("r1") == [Doubt(0, 2, 7000), Doubt(1, 2, 7000)]
    assert counted(store) == {"unknown": 2, "nothing_cached": 1}
    assert list(store.deferred("r1")) == []
    assert list(store.ordinals_with_outcome("r1", [OutcomeKind.FAILED])) == []
    record(store, outcome(0, "cancelled", "9", pass_no=2), put_off(1, 2))
    assert store.in_doubt("r1") == []
    assert list(store.deferred("r1")) == [1]
    assert counted(store) == {"cancelled": 1, "nothing_cached": 1, "not_attempted": 1}


def test_settled_by_a_look_up(store: Store) -> None:
    """A doubt of a crash ends with any record of the same pass or a later one."""
    plan(store, devices(2))
    claim(store, 2)
    record(store, outcome(0, "cancelled", "1"), outcome(1, "nothing_cached", pass_no=4))
    assert store.in_doubt("r1") == []
    assert store.last_pass("r1") == 4


def test_two_open_claims(store: Store) -> None:
    """In doubt in two passes: the last pass, and since the first of the claims."""
    plan(store, devices(1))
    claim(store, 1, now_ms=5000)
    claim(store, pass_no=2, members=(0,), now_ms=7000)
    assert store.in_doubt("r1") == [Doubt(0, 2, 5000)]


def test_put_off_after_a_final_outcome(store: Store) -> None:
    """A retry that was put off leaves the earlier outcome standing."""
    plan(store, devices(1))
    claim(store, 1)
    record(store, outcome(0, "failed"))
    claim(store, pass_no=2, members=(0,))
    record(store, put_off(0, 2))
    assert counted(store) == {"failed": 1}
    assert list(store.ordinals_with_outcome("r1", [OutcomeKind.FAILED])) == [0]


@pytest.mark.parametrize("kind", ["cancelled", "nothing_cached", "failed", "unknown"])
def test_with_outcome(store: Store, kind: str) -> None:
    """Targets are found by their final outcome, usual or not, a later pass overruling."""
    plan(store, devices(6))
    claim(store, 6)
    record(store, outcome(0, kind), outcome(1, "rejected"), outcome(2, kind), put_off(3))
    record(store, outcome(4, kind), outcome(5, "rejected"))
    claim(store, pass_no=2, members=(4, 5))
    record(store, outcome(4, "not_found", pass_no=2), outcome(5, kind, pass_no=2))
    assert list(store.ordinals_with_outcome("r1", [OutcomeKind(kind)])) == [0, 2, 5]
    both = [OutcomeKind(kind), OutcomeKind.REJECTED]
    assert list(store.ordinals_with_outcome("r1", both)) == [0, 1, 2, 5]


def test_unusual_outcomes_by_index(store: Store) -> None:
    """What a resume asks for is found by its own index, not by reading a million outcomes."""
    raw = store._database.raw
    asked: list[str] = []
    raw.set_trace_callback(asked.append)
    plan(store, devices(1))
    asked.clear()
    list(store.ordinals_with_outcome("r1", [OutcomeKind.UNKNOWN]))
    list(store.deferred("r1"))
    raw.set_trace_callback(None)
    plans = [
        " ".join(step[3] for step in raw.execute(f"EXPLAIN QUERY PLAN {sql}"))
        for sql in asked
        if "outcome.kind IN" in sql
    ]
    assert len(plans) == 2
    assert all("outcome_unusual" in plan for plan in plans)


def test_hot_queries_by_key(store: Store) -> None:
    """No statement of a commit reads a run, or all commands, from end to end."""
    raw = store._database.raw
    plan(store, devices(20))
    claim(store, 4)
    asked: list[str] = []
    raw.set_trace_callback(asked.append)
    record(store, outcome(0, "cancelled", "1"), mark(1), put_off(2))
    claim(store, 4)
    claim(store, pass_no=2, members=(2,))
    store.recorded_elsewhere("r1", 0, ["1"], in_order_ms=9_000)
    raw.set_trace_callback(None)
    slow = []
    for sql in asked:
        if not sql.startswith("BEGIN") and sql != "COMMIT":
            steps = [step[3] for step in raw.execute(f"EXPLAIN QUERY PLAN {sql}")]
            slow += [(sql, step) for step in steps if _reads_all(step)]
    assert slow == []


def _reads_all(step: str) -> bool:
    if step.startswith("SCAN"):
        return step != "SCAN CONSTANT ROW"
    # The last range claim is found from the end of the run's claims.
    return step.endswith("(run=?)") and "SEARCH claim" not in step and "SEARCH run" not in step


def test_lists_between_lists(store: Store) -> None:
    """Lists of one pass may lie between each other; each keeps its own doubts."""
    plan(store, devices(9))
    claim(store, 9)
    record(store, *(put_off(n) for n in range(9)))
    claim(store, pass_no=2, members=(0, 4, 8))
    claim(store, pass_no=2, members=(1, 3, 5, 7))
    record(store, *(outcome(n, pass_no=2) for n in (1, 3, 5)))
    assert [doubt.ordinal for doubt in store.in_doubt("r1")] == [0, 4, 7, 8]


def test_many_claims(store: Store) -> None:
    """More open claims than one slice are all found, in order."""
    plan(store, devices(11_000))
    store._database.raw.execute("PRAGMA synchronous=OFF")  # only to be quick
    for _ in range(5500):
        claim(store, 2)
    record(store, *(outcome(n) for n in range(0, 11_000, 2)))
    assert [doubt.ordinal for doubt in store.in_doubt("r1")] == list(range(1, 11_000, 2))


def test_many_deferred(store: Store) -> None:
    """More deferrals than one slice are all listed, each once, in order."""
    plan(store, devices(10_050))
    claim(store, 10_050)
    record(store, *(put_off(n) for n in range(10_050)))
    assert list(store.deferred("r1")) == list(range(10_050))


def test_assumed_sent(store: Store, url: str) -> None:
    """Row 106: of a restored ledger, all without an outcome is in doubt since the first start."""
    plan(store, devices(8))  # started at 2000
    claim(store, 6, now_ms=5000)
    record(store, outcome(0), put_off(1), outcome(2, "failed"), put_off(3), mark(4, first=5100))
    store.assume_sent("r1")
    store.close()
    again = Store.open(url)
    seen = [(doubt.ordinal, doubt.pass_no, doubt.claimed_ms) for doubt in again.in_doubt("r1")]
    assert seen == [
        (1, 2, 2000),
        (3, 2, 2000),
        (4, 1, 5000),
        (5, 1, 5000),
        (6, 1, 2000),
        (7, 1, 2000),
    ]
    assert (list(again.deferred("r1")), again.unclaimed("r1")) == ([], range(8, 8))
    assert counted(again) == {"nothing_cached": 1, "failed": 1, "unknown": 6}
    again.assume_sent("r1")  # said twice
    assert [doubt.ordinal for doubt in again.in_doubt("r1")] == [1, 3, 4, 5, 6, 7]
    record(again, *(outcome(ordinal, pass_no=3) for ordinal in (1, 3, 4, 5, 6, 7)))
    assert again.in_doubt("r1") == []
    again.close()


def test_assumed_sent_before_it_was_started(store: Store) -> None:
    """The backup may be older than the start: nothing was sent before the plan."""
    with store.draft() as draft:
        draft.add([staged("d0"), staged("d1", 2)])
        store.freeze(draft, new_run(planned_ms=1500), ["a.yaml"])
    store.assume_sent("r1")
    store.start("r1", 9000)
    assert store.in_doubt("r1") == [Doubt(0, 1, 1500), Doubt(1, 1, 1500)]
    assert (store.run("r1").first_started_ms, store.run("r1").started_ms) == (1500, 9000)
