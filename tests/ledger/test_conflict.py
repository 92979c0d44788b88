"""Row 73: one commandId told for two targets of a run."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.ledger.plans import claim, outcome, plan, record, told
from worker.ledger.entry import Conflict, Entry
from worker.ledger.store import Store
from worker.model import AssetId, Device, DeviceKey, Identity, Outcome

A, B = DeviceKey("p", "a"), DeviceKey("p", "b")
OTHER, SAME = "id_of_other_device", "same_device"


def settled(ordinal: int, device: Device, identity: Identity | None = None) -> Entry:
    return outcome(ordinal, "cancelled", "1", device=device, identity=identity)


def told_by(entry: Entry) -> tuple[str, str | None, list[str]]:
    """Kind, cause and commands of an entry as it was written."""
    assert isinstance(entry.verdict, Outcome)
    ids = [c.command.commandId for c in entry.verdict.commands]
    return entry.verdict.kind.value, entry.verdict.cause, ids


@pytest.mark.parametrize("together", [True, False])
def test_other_device(temporary: Store, together: bool) -> None:
    """A provably different device: the later target is anomalous, its id recorded as received."""
    plan(temporary, ["a", "b"])
    claim(temporary, 2)
    entries = [settled(0, A), settled(1, B)]
    if together:
        granted = record(temporary, *entries)
    else:
        record(temporary, entries[0])
        granted = record(temporary, entries[1])
    assert granted.conflicts == [Conflict(1, 0, "1", OTHER)]
    assert told_by(granted.entries[-1]) == ("anomalous", OTHER, ["1"])
    rows = list(temporary.rows("r1"))
    assert [(r.outcome, r.cause, r.commandIds) for r in rows] == [
        ("cancelled", None, ("1",)),
        ("anomalous", OTHER, ("1",)),
    ]


def test_the_order_of_the_record_decides(temporary: Store) -> None:
    """The first to record an id keeps its outcome, whatever its place in the plan."""
    plan(temporary, ["a", "b"])
    claim(temporary, 2)
    granted = record(temporary, settled(1, B), settled(0, A))
    assert granted.conflicts == [Conflict(0, 1, "1", OTHER)]
    assert [row.outcome for row in temporary.rows("r1")] == ["anomalous", "cancelled"]


@pytest.mark.parametrize(
    ("names", "first", "second", "cause"),
    [
        # A key pair and an assetId that nothing connects cannot be compared.
        (["a", "@x"], Identity(), Identity(), SAME),
        # Told the other spelling: the same, or provably another one.
        (["a", "@x"], Identity("p", "a", "x"), Identity(), SAME),
        (["a", "@x"], Identity("p", "a", "y"), Identity(), OTHER),
        (["a", "@x"], Identity(), Identity("p", "a", "x"), SAME),
        (["a", "@x"], Identity(), Identity("p", "z", "x"), OTHER),
        (["@x", "@y"], Identity(), Identity(), OTHER),
        # Half a pair names no device.
        (["a", "@x"], Identity(), Identity(None, "z", None), SAME),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_provable(
    temporary: Store,
    names: list[str],
    first: Identity,
    second: Identity,
    cause: str,
    together: bool,
) -> None:
    """What the plan spelled and what replies told both count; only a proof makes another device."""
    plan(temporary, names)
    claim(temporary, 2)
    spelled: list[Device] = [
        AssetId(name[1:]) if name.startswith("@") else DeviceKey("p", name) for name in names
    ]
    entries = [settled(0, spelled[0], first), settled(1, spelled[1], second)]
    if together:
        granted = record(temporary, *entries)
    else:
        record(temporary, entries[0])
        granted = record(temporary, entries[1])
    assert granted.conflicts == [Conflict(1, 0, "1", cause)]


def test_told_with_the_command(temporary: Store) -> None:
    """The identity in a command's own words counts as well."""
    plan(temporary, ["a", "@x"])
    claim(temporary, 2)
    record(temporary, Entry(0, 1, (told("1", productKey="p", deviceKey="a", assetId="y"),), None))
    granted = record(temporary, settled(1, AssetId("x")))
    assert granted.conflicts == [Conflict(1, 0, "1", OTHER)]


def test_same_device_is_kept_once(temporary: Store) -> None:
    """Two spellings of one device: the id is recorded once, the second outcome says why."""
    plan(temporary, ["a", "@x"])
    claim(temporary, 2)
    record(temporary, settled(0, A, Identity("p", "a", "x")))
    both = outcome(1, "cancelled", "1", "2", device=AssetId("x"))
    granted = record(temporary, both)
    assert told_by(granted.entries[0]) == ("cancelled", SAME, ["2"])
    assert [c.command.commandId for c in granted.entries[0].commands] == ["2"]
    assert [row.commandIds for row in temporary.rows("r1")] == [("1",), ("2",)]
    assert temporary.commands("r1") == 2


def test_told_before_the_outcome(temporary: Store) -> None:
    """A conflict that is found before the target settles still makes its outcome anomalous."""
    plan(temporary, ["a", "b"])
    claim(temporary, 2)
    record(temporary, Entry(0, 1, (told("1"),), None))
    early = record(temporary, Entry(1, 1, (told("1"),), None))
    assert early.conflicts == [Conflict(1, 0, "1", OTHER)]
    late = record(temporary, settled(0, A), settled(1, B))
    assert late.conflicts == []
    assert [told_by(entry) for entry in late.entries] == [
        ("cancelled", None, ["1"]),
        ("anomalous", OTHER, ["1"]),
    ]


def test_only_what_was_cancelled(temporary: Store) -> None:
    """An id that was asked for and not cancelled is nobody's."""
    plan(temporary, ["a", "b"])
    claim(temporary, 2)
    missed = Entry(0, 1, (told("1", "not_cached"),), None)
    granted = record(temporary, missed, replace(missed, ordinal=1), settled(1, B))
    assert granted.conflicts == []


def test_other_runs_do_not_count(temporary: Store) -> None:
    """The same id in another run is no conflict: it was recorded there for its own reasons."""
    for run_id, ordinal in (("r1", 0), ("r2", 1)):
        plan(temporary, ["a", "b"], run_id)
        claim(temporary, 2, run_id=run_id)
        entry = settled(ordinal, A if ordinal == 0 else B)
        assert record(temporary, entry, run_id=run_id).conflicts == []


def test_many_ids(temporary: Store) -> None:
    """More ids than one statement takes are all compared."""
    plan(temporary, ["a", "b"])
    claim(temporary, 2)
    ids = [str(number) for number in range(1200)]
    record(temporary, outcome(0, "cancelled", *ids, device=A))
    granted = record(temporary, outcome(1, "cancelled", *ids, "x", device=B))
    assert sorted(c.commandId for c in granted.conflicts) == sorted(ids)
