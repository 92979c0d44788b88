"""The profiles: each fault happens, as often as it should, and the same under the same seed."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from msgspec import structs

from tests.simulator.support import (
    ORG,
    Client,
    Got,
    busy,
    device,
    move,
    new_world,
    reach,
    seeded,
    target,
)
from worker.clock import SystemClock
from worker.model import Device
from worker.simulator.faults import NO_FAULT, PROFILES, Bucket, Faults, Profile, decide
from worker.simulator.world import World

ALWAYS_CODES = ("500", "502", "503", "504", "99500")


def test_the_profiles_are_named_by_their_key() -> None:
    """The seven profiles that people can choose."""
    assert list(PROFILES) == [p.name for p in PROFILES.values()]
    assert set(PROFILES) == {"calm", "throttled", "flaky", "lossy", "slow", "expiring", "down"}


def test_a_decision_depends_on_its_occasion_alone() -> None:
    """Asked in any order, the same request meets the same fault."""
    faults = PROFILES["flaky"].cancel
    occasions = [(7, "cancel", key, turn) for key in range(1, 200) for turn in (1, 2)]
    forward = {o: decide(faults, *o) for o in occasions}
    backward = {o: decide(faults, *o) for o in reversed(occasions)}
    assert forward == backward
    assert forward != {o: decide(faults, 8, *o[1:]) for o in occasions}
    assert decide(Faults(), 7, "cancel", 1, 1) == NO_FAULT


def test_faults_come_as_often_as_their_share() -> None:
    """Of many requests each fault hits about its share."""
    faults = PROFILES["flaky"].cancel
    drawn = Counter(decide(faults, 1, at).kind for at in range(20_000))
    for kind in ("reset_before", "reset_after", "error_before", "error_after", "truncated"):
        assert drawn[kind] / 20_000 == pytest.approx(getattr(faults, kind), abs=0.005)


async def _cancel_many(world: World, count: int) -> list[Got]:
    for at in range(count):
        world.seed_target(target(at))
    async with reach(world) as client:
        return [await client.cancel(device(at)) for at in range(count)]


def _signs(got: list[Got]) -> list[tuple[int, str | None]]:
    return [(g.status, g.fault) for g in got]


async def test_calm_never_fails() -> None:
    """No fault, no throttling."""
    world = new_world()
    got = await _cancel_many(world, 100)
    assert set(_signs(got)) == {(200, None)}
    assert world.truth().faults == {}


async def test_flaky_shows_every_fault_and_repeats_itself() -> None:
    """All faults of the mix happen; the same seed gives every device the same."""
    first, second, other = [new_world("flaky", seed=seed) for seed in (3, 3, 4)]
    got = [await _cancel_many(world, 400) for world in (first, second, other)]
    told = [[sign for sign in _signs(g) if sign[0] != 401] for g in got]
    assert set(first.truth().faults) == {
        "reset_before",
        "reset_after",
        "error_before",
        "error_after",
        "truncated",
        "slow",
    }
    assert first.truth() == second.truth()
    assert told[0] == told[1] != told[2]
    assert 401 in {g.status for g in got[0]}


async def test_the_order_of_arrival_changes_no_devices_faults() -> None:
    """Devices asked backwards meet what they met forwards."""
    seen: list[dict[Device, tuple[int, str | None]]] = []
    for order in (range(150), reversed(range(150))):
        world = new_world(Profile("f", cancel=PROFILES["flaky"].cancel), seed=3)
        for at in range(150):
            world.seed_target(target(at))
        async with reach(world) as client:
            got = {device(at): await client.cancel(device(at)) for at in order}
        seen.append({who: (g.status, g.fault) for who, g in got.items()})
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("faults", "executed", "reply"),
    [
        (Faults(reset_before=1.0), False, (0, "ServerDisconnectedError|ClientOSError")),
        (Faults(reset_after=1.0), True, (0, "ServerDisconnectedError|ClientOSError")),
        (Faults(error_before=1.0, errors=("502",)), False, (502, None)),
        (Faults(error_after=1.0, errors=("500",)), True, (500, None)),
        (Faults(error_after=1.0, errors=("99500",)), True, (200, None)),
        (Faults(truncated=1.0), True, (200, "truncated")),
    ],
)
async def test_a_fault_says_nothing_of_the_effect(
    faults: Faults, executed: bool, reply: tuple[int, str | None]
) -> None:
    """Before or after the effect, the caller sees the same; only the truth knows."""
    world = new_world(Profile("one", cancel=faults))
    [who, again] = busy(world, 2)
    ids = seeded(world, who)
    async with reach(world) as client:
        got = [await client.cancel(who), await client.cancel(again)]
    truth = world.truth().cancelled
    assert [who.deviceKey for who in truth] == ([who.deviceKey, again.deviceKey] * executed)
    assert (got[0].status, bool(got[0].fault)) == (reply[0], reply[1] is not None)
    assert (got[0].fault or "") in (reply[1] or "")
    assert bool(seeded(world, who)) != executed
    assert ids


async def test_truncated_replies_are_marked_as_cut_and_lost_ones_as_lost() -> None:
    """The truth says of each id what its caller can have learned."""
    got = {}
    for name, faults in {
        "told": Faults(),
        "lost": Faults(reset_after=0.5, error_after=0.5),
        "cut": Faults(truncated=1.0),
    }.items():
        world = new_world(Profile("one", cancel=faults))
        [who] = busy(world)
        async with reach(world) as client:
            await client.cancel(who)
        got[name] = {e.delivery for ids in world.truth().cancelled.values() for e in ids}
    assert got == {"told": {"told"}, "lost": {"lost"}, "cut": {"cut"}}


async def test_lossy_executes_everything_and_tells_nothing_but_searches_work() -> None:
    """No cancel is answered, all are executed, and a search shows it."""
    world = new_world("lossy")
    devices = busy(world, 10)
    ids = {who: seeded(world, who) for who in devices}
    async with reach(world) as client:
        lost = [await client.cancel(who) for who in devices]
        move(world, 2.0)
        left = [(await client.search(who)).ids for who in devices]
        gone = {who: set((await client.search(who, "state = 2")).ids) for who in devices}
    assert {g.status for g in lost} == {0}
    assert left == [[]] * 10
    assert gone == {who: set(mine) for who, mine in ids.items()}
    assert world.truth().answers[0] == 10


async def test_down_gives_a_token_and_then_503_to_everything() -> None:
    """Cancels and searches are 503 and nothing is executed."""
    world = new_world("down")
    [who] = busy(world)
    async with reach(world) as client:
        assert client.token
        got = [
            await client.cancel(who),
            await client.search(who),
            await client.devices(),
            await client.cancel(device(99_999)),
        ]
    assert [g.status for g in got] == [503] * 4
    assert world.truth().cancelled == {}


async def test_a_503_may_carry_a_retry_after() -> None:
    """The seconds are sent, and who comes before they have passed is counted."""
    faults = Faults(error_before=1.0, errors=("503",), retry_after=3)
    world = new_world(Profile("busy", cancel=faults))
    world.seed_target(target(1))
    async with reach(world) as client:
        got = [await client.cancel(device(1))]
        move(world, 0.1)
        await client.cancel(device(1))
        move(world, 2.0)
        await client.cancel(device(1))
        move(world, 3.0)
        await client.cancel(device(1))
    assert got[0].headers["Retry-After"] == "3"
    assert world.truth().early == 1


async def test_slow_waits_by_the_clock_and_by_the_scale() -> None:
    """Every reply is late by 0.5 to 2 s, scaled; the effect is at once."""
    world = new_world("slow", scale=0.1)
    for at in range(20):
        world.seed_target(target(at))
    async with reach(world) as client:
        for at in range(20):
            await client.cancel(device(at))
    slept = world.clock.slept  # type: ignore[attr-defined]
    assert len(slept) == 20
    assert all(0.05 <= seconds <= 0.2 for seconds in slept)
    assert world.truth().faults == {"slow": 20}


async def test_throttled_is_a_real_rate_limit() -> None:
    """Above the rate 429 is answered, sometimes with Retry-After; below it never."""
    world = new_world("throttled", scale=0.1)
    for at in range(90):
        world.seed_target(target(at))
    async with reach(world) as client:
        burst = [await client.cancel(device(at)) for at in range(60)]
        calm = []
        for at in range(60, 90):
            move(world, 1.01 / 40)
            calm.append(await client.cancel(device(at)))
    assert [g.status for g in burst] == [200] * 20 + [429] * 40
    assert {g.status for g in calm} == {200}
    told = [g.headers.get("Retry-After") for g in burst[20:]]
    assert set(told) == {None, "1"}
    assert all(set(g.said) == {"message"} for g in burst[20:])
    assert world.truth().answers == {200: 51, 429: 40}


def test_a_bucket_fills_by_time_and_never_beyond_its_burst() -> None:
    """A rate given to the world goes before the profile's; none is no limit."""
    world = new_world("throttled", rate_limit=4.0)
    admitted = [world.bucket.admit() for _ in range(4)]
    move(world, 100)
    admitted += [world.bucket.admit() for _ in range(3)]
    assert admitted == [True, True, False, False, True, True, False]
    assert Bucket(world.clock, None).admit()


