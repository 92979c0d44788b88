"""One commit: what is recorded, what is claimed, and that it is all or nothing."""

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
from worker.errors import LedgerError
from worker.ledger.entry import Claim, ClaimedTarget, DoubtMark, Entry, Granted
from worker.ledger.store import Store
from worker.model import AllCached, Command, CommandResult, DeviceKey, Identity, OutcomeKind, Target

FULL = CommandResult(
    Command(
        commandId="77",
        orgId="o1",
        productKey="p",
        deviceKey="d0",
        assetId="a0",
        created_ms=1_700_000_000_000,
        type=2,
        name="reboot",
        tslIdentifier="tsl",
        state=1,
        timeout=30,
        pendingTtl=3600,
        inputData=b'{"hard":true}',
    ),
    "cancelled",
    "search",
    "req-9",
    3,
)


def test_ranges(temporary: Store) -> None:
    """The first pass takes the plan in order, each batch behind the last, up to the limit."""
    plan(temporary, devices(10))
    batches = [
        [claimed.target.ordinal for claimed in claim(temporary, 4, limit=7)] for _ in range(3)
    ]
    assert batches == [[0, 1, 2, 3], [4, 5, 6], []]
    assert temporary.unclaimed("r1") == range(7, 10)
    assert [each.target.ordinal for each in claim(temporary, 99, pass_no=3)] == [7, 8, 9]
    assert temporary.last_pass("r1") == 3


def test_range_is_the_next_after_lists(temporary: Store) -> None:
    """A list claim of a later pass does not move where the plan goes on."""
    plan(temporary, devices(10))
    claim(temporary, 6)
    record(temporary, *(put_off(n) for n in range(6)))
    claim(temporary, pass_no=2, members=(5, 4))
    claim(temporary, pass_no=2, members=(0, 3))
    assert [each.target.ordinal for each in claim(temporary, 2, pass_no=2)] == [6, 7]
    assert temporary.unclaimed("r1") == range(8, 10)


def test_list_tells_the_past(temporary: Store) -> None:
    """A list claim brings the commands and the doubt that the run has on record."""
    plan(temporary, devices(3))
    claim(temporary, 3)
    record(temporary, Entry(1, 1, (FULL,), None), mark(1, first=10, last=20), put_off(2))
    record(temporary, mark(1, first=99, last=30))
    target = Target(1, DeviceKey("p", "d1"), "o1", AllCached(), "a.yaml:2")
    doubt = DoubtMark(10, 30, 1, "disconnected")
    got = claim(temporary, pass_no=2, members=(2, 1))
    assert got[0] == ClaimedTarget(target, 2, (FULL,), doubt, Identity("p", "d0", "a0"))
    assert (got[1].target.ordinal, got[1].commands, got[1].doubt) == (2, (), None)


@pytest.mark.parametrize("settled", ["unknown", "cancelled_incomplete", "failed"])
def test_doubt_outlives_only_uncertain_outcomes(temporary: Store, settled: str) -> None:
    """A doubt mark is told again until something certain is recorded of the target."""
    plan(temporary, devices(1))
    claim(temporary, 1)
    record(temporary, mark(0))
    record(temporary, outcome(0, settled))
    [got] = claim(temporary, pass_no=2, members=(0,))
    assert (got.doubt is None) == (settled == "failed")


def test_marks_of_several_passes(temporary: Store) -> None:
    """Ambiguous attempts of several passes are one doubt: from the first to the last sending."""
    plan(temporary, devices(1))
    claim(temporary, 1)
    record(temporary, mark(0, first=10, last=20))
    claim(temporary, pass_no=2, members=(0,))
    record(temporary, mark(0, 2, first=30, last=40))
    [got] = claim(temporary, pass_no=3, members=(0,))
    assert got.doubt == DoubtMark(10, 40, 1, "disconnected")


def test_many_members(temporary: Store) -> None:
    """A list claim of any size is cut into statements of a few sizes."""
    plan(temporary, devices(1300))
    claim(temporary, 1300)
    record(temporary, *(put_off(n) for n in range(1300)))
    for pass_no, members in enumerate([range(0, 1300, 2), range(9), range(8)], 2):
        got = claim(temporary, pass_no=pass_no, members=tuple(members))
        assert [each.target.ordinal for each in got] == list(members)


def test_nothing_to_claim(temporary: Store) -> None:
    """An empty list claims nothing and writes nothing."""
    plan(temporary, devices(1))
    assert claim(temporary, members=()) == []
    assert temporary._database.raw.execute("SELECT count(*) FROM claim").fetchone() == (0,)


def test_results_and_claim_are_one(store: Store) -> None:
    """When the claim fails, the results of the same commit are not there either."""
    plan(store, devices(4))
    claim(store, 2)
    store._database.raw.execute(
        "CREATE TRIGGER no BEFORE INSERT ON claim BEGIN SELECT raise(ABORT, 'x'); END"
    )
    with pytest.raises(LedgerError, match="a record contradicts an earlier one"):
        store.commit("r1", [outcome(0), outcome(1)], Claim(1, count=2), now_ms=1)
    assert [doubt.ordinal for doubt in store.in_doubt("r1")] == [0, 1]


