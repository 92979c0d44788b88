"""The comparison: an honest report has no differences, and each kind of lie is caught."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.simulator.support import ORG, busy, device, new_world, seeded, target
from worker.model import (
    AllCached,
    AssetId,
    Command,
    CommandResult,
    Device,
    DeviceKey,
    Listed,
    OutcomeKind,
    Proof,
    ReportRow,
    Result,
)
from worker.simulator.compare import compare
from worker.simulator.fleet import CANCELS
from worker.simulator.truth import Delivery
from worker.simulator.world import World

NOTHING = ("nothing_cached", "nothing_matched", "too_late", "failed", "rejected", "not_attempted")
UNCERTAIN = ("unknown", "cancelled_incomplete", "anomalous")


def said(
    ids: Iterable[str], evidence: Proof | None = "response", result: Result = "cancelled"
) -> tuple[CommandResult, ...]:
    return tuple(CommandResult(Command(i), result, evidence, None, 1) for i in ids)


def row(
    who: Device, outcome: str, commands: tuple[CommandResult, ...] = (), **more: Any
) -> ReportRow:
    names: dict[str, Any] = {"productKey": None, "deviceKey": None, "assetId": None}
    if isinstance(who, AssetId):
        names["assetId"] = who.assetId
    else:
        names |= {"productKey": who.productKey, "deviceKey": who.deviceKey}
    rest: dict[str, Any] = {
        "ordinal": 0,
        "orgId": ORG,
        "cause": None,
        "attempts": 1,
        "evidence": None,
        "http_status": None,
        "code": None,
        "message": None,
        "requestId": None,
        "duration_ms": 1,
        "source": "jobs/a.yaml:5",
        "scope": AllCached(),
    }
    fields = rest | names | more
    return ReportRow(outcome=OutcomeKind(outcome), commands=commands, **fields)


def ask(
    world: World, who: Device, commandId: str | None = None, delivery: Delivery = "told"
) -> list[str]:
    """A cancel as the service would do it: counted, and executed."""
    world.fleet.bump(world.fleet.key_of(ORG, who), CANCELS)
    return [c.commandId for c in world.cancel(ORG, who, commandId, delivery)]


@pytest.fixture
def world() -> World:
    return new_world()


@pytest.fixture
def who(world: World) -> DeviceKey:
    """A device with at least three commands."""
    [found] = busy(world)
    for _ in range(max(0, 3 - len(seeded(world, found)))):
        world.cache_command(found)
    return found


# ---------------------------------------------------------------- honest reports


def test_an_honest_report_agrees(world: World) -> None:
    """Cancelled, nothing cached, unknown, not found, failed and not attempted, all true."""
    devices = busy(world, 4)
    empty = next(d for d in map(device, range(100)) if not seeded(world, d))
    world.seed_absent(target(900))
    world.seed_target(target(901))
    lost = ask(world, devices[1], delivery="lost")
    rows = [
        row(devices[0], "cancelled", said(ask(world, devices[0]))),
        row(devices[1], "cancelled", said(lost, "search")),
        row(devices[2], "unknown"),
        row(devices[3], "failed"),
        row(empty, "nothing_cached", said(ask(world, empty))),
        row(device(900), "not_found"),
        row(device(901), "not_attempted"),
    ]
    ask(world, devices[2], delivery="lost")
    assert compare(world, rows) == []


def test_an_honest_listed_report_agrees(world: World) -> None:
    """Some of the ids cancelled, some too late, the device's other commands untouched."""
    ids = tuple(str(10**18 + at) for at in range(40))
    world.seed_target(target(1, *ids))
    gone = [i for i in ids if i not in seeded(world, device(1))]
    told = [i for i in ids if ask(world, device(1), i)]
    commands = said(told) + said(gone, None, "not_cached")
    assert gone
    assert compare(world, [row(device(1), "cancelled", commands, scope=Listed(ids))]) == []


@pytest.mark.parametrize("outcome", UNCERTAIN)
def test_what_is_named_uncertain_may_be_left_out(
    world: World, who: DeviceKey, outcome: str
) -> None:
    """An uncertain target may miss commands, and even deny them."""
    ids = ask(world, who)
    assert compare(world, [row(who, outcome, said(ids[:1]))]) == []
    assert compare(world, [row(who, outcome, said(ids[:1], None, "failed"))]) == []


def test_two_rows_of_one_device_are_read_together(world: World) -> None:
    """Two spellings of a device, each with part of the truth, make the whole truth."""
    [found] = busy(world)
    known = world.fleet.look(ORG, found)
    assert known is not None
    ids = ask(world, found)
    other = AssetId(known.who.assetId)
    rows = [row(found, "cancelled", said(ids)), row(other, "nothing_cached", ordinal=1)]
    assert compare(world, rows) == []