async def test_newcomers_are_cached_while_the_worker_cancels() -> None:
    """After some cancels a new command is there, which nobody asked to cancel."""
    world = new_world(Profile("lively", newcomers=1.0), busy=0.0)
    world.seed_target(target(1))
    mine = [world.cache_command(device(1)) for _ in range(50)]
    async with reach(world) as client:
        first = await client.cancel(device(1), mine[0])
        full = len(seeded(world, device(1)))
        gone = await client.cancel(device(1), mine[0])
        still = len(seeded(world, device(1)))
        await client.cancel(device(98))
        rest = await client.cancel(device(1))
    assert (first.ids, full, gone.ids, still) == ([mine[0]], 50, [], 50)
    assert len(rest.ids) == 50
    assert len(seeded(world, device(1))) == 1


async def test_requests_in_flight_are_counted_while_their_sender_waits() -> None:
    """Overlapping requests for a device are seen, those of a sender that left are not."""
    slow = Faults(slow=1.0, wait=(0.3, 0.3))
    world = new_world(Profile("slow", cancel=slow), clock=SystemClock(), busy=0.0)
    for at in (1, 2):
        world.seed_target(target(at))

    async def give_up(client: Client) -> None:
        try:
            await asyncio.wait_for(client.cancel(device(1)), 0.05)
        except TimeoutError:
            return

    async with reach(world) as client:
        await give_up(client)
        await client.cancel(device(1))
        apart = world.truth()
        await asyncio.gather(client.cancel(device(1)), client.cancel(device(1)))
        await asyncio.gather(client.cancel(device(1)), client.cancel(device(2)))
    together = world.truth()
    assert (apart.max_in_flight, apart.overlaps) == (1, 0)
    assert (together.max_in_flight, together.overlaps) == (2, 1)
    assert together.requests == {"token": 1, "cancel": 6}


async def test_the_busiest_second_is_known() -> None:
    """The peak is the most connect requests in any one second."""
    world = new_world(busy=0.0)
    world.seed_target(target(1))
    async with reach(world) as client:
        for count, pause in ((3, 0.6), (2, 0.6), (1, 5.0)):
            for _ in range(count):
                await client.search(device(1))
            move(world, pause)
    assert world.truth().peak == 5
    assert world.asked(ORG, device(1)) == (0, 6)


@pytest.mark.parametrize(
    "faults", [Faults(), Faults(reset_after=1.0), Faults(truncated=1.0), Faults(error_after=1.0)]
)
async def test_a_caller_that_leaves_first_is_no_error(
    faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    """Answering somebody who hung up logs nothing; the cancel was executed all the same."""
    slow = structs.replace(faults, slow=1.0, wait=(0.1, 0.1))
    world = new_world(Profile("slow", cancel=slow), clock=SystemClock(), busy=1.0)
    world.seed_target(target(1))
    async with reach(world) as client:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.cancel(device(1)), 0.05)
        await asyncio.sleep(0.1)
    assert caplog.records == []
    assert len(world.truth().cancelled) == 1