def test_outcomes_are_written_once(store: Store) -> None:
    """A second outcome of a target in one pass is a bug that stops the run, not an update."""
    plan(store, devices(1))
    claim(store, 1)
    record(store, outcome(0, "failed"))
    with pytest.raises(LedgerError, match="contradicts"):
        record(store, outcome(0, "cancelled"))
    assert counted(store) == {"failed": 1}


def test_commands_survive(temporary: Store) -> None:
    """A command comes back as it was told, field by field."""
    plan(temporary, devices(1))
    claim(temporary, 1)
    record(temporary, Entry(0, 1, (FULL,), None))
    assert next(temporary.rows("r1")).commands == (FULL,)


def test_keep_input() -> None:
    """Without keep_input the input data is left out, the rest stays."""
    store = Store.open("sqlite://", keep_input=False)
    plan(store, devices(1))
    claim(store, 1)
    record(store, Entry(0, 1, (FULL,), None))
    [command] = next(store.rows("r1")).commands
    assert (command.command.inputData, command.command.timeout) == (None, 30)
    store.close()


def test_cancelled_stays_cancelled(temporary: Store) -> None:
    """What is recorded as cancelled is never told otherwise; anything else may be told better."""
    plan(temporary, devices(1))
    claim(temporary, 1)
    first = told("1")
    record(temporary, Entry(0, 1, (first, told("2", "unknown")), None))
    later = [told("1", "not_cached"), CommandResult(Command("2"), "cancelled", "search", "s", 2)]
    granted = record(temporary, Entry(0, 1, tuple(later), None))
    assert next(temporary.rows("r1")).commands == (first, later[1])
    assert granted.entries[0].commands == (told("1", "not_cached"), later[1])


def test_entries_as_written(temporary: Store) -> None:
    """The commit says what is new: an outcome that repeats a recorded command does not."""
    plan(temporary, devices(2))
    claim(temporary, 2)
    record(temporary, Entry(0, 1, (told("1"),), None))
    settled = outcome(0, "cancelled", "1", "2")
    granted = record(temporary, settled, outcome(1))
    expected = [Entry(0, 1, (told("2"),), settled.verdict), outcome(1)]
    assert granted == Granted([], [], expected)
    assert temporary.commands("r1") == 2


def test_given_twice_in_one_reply(temporary: Store) -> None:
    """An id that one reply lists twice is kept once, and as cancelled if either says so."""
    plan(temporary, devices(1))
    claim(temporary, 1)
    record(temporary, Entry(0, 1, (told("1", "unknown"), told("1"), told("1", "failed")), None))
    assert next(temporary.rows("r1")).commands == (told("1"),)


def test_hostile_values(temporary: Store) -> None:
    """Numbers and texts that no column holds neither end the run nor lose the command."""
    plan(temporary, devices(1))
    claim(temporary, 1)
    command = Command("7\0\ud800", created_ms=10**30, name="设备\ud83d", tslIdentifier="a\0b")
    result = CommandResult(command, "cancelled", "response", "r\0", 1)
    hostile = outcome(0, "anomalous", code=10**40, message="x\0\udfff")
    record(temporary, Entry(0, 1, (result,), hostile.verdict))
    row = next(temporary.rows("r1"))
    said = row.commands[0].command
    assert said == Command("7\\x00\\ud800", name="设备\\ud83d", tslIdentifier="a\\x00b")
    assert (row.code, row.message, row.commands[0].requestId) == (None, "x\\x00\\udfff", "r\\x00")
    again = record(temporary, Entry(0, 1, (result,), None))
    assert again.entries[0].commands == ()


def test_a_bug_is_a_failure_too(store: Store) -> None:
    """Even a value that our own code should not have made ends in a message, not in a trace."""
    plan(store, devices(1))
    with pytest.raises(LedgerError, match=r"ledger.db: unexpected OverflowError$"):
        record(store, mark(0, first=10**30))


def test_listed_targets_by_list(temporary: Store) -> None:
    """A listed target keeps its ids in every claim."""
    with temporary.draft() as draft:
        draft.add([staged("a", ids="3 1")])
        temporary.freeze(draft, new_run(scope="listed"), ["a.yaml"])
    one = claim(temporary, 1)
    record(temporary, put_off(0))
    assert claim(temporary, pass_no=2, members=(0,))[0].target == one[0].target


def test_counts_after_all_kinds(temporary: Store) -> None:
    """Every outcome can be recorded and is counted under its own name."""
    kinds = list(OutcomeKind)
    plan(temporary, devices(len(kinds)))
    claim(temporary, len(kinds))
    record(temporary, *(outcome(n, kind.value) for n, kind in enumerate(kinds)))
    assert temporary.counts("r1") == dict.fromkeys(kinds, 1)