def test_what_an_earlier_run_cancelled_can_be_left_out(world: World, who: DeviceKey) -> None:
    """`since` is where this run began."""
    ids = ask(world, who)
    rows = [row(who, "nothing_cached")]
    [problem] = compare(world, rows)
    assert ids[0] in problem
    assert compare(world, rows, since=len(ids)) == []


# ---------------------------------------------------------------- lies of omission


def test_a_cancelled_command_that_is_left_out(world: World, who: DeviceKey) -> None:
    """`cancelled` promises the full set."""
    ids = ask(world, who)
    assert compare(world, [row(who, "cancelled", said(ids[1:]))]) == [
        (
            f"row 0 ({who.productKey} {who.deviceKey}): the gateway cancelled {ids[0]}, "
            "but the report says cancelled and leaves it out"
        )
    ]


def test_a_device_that_is_left_out(world: World, who: DeviceKey) -> None:
    """A touched device without a row."""
    ids = ask(world, who)
    [problem] = compare(world, [])
    assert problem.endswith(
        f"the gateway cancelled {' '.join(ids)}, but the report does not name the device"
    )


@pytest.mark.parametrize("outcome", NOTHING)
def test_an_outcome_that_claims_nothing_was_executed(
    world: World, who: DeviceKey, outcome: str
) -> None:
    """Every outcome that promises an untouched device is held to it."""
    ids = " ".join(ask(world, who))
    assert compare(world, [row(who, outcome)]) == [
        (
            f"row 0 ({who.productKey} {who.deviceKey}): the gateway cancelled {ids}, "
            f"but the report says {outcome} and leaves it out"
        )
    ]


def test_not_found_for_a_device_that_is_there(world: World, who: DeviceKey) -> None:
    """The gateway never says that of a device it has, executed or not."""
    [idle] = compare(world, [row(who, "not_found")])
    ids = ask(world, who)
    problems = compare(world, [row(who, "not_found")])
    assert "says not_found, but the gateway has the device" in idle
    assert problems[0] == idle
    assert ids[0] in problems[1]
    assert len(problems) == 2


def test_a_command_that_the_report_denies(world: World) -> None:
    """A listed command recorded as not cached although it was cancelled."""
    ids = tuple(str(10**18 + at) for at in range(10))
    world.seed_target(target(1, *ids))
    told = [i for i in ids if ask(world, device(1), i)]
    commands = said(told[1:]) + said(told[:1], None, "not_cached")
    assert compare(world, [row(device(1), "cancelled", commands, scope=Listed(ids))]) == [
        (
            f"row 0 (bXuuAiku mqtt_00001): the gateway cancelled {told[0]}, "
            f"but the report denies {told[0]}"
        )
    ]


# ---------------------------------------------------------------- inventions


def test_a_reply_that_never_named_the_command(world: World, who: DeviceKey) -> None:
    """Evidence `response` for an id that the gateway did not cancel."""
    ids = ask(world, who)
    [problem] = compare(world, [row(who, "cancelled", said([*ids, "999"]))])
    assert problem.endswith("no reply can have named 999")


def test_a_command_that_somebody_else_cancelled_is_no_reply_of_ours(world: World) -> None:
    """It may be found by a search, but no reply can have named it."""
    world.seed_target(target(1))
    mine = world.cache_command(device(1))
    world.cancel_elsewhere(device(1), mine)
    rest = ask(world, device(1))
    found = row(device(1), "cancelled", said(rest) + said([mine], "search"))
    told = row(device(1), "cancelled", said([*rest, mine]))
    assert compare(world, [found]) == []
    [problem] = compare(world, [told])
    assert problem.endswith(f"no reply can have named {mine}")


def test_a_reply_that_was_lost(world: World, who: DeviceKey) -> None:
    """Evidence `response` for a reply that was never sent; a broken one may have told it."""
    ids = ask(world, who, delivery="lost")
    [first, *_] = compare(world, [row(who, "cancelled", said(ids))])
    assert first.endswith(f"the reply that named {ids[0]} was never sent")
    other = new_world()
    [again] = busy(other)
    cut = ask(other, again, delivery="cut")
    assert compare(other, [row(again, "cancelled", said(cut))]) == []


def test_a_search_that_cannot_have_shown_it(world: World, who: DeviceKey) -> None:
    """Evidence `search` for an id that is not cancelled at the gateway."""
    cached = seeded(world, who)
    [problem] = compare(world, [row(who, "unknown", said(cached[:1], "search"))])
    assert problem.endswith(f"no search can have shown {cached[0]} cancelled")


@pytest.mark.parametrize("evidence", ["response", "search"])
def test_a_command_of_another_device(world: World, evidence: Proof) -> None:
    """The sentence says whose it is."""
    one, two = busy(world, 2)
    ids = {who: ask(world, who) for who in (one, two)}
    rows = [
        row(one, "cancelled", said(ids[one]) + said(ids[two][:1], evidence)),
        row(two, "cancelled", said(ids[two]), ordinal=1),
    ]
    [problem] = compare(world, rows)
    assert ids[two][0] in problem
    assert f"it is a command of {two.productKey}/{two.deviceKey}" in problem


