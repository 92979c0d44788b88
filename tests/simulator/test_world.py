"""The world by itself: what is derived, what may be set up, what counts as a stray."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulator.support import (
    COMMANDS,
    ORG,
    START_MS,
    busy,
    device,
    new_world,
    reach,
    seeded,
    target,
)
from worker.model import AssetId
from worker.simulator.chance import Dice, key64
from worker.simulator.fleet import Known
from worker.simulator.world import World


def _derived(world: World, count: int) -> list[Known | None]:
    for at in range(count):
        world.seed_target(target(at))
    return [world.fleet.look(ORG, device(at)) for at in range(count)]


def test_most_devices_have_nothing_cached_and_few_have_many() -> None:
    """A quarter have 1 to 50 commands, half of those only one or two."""
    counts = Counter(len(k.commands) if k else 0 for k in _derived(new_world(), 4000))
    some = [n for n, times in counts.items() if n for _ in range(times)]
    assert 0.22 < len(some) / 4000 < 0.28
    assert sorted(some)[len(some) // 2] <= 2
    assert 40 < max(some) <= 50


def test_commands_are_minutes_to_two_days_old_and_still_live() -> None:
    """Created within 48 h before now, with a time to live that is not over."""
    for known in _derived(new_world(busy=1.0), 300):
        assert known is not None
        for command in known.commands:
            age = (START_MS - command.created_ms) / 1000
            assert 60 <= age <= 48 * 3600
            assert age + 1800 <= command.ttl <= 172_800


def test_a_device_is_the_same_in_every_world_of_its_seed() -> None:
    """What is derived depends on the seed and the name, not on the order of asking."""
    one, two, other = new_world(), new_world(), new_world(seed=8)
    forward = _derived(one, 200)
    for at in reversed(range(200)):
        two.seed_target(target(at))
        two.fleet.look(ORG, device(at))
    assert forward == [two.fleet.look(ORG, device(at)) for at in range(200)]
    assert forward != _derived(other, 200)


def test_ids_of_a_fleet_do_not_repeat() -> None:
    """Each command has an id of its own."""
    ids = [c.commandId for k in _derived(new_world(busy=1.0), 2000) if k for c in k.commands]
    assert len(set(ids)) == len(ids)
    assert {len(i) for i in ids} == {19}


def test_commands_can_be_cached_until_there_are_fifty() -> None:
    """A 51st, a life that is too long and an unknown device are refused."""
    world = new_world(busy=0.0)
    world.seed_target(target(1))
    ids = [world.cache_command(device(1)) for _ in range(50)]
    assert len(set(ids)) == 50
    with pytest.raises(ValueError, match="has 50 commands cached"):
        world.cache_command(device(1))
    with pytest.raises(ValueError, match="a command lives"):
        world.cache_command(device(1), ttl=172_801)
    with pytest.raises(ValueError, match="no such device"):
        world.cache_command(device(2))
    world.cancel_elsewhere(device(1), ids[0])
    assert world.cache_command(device(1), commandId="1" * 19) == "1" * 19
    world.orgs.add("another")
    with pytest.raises(ValueError, match="say which organization"):
        world.cache_command(device(1))


def test_what_somebody_else_cancels_is_not_ours() -> None:
    """It is in state 2, and the truth does not name it."""
    world = new_world(index_lag=0.0, busy=0.0)
    world.seed_target(target(1))
    mine = world.cache_command(device(1))
    world.cancel_elsewhere(device(1), mine, orgId=ORG)
    assert [(c.commandId, s) for c, s in world.search(ORG, device(1), ())] == [(mine, 2)]
    assert world.truth().cancelled == {}
    with pytest.raises(KeyError):
        world.cancel_elsewhere(device(1), mine)


def test_a_listed_device_never_has_more_than_fifty_cached() -> None:
    """Ids that have no room are gone already."""
    world = new_world()
    ids = tuple(str(10**18 + at) for at in range(80))
    world.seed_target(target(1, *ids))
    assert 45 <= len(seeded(world, device(1))) <= 50


def test_a_device_may_be_seeded_by_several_jobs() -> None:
    """Listed twice, its ids are joined, also after it was asked for; whole counts for all."""
    world = new_world()
    a, b = "1" * 19, "2" * 19
    world.seed_target(target(1, a))
    world.fleet.look(ORG, device(1))
    world.seed_target(target(1, a, b))
    known = world.fleet.look(ORG, device(1))
    assert known is not None
    assert Counter(c.commandId for c in known.commands)[a] == 1
    assert b in {c.commandId for c in known.commands}
    key = known.key
    before = world.fleet.asked_for(key, None)
    world.seed_target(target(1))
    assert (before, world.fleet.asked_for(key, None)) == (False, True)
    world.seed_target(target(2))
    world.seed_target(target(2, a))
    assert world.fleet.asked_for(world.fleet.key_of(ORG, device(2)), None)


async def test_strays_are_named() -> None:
    """Unknown devices, a cancel of all where ids were listed, an id that was not listed."""
    world = new_world()
    ids = [str(10**18 + at) for at in range(5)]
    world.seed_target(target(1, *ids))
    world.seed_target(target(2))
    world.seed_absent(target(3))
    async with reach(world) as client:
        for at in (1, 2, 3):
            await client.search(device(at))
        await client.cancel(device(1), ids[0])
        await client.cancel(device(2))
        await client.cancel(device(2), "1" * 19)
        await client.cancel(device(3))
        assert world.truth().stray_count == 0
        await client.cancel(device(4))
        await client.search(AssetId("nobody"))
        await client.cancel(device(1))
        await client.cancel(device(1), "1" * 19)
        await client.call(COMMANDS, {"action": "cancel", "orgId": ORG})
    assert world.truth().strays == (
        f"a cancel for a device that no job names: {device(4)}",
        f"a search for a device that no job names: {AssetId('nobody')}",
        f"a cancel of all commands, which no job names, of {device(1)}",
        f"a cancel of command {'1' * 19}, which no job names, of {device(1)}",
    )


async def test_any_device_can_be_known() -> None:
    """Standing alone, every name is a device of the given organizations, and none is a stray."""
    world = new_world(any_device=True, orgs=[ORG])
    async with reach(world) as client:
        got = [await client.cancel(device(at)) for at in range(40)]
        wrong = await client.cancel(device(1), orgId="other")
    assert {g.code for g in got} == {0}
    assert any(g.ids for g in got)
    assert (wrong.code, world.truth().stray_count) == (99400, 0)


def test_dice_are_the_same_for_the_same_parts() -> None:
    """A sequence of draws is bound to its parts and goes on without end."""
    draws = [[Dice("a", 1).whole(0, 10**9), *_shares(Dice("a", 1), 30)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) == 31
    assert _shares(Dice("a", 1), 2) != _shares(Dice("a", 2), 2)
    assert key64("a", "b") != key64("ab")


def _shares(dice: Dice, count: int) -> list[float]:
    return [dice.share() for _ in range(count)]


def test_busy_finds_devices_with_commands() -> None:
    """The tests' own helper."""
    world = new_world()
    assert all(seeded(world, who) for who in busy(world, 5))
