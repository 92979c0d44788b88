"""Report rows and counts, derived from the record alone."""

from __future__ import annotations

import resource

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
from worker.ledger.entry import Entry
from worker.ledger.store import Store
from worker.model import AllCached, Identity, Listed, OutcomeKind, ReportRow, RunEnd, Stop


def kinds(store: Store) -> list[tuple[str, str | None, int]]:
    return [(row.outcome.value, row.cause, row.attempts) for row in store.rows("r1")]


def test_a_settled_row(temporary: Store) -> None:
    """Everything the outcome said, the device as spelled, and beside it what replies named."""
    plan(temporary, ["d0", "@x"])
    claim(temporary, 2)
    record(
        temporary,
        outcome(0, "cancelled", "1", identity=Identity("p", "d0", "a0"), message="ok"),
        outcome(1, "failed", cause="http_500", code=99500, http_status=500, evidence=None),
    )
    assert list(temporary.rows("r1")) == [
        ReportRow(
            0, "o1", "p", "d0", None, OutcomeKind.CANCELLED, None, 1, "response", 200, 0, "ok",
            "req-1", 12, "a.yaml:1", AllCached(), (told("1"),),
            Identity("p", "d0", "a0"),
        ),
        ReportRow(
            1, "o1", None, None, "x", OutcomeKind.FAILED, "http_500", 1, None, 500, 99500, None,
            "req-1", 12, "a.yaml:2", AllCached(), (),
        ),
    ]  # fmt: skip


def test_names_from_commands(temporary: Store) -> None:
    """What the rows of commands name is told, not spelled; half a key pair names nothing."""
    plan(temporary, ["@x", "@y"])
    claim(temporary, 2)
    whole, half = told("1", productKey="p", deviceKey="k"), told("2", deviceKey="k")
    record(temporary, Entry(0, 1, (whole,), None), Entry(1, 1, (half,), None))
    found = [(r.productKey, r.deviceKey, r.assetId, r.told) for r in temporary.rows("r1")]
    assert found == [(None, None, "x", Identity("p", "k")), (None, None, "y", Identity())]


def test_identity_of_another_device(temporary: Store) -> None:
    """What a reply told of another device does not become this one's identity."""
    plan(temporary, ["d0"])
    claim(temporary, 1)
    record(temporary, outcome(0, "anomalous", "1", identity=Identity("p", "else", "a9")))
    [row] = temporary.rows("r1")
    assert (row.productKey, row.deviceKey, row.assetId) == ("p", "d0", None)
    assert row.told == Identity("p", "else", "a9")


def test_listed(temporary: Store) -> None:
    """A listed row knows its ids."""
    with temporary.draft() as draft:
        draft.add([staged("a", ids="2 1")])
        temporary.freeze(draft, new_run(scope="listed"), ["a.yaml"])
    assert [row.scope for row in temporary.rows("r1")] == [Listed(("2", "1"))]


@pytest.mark.parametrize(
    ("rule", "cause"),
    [
        ("signal", "signal"),
        ("window", "window"),
        ("deadline", "deadline"),
        ("limit", "limit"),
        ("abort_failed", "aborted"),
        (None, "limit"),  # a list that was worked off leaves only what is beyond its limit
    ],
)
def test_what_was_not_attempted(temporary: Store, rule: str | None, cause: str | None) -> None:
    """Never claimed, or put off and proven unsent: not attempted, for the reason the run ended."""
    plan(temporary, devices(4))
    claim(temporary, 3)
    record(temporary, outcome(0), put_off(1))
    record(temporary, Entry(2, 1, (told("7"),), None), put_off(2))
    temporary.finish("r1", RunEnd(9, 0, stop=Stop(rule, "why") if rule else None))
    assert kinds(temporary) == [
        ("nothing_cached", None, 1),
        ("not_attempted", cause, 4),
        ("cancelled_incomplete", cause, 4),  # put off, and something of it is gone
        ("not_attempted", cause, 0),
    ]
    assert counted(temporary) == {
        "nothing_cached": 1,
        "not_attempted": 2,
        "cancelled_incomplete": 1,
    }