def test_a_command_without_evidence(world: World, who: DeviceKey) -> None:
    """Cancelled is never recorded without saying how it is known."""
    ids = ask(world, who)
    [problem, *_] = compare(world, [row(who, "cancelled", said(ids, None))])
    assert problem.endswith(f"{ids[0]} is recorded as cancelled without evidence")


def test_commands_of_a_device_that_has_none(world: World) -> None:
    """Nothing was ever cached there."""
    empty = next(at for at in range(100) if not busy_at(world, at))
    ask(world, device(empty))
    problems = compare(world, [row(device(empty), "cancelled", said(["123"]))])
    assert problems == [
        (
            f"row 0 (bXuuAiku mqtt_{empty:05}): the report records 123, "
            "which the gateway did not cancel"
        )
    ]


def busy_at(world: World, at: int) -> bool:
    world.seed_target(target(at))
    return bool(seeded(world, device(at)))


def test_cancelled_without_any_command(world: World) -> None:
    """`cancelled` promises at least one command."""
    empty = next(at for at in range(100) if not busy_at(world, at))
    ask(world, device(empty))
    [problem] = compare(world, [row(device(empty), "cancelled")])
    assert problem.endswith("the report says cancelled, but records no command")


@pytest.mark.parametrize("outcome", [*NOTHING, "not_found"])
def test_an_outcome_that_contradicts_its_own_commands(
    world: World, who: DeviceKey, outcome: str
) -> None:
    """A target that was not touched records no cancelled command."""
    problems = compare(world, [row(who, outcome, said(ask(world, who)))])
    assert any("but records cancelled commands" in problem for problem in problems)


# ---------------------------------------------------------------- claims without ground


@pytest.mark.parametrize("outcome", ["nothing_cached", "cancelled", "nothing_matched"])
def test_commands_that_are_still_cached(world: World, who: DeviceKey, outcome: str) -> None:
    """What was there from the start cannot outlive a settled target of the whole device."""
    left = [c.commandId for k in world.fleet.kept() for c in world.cached(k) if c.seeded]
    world.fleet.bump(world.fleet.key_of(ORG, who), CANCELS)
    problems = compare(world, [row(who, outcome)])
    assert any(
        problem.endswith(f"says {outcome}, but still cached: {' '.join(left)}")
        for problem in problems
    )


def test_a_listed_command_that_is_still_cached(world: World) -> None:
    """Only the ids of the job count; the device's others are nobody's business."""
    ids = tuple(str(10**18 + at) for at in range(10))
    world.seed_target(target(1, *ids))
    cached = [i for i in ids if i in seeded(world, device(1))]
    told = [i for i in cached[1:] if ask(world, device(1), i)]
    [problem] = compare(world, [row(device(1), "cancelled", said(told), scope=Listed(ids))])
    assert problem.endswith(f"says cancelled, but still cached: {cached[0]}")


def test_an_outcome_that_nobody_asked_for(world: World) -> None:
    """No request got through, so no answer can have settled it."""
    empty = next(at for at in range(100) if not busy_at(world, at))
    [problem] = compare(world, [row(device(empty), "nothing_cached")])
    assert problem.endswith("says nothing_cached, but no request for it got through")


def test_a_device_that_the_gateway_does_not_have(world: World) -> None:
    """Settled by an answer that cannot have come; refusing or not knowing is possible."""
    rows = [row(device(5), outcome) for outcome in ("nothing_cached", "rejected", "unknown")]
    [problem] = compare(world, rows)
    assert problem.endswith("says nothing_cached, but the gateway has no such device")


def test_names_that_are_not_of_one_device(world: World, who: DeviceKey) -> None:
    """A row whose names belong together nowhere, and one without a name."""
    rows = [
        row(who, "unknown", assetId="somebody"),
        row(who, "unknown", productKey=None, ordinal=1),
    ]
    assert compare(world, rows) == [
        f"row 0 ({who.productKey} {who.deviceKey} somebody): these names are not of one device",
        "row 1 names no device",
    ]


def test_strays_are_differences(world: World) -> None:
    """Requests that no job asked for are named, the first hundred one by one."""
    for at in range(150):
        world.book.stray(f"stray {at}")
    problems = compare(world, [], limit=1000)
    assert problems == [*(f"stray {at}" for at in range(100)), "50 more such requests"]


def test_many_differences_are_counted(world: World) -> None:
    """Beyond the limit only their number is told."""
    for at in range(30):
        world.book.stray(f"stray {at}")
    assert compare(world, [], limit=10)[9:] == ["stray 9", "… and 20 more"]
