"""The calls over loopback: who is let in, what each call does and how it is turned down."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
import pytest

from tests.simulator.support import (
    COMMANDS,
    DEVICES,
    ORG,
    START_MS,
    TOKEN,
    busy,
    device,
    move,
    new_world,
    reach,
    seeded,
    target,
)
from worker.model import AssetId
from worker.simulator.commands import Identity
from worker.simulator.signature import read_query


async def test_cancel_of_all_returns_every_cached_command_and_empties_the_cache() -> None:
    """A cancel without commandId answers with all that was cached; a second finds nothing."""
    world = new_world()
    [who] = busy(world)
    ids = seeded(world, who)
    async with reach(world) as client:
        first, second = await client.cancel(who), await client.cancel(who)
    assert (first.status, first.code, first.ids) == (200, 0, ids)
    assert (second.status, second.code, second.said["data"]) == (200, 0, [])
    executed = [e.commandId for e in next(iter(world.truth().cancelled.values()))]
    assert executed == ids


async def test_a_command_is_shown_with_the_documented_fields() -> None:
    """Ids are strings above 2^53 and the state is the one before the cancel."""
    world = new_world(busy=1.0)
    world.seed_target(target(1))
    async with reach(world) as client:
        [first, *_] = (await client.cancel(device(1))).said["data"]
    known = world.fleet.look(ORG, device(1))
    assert known is not None
    assert {name: first[name] for name in ("orgId", "productKey", "deviceKey", "assetId")} == {
        "orgId": ORG,
        "productKey": "bXuuAiku",
        "deviceKey": "mqtt_00001",
        "assetId": known.who.assetId,
    }
    assert isinstance(first["commandId"], str)
    assert len(first["commandId"]) == 19
    assert int(first["commandId"]) > 2**53
    assert first["state"] == 1
    assert START_MS - 48 * 3_600_000 < int(first["createTime"]) < START_MS
    assert {"commandType", "commandName", "timeout", "pendingTtl", "tslIdentifier"} < set(first)
    assert set(first["commandName"]) == {"defaultValue", "i18nValue"}


async def test_cancel_of_one_takes_only_that_command_and_only_while_it_is_cached() -> None:
    """A cancel by id leaves the others; a finished or unknown id answers an empty list."""
    world = new_world()
    world.seed_target(target(1))
    mine = [world.cache_command(device(1)) for _ in range(3)]
    async with reach(world) as client:
        first = await client.cancel(device(1), mine[1])
        again = await client.cancel(device(1), mine[1])
        unknown = await client.cancel(device(1), "1234567890123456789")
    assert (first.ids, again.said["data"], unknown.said["data"]) == ([mine[1]], [], [])
    assert set(seeded(world, device(1))) >= {mine[0], mine[2]}


async def test_listed_ids_are_mostly_cached_and_others_stay_untouched() -> None:
    """Of the ids a job lists about a tenth are gone; some other commands are cached too."""
    world = new_world()
    ids = [str(10**18 + at) for at in range(400)]
    for at in range(0, 400, 8):
        world.seed_target(target(at, *ids[at : at + 8]))
    cached = {i for at in range(0, 400, 8) for i in seeded(world, device(at))}
    assert 0.02 < 1 - len(cached & set(ids)) / 400 < 0.2
    assert cached - set(ids)


async def test_a_command_expires_when_its_time_to_live_is_over() -> None:
    """An expired command is in state 3 and no cancel finds it."""
    world = new_world(index_lag=0.0)
    world.seed_target(target(1))
    before = seeded(world, device(1))
    mine = world.cache_command(device(1), ttl=60)
    move(world, 61)
    async with reach(world) as client:
        got = await client.cancel(device(1))
        found = await client.search(device(1), "state = 3")
        one = await client.call(
            COMMANDS,
            {"action": "get", "orgId": ORG, "commandId": mine}
            | {"productKey": "bXuuAiku", "deviceKey": "mqtt_00001"},
            method="GET",
        )
    assert (got.ids, found.ids, one.said["data"]["state"]) == (before, [mine], 3)


async def test_search_lags_behind_updates() -> None:
    """The index shows a new command, and a cancelled one as cancelled, two seconds later."""
    world = new_world(busy=0.0)
    world.seed_target(target(1))
    async with reach(world) as client:
        mine = world.cache_command(device(1))
        seen = [(await client.search(device(1))).ids]
        move(world, 2.0)
        seen.append((await client.search(device(1))).ids)
        await client.cancel(device(1))
        move(world, 1.9)
        seen += [(await client.search(device(1), f"state = {n}")).ids for n in (1, 2)]
        move(world, 0.1)
        seen += [(await client.search(device(1), f"state = {n}")).ids for n in (1, 2)]
    assert seen == [[], [mine], [mine], [], [], [mine]]


async def test_search_pages_newest_first_and_counts_all() -> None:
    """Pages follow one another from the newest command to the oldest."""
    world = new_world(busy=0.0, index_lag=0.0)
    world.seed_target(target(1))
    ids = {at: world.cache_command(device(1), START_MS - 1000 * at) for at in (3, 0, 6, 1, 5, 2, 4)}
    mine = [ids[at] for at in range(7)]
    async with reach(world) as client:
        pages = [await client.search(device(1), page=page, size=3) for page in (1, 2, 3, 4)]
        late = await client.search(device(1), f"state = 1 and createTime >= {START_MS - 2000}")
        early = await client.search(device(1), f"createTime < {START_MS - 4000}")
        everything = await client.search(device(1), "")
    assert [page.ids for page in pages] == [mine[:3], mine[3:6], mine[6:], []]
    assert pages[1].said["pagination"] == {"pageNo": 2, "pageSize": 3, "totalSize": 7}
    assert (late.ids, early.ids, everything.ids) == (mine[:3], mine[5:], mine)


@pytest.mark.parametrize(
    "body",
    [
        {"expression": "state=one"},
        {"expression": "state = 1 or state = 2"},
        {"expression": 1},
        {"pagination": {"pageNo": 0}},
        {"pagination": {"pageSize": 101}},
        {"pagination": {"pageSize": "50"}},
        {"pagination": [1, 50]},
        [],
    ],
)
async def test_a_search_that_cannot_be_read_is_refused(body: Any) -> None:
    """A filter or page that is not understood is 99400, never a guess."""
    world = new_world()
    world.seed_target(target(1))
    pairs = {"action": "search", "orgId": ORG, "productKey": "bXuuAiku", "deviceKey": "mqtt_00001"}
    async with reach(world) as client:
        got = await client.call(COMMANDS, pairs, msgspec.json.encode(body))
    assert (got.status, got.code) == (200, 99400)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("orgId={org}&productKey=bXuuAiku&deviceKey=mqtt_00001", 0),
        ("orgId={org}&productKey=bXuuAiku", 99400),
        ("orgId={org}&deviceKey=mqtt_00001", 99400),
        ("orgId={org}", 99400),
        ("productKey=bXuuAiku&deviceKey=mqtt_00001", 99400),
        ("orgId=other&productKey=bXuuAiku&deviceKey=mqtt_00001", 99400),
        ("orgId={org}&productKey=bXuuAiku&deviceKey=mqtt_00001&assetId=x", 99400),
        ("orgId={org}&productKey=bXuuAiku&deviceKey=mqtt_00001&commandId=", 99400),
        ("orgId={org}&productKey=bXuuAiku&deviceKey=mqtt_00001&comandId=1", 99400),
        ("orgId={org}&productKey=bXuuAiku&deviceKey=mqtt_00001&deviceKey=mqtt_00001", 99400),
        ("orgId={org}&productKey=bXuuAiku&deviceKey=mqtt_99999", 99404),
        ("orgId={org}&assetId=nobody", 99404),
    ],
)
async def test_parameters_are_read_strictly(query: str, code: int) -> None:
    """Missing, empty, doubled, misspelled and unknown are refused and cancel nothing."""
    world = new_world(busy=1.0)
    world.seed_target(target(1))
    raw = "action=cancel&" + query.format(org=ORG)
    async with reach(world) as client:
        headers = client.sign(read_query(raw), b"", client.stamp())
        got = await client.send("POST", f"{COMMANDS}?{raw}", b"", headers)
    assert (got.status, got.code) == (200, code)
    assert bool(world.truth().cancelled) == (code == 0)
    assert got.said.get("submsg") or code in (0, 99404)


async def test_get_needs_a_command_id_and_answers_null_for_an_unknown_one() -> None:
    """`get` of a command that the device never had is an envelope with null."""
    world = new_world(busy=0.0)
    world.seed_target(target(1))
    world.seed_target(target(2))
    world.cache_command(device(1))
    pairs = {"action": "get", "orgId": ORG, "productKey": "bXuuAiku"}
    async with reach(world) as client:
        got = [
            await client.call(COMMANDS, pairs | {"deviceKey": who.deviceKey} | more, method="GET")
            for who, more in [
                (device(1), {}),
                (device(1), {"commandId": "1"}),
                (device(2), {"commandId": "1"}),
            ]
        ]
    assert [(g.code, g.said["data"]) for g in got] == [(99400, None), (0, None), (0, None)]


async def test_what_is_not_an_endpoint_has_no_envelope() -> None:
    """Unknown paths and actions are 404, a known call by the wrong method is 405."""
    world = new_world()
    async with reach(world) as client:
        got = [
            await client.send(method, path)
            for method, path in [
                ("POST", "/"),
                ("POST", COMMANDS),
                ("POST", f"{COMMANDS}?action=delete"),
                ("POST", f"{COMMANDS}?action=%ff"),
                ("GET", f"{COMMANDS}?action=cancel&orgId={ORG}"),
                ("POST", f"{COMMANDS}?action=get&orgId={ORG}"),
                ("GET", TOKEN),
                ("PUT", f"{DEVICES}?action=search"),
            ]
        ]
    assert [g.status for g in got] == [404, 404, 404, 404, 405, 405, 405, 405]
    assert all(set(g.said) == {"message"} and "Date" in g.headers for g in got)


async def test_permissions_are_denied_by_organization_and_by_device() -> None:
    """99403 for what is forbidden, and nothing is cancelled."""
    world = new_world(busy=1.0)
    world.seed_target(target(1))
    world.seed_target(target(2))
    world.forbid(ORG, device(1))
    async with reach(world) as client:
        got = [(await client.cancel(device(at))).code for at in (1, 2)]
        world.forbid(ORG)
        got.append((await client.search(device(2))).code)
    assert got == [99403, 0, 99403]
    assert [who.deviceKey for who in world.truth().cancelled] == ["mqtt_00002"]


async def test_a_device_that_is_not_there_may_be_11404() -> None:
    """Both codes for an unknown device can be had; one that a job names is no stray."""
    world = new_world(no_device_code=11404)
    world.seed_absent(target(1))
    async with reach(world) as client:
        got = await client.cancel(device(1))
    assert (got.code, world.truth().stray_count) == (11404, 0)


async def test_a_device_answers_to_both_of_its_names() -> None:
    """The invented name of a device leads to the same device."""
    world = new_world(busy=1.0)
    world.seed_target(target(1, who=AssetId("oxWwM9i5")))
    known = world.fleet.look(ORG, AssetId("oxWwM9i5"))
    assert known is not None
    other = type(device(0))(known.who.productKey, known.who.deviceKey)
    async with reach(world) as client:
        got = await client.cancel(other)
    assert len(got.ids) == len(known.commands)
    assert world.asked(ORG, AssetId("oxWwM9i5")) == (1, 0)


async def test_device_search_filters_pages_and_projects() -> None:
    """Devices are found by name and status, newest first; the secret stays out if asked."""
    world = new_world(busy=0.0)
    for at in range(5):
        world.add_device(Identity(ORG, "p1", f"d{at}", f"asset{at}"))
    world.seed_target(target(9))
    async with reach(world) as client:
        fields = ["deviceKey", "assetId"]
        page = await client.devices(
            expression="productKey = 'p1'",
            pagination={"pageNo": 1, "pageSize": 2},
            projection=fields,
        )
        two = await client.devices(
            expression="assetId in ('asset0', 'asset3') or deviceKey = 'd1' and productKey = 'p1'",
            projection=fields,
        )
        named = await client.devices(
            expression="productKey = 'bXuuAiku' and deviceKey in ('mqtt_00009', 'mqtt_00010')",
            projection=fields,
        )
        plain = await client.devices(expression="assetId = 'asset0' and status in ('offline')")
        bad = [
            await client.devices(expression="deviceName like 'a'"),
            await client.devices(pagination={"pageSize": 201}),
            await client.devices(projection="assetId"),
        ]
    assert page.said["data"] == [
        {"deviceKey": "d4", "assetId": "asset4"},
        {"deviceKey": "d3", "assetId": "asset3"},
    ]
    assert page.said["pagination"] == {"pageNo": 1, "pageSize": 2, "totalSize": 5}
    assert [d["deviceKey"] for d in two.said["data"]] == ["d3", "d1", "d0"]
    assert [d["deviceKey"] for d in named.said["data"]] == ["mqtt_00009"]
    assert all("deviceSecret" in d for d in plain.said["data"])
    assert [g.code for g in bad] == [99400] * 3


async def test_every_reply_carries_the_gateways_date() -> None:
    """Date follows the gateway's own clock, skew included."""
    world = new_world(skew=90.0)
    async with reach(world) as client:
        got = [await client.cancel(device(1)), await client.send("GET", "/nowhere")]
    dates = [parsedate_to_datetime(g.headers["Date"]).timestamp() for g in got]
    assert dates == [START_MS // 1000 + 90] * 2


async def test_taken_names_are_refused() -> None:
    """Two devices cannot share a name."""
    world = new_world()
    world.add_device(Identity(ORG, "p1", "d1", "a1"))
    with pytest.raises(KeyError):
        world.add_device(Identity(ORG, "p1", "d2", "a1"))