def test_in_doubt(temporary: Store) -> None:
    """A crash leaves unknown, or incomplete where commands are recorded, never an older word."""
    plan(temporary, devices(4))
    claim(temporary, 4)
    record(temporary, Entry(1, 1, (told("1"),), None), mark(2), outcome(3, "failed"))
    claim(temporary, pass_no=2, members=(3,))
    assert kinds(temporary) == [
        ("unknown", "crashed", 0),
        ("cancelled_incomplete", "crashed", 0),
        ("unknown", "disconnected", 1),
        ("unknown", "crashed", 1),
    ]
    assert counted(temporary) == {"unknown": 3, "cancelled_incomplete": 1}
    row = list(temporary.rows("r1"))[3]
    assert (row.evidence, row.http_status, row.requestId, row.duration_ms) == (None,) * 4


def test_put_off_with_commands_then_in_doubt(temporary: Store) -> None:
    """A target that is counted as in doubt is not counted a second time as put off."""
    plan(temporary, devices(1))
    claim(temporary, 1)
    record(temporary, Entry(0, 1, (told("1"),), None), put_off(0))
    claim(temporary, pass_no=2, members=(0,))
    assert counted(temporary) == {"cancelled_incomplete": 1}


def test_a_retry_that_is_put_off_with_commands_outdates_a_failure(temporary: Store) -> None:
    """Something was cancelled since, and the rest is open: no report says failed of that."""
    plan(temporary, devices(3))
    claim(temporary, 3)
    record(temporary, outcome(0, "failed"), outcome(1, "rejected"), outcome(2, "failed"))
    claim(temporary, pass_no=2, members=(0, 1, 2))
    record(temporary, Entry(0, 2, (told("1"),), None), put_off(0, 2), put_off(1, 2), put_off(2, 2))
    assert [kind for kind, _, _ in kinds(temporary)] == [
        "cancelled_incomplete",
        "rejected",
        "failed",
    ]
    assert counted(temporary) == {"cancelled_incomplete": 1, "rejected": 1, "failed": 1}
    claim(temporary, pass_no=3, members=(0,))
    assert counted(temporary) == {"cancelled_incomplete": 1, "rejected": 1, "failed": 1}


def test_the_last_pass_wins(temporary: Store) -> None:
    """A retried target shows its last outcome; a deferral in between says nothing."""
    plan(temporary, devices(2))
    claim(temporary, 2)
    record(temporary, outcome(0, "failed"), outcome(1, "rejected"))
    claim(temporary, pass_no=2, members=(0, 1))
    record(temporary, put_off(0, 2), put_off(1, 2))
    claim(temporary, pass_no=3, members=(0,))
    record(temporary, outcome(0, "cancelled", "1", pass_no=3))
    assert [kind for kind, *_ in kinds(temporary)] == ["cancelled", "rejected"]
    assert counted(temporary) == {"cancelled": 1, "rejected": 1}


def test_slices(store: Store) -> None:
    """Rows come in the order of the plan whatever the slices, without an open reader between."""
    plan(store, devices(2500))
    claim(store, 2500)
    record(store, *(outcome(n, "cancelled", str(n)) for n in range(2499, 0, -1)))
    rows = store.rows("r1")
    next(rows)
    busy, *_ = store._database.raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0
    assert [row.ordinal for row in rows] == list(range(1, 2500))
    assert len([row for row in store.rows("r1") if row.commandIds]) == 2499


def test_flat(store: Store) -> None:
    """Reading a large run costs no memory that grows with it."""
    plan(store, devices(30_000))
    claim(store, 30_000)
    for lo in range(0, 30_000, 5000):
        record(store, *(outcome(n, "cancelled", str(n)) for n in range(lo, lo + 5000)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in store.rows("r1")) == 30_000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 15
    assert counted(store) == {"cancelled": 30_000}
    assert store.commands("r1") == 30_000


def test_empty_end(temporary: Store) -> None:
    """A run of nothing but a plan: all not attempted, no cause yet."""
    with temporary.draft() as draft:
        draft.add([staged("a"), staged("b")])
        temporary.freeze(draft, new_run(), ["a.yaml"])
    assert kinds(temporary) == [("not_attempted", None, 0)] * 2
    assert temporary.commands("r1") == 0
