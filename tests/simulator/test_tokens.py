"""The token service: life, repetition, refresh, withdrawal."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulator.support import TOKEN, device, move, new_world, reach, target
from worker.simulator.faults import Faults, Profile

REFRESH = "/apim-token-service/v2.0/token/refresh"


async def test_a_second_get_returns_the_same_token_with_the_seconds_left() -> None:
    """Within its life a token is handed out again; afterwards there is a new one."""
    world = new_world()
    async with reach(world, authorize=False) as client:
        got = [await client.authorize()]
        move(world, 1200)
        got.append(await client.authorize())
        move(world, 6000)
        got.append(await client.authorize())
    data = [g.said["data"] for g in got]
    assert [d["expire"] for d in data] == [7200, 6000, 7200]
    assert data[0]["accessToken"] == data[1]["accessToken"] != data[2]["accessToken"]
    assert {k: v for k, v in got[0].said.items() if k != "data"} == {
        "status": 0,
        "msg": "SUCCESS",
        "business": "apim-token",
    }


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"appKey": "someone"}, 1002),
        ({"encryption": "0" * 64}, 1003),
        ({"timestamp": "1790000000"}, 1004),
        ({"appKey": ""}, 1202),
        ({"encryption": ""}, 1202),
    ],
)
async def test_a_bad_request_for_a_token_is_refused(changes: Any, status: int) -> None:
    """Each mistake has its own status, with HTTP 200 and no token."""
    async with reach(new_world(), authorize=False) as client:
        got = await client.authorize(**changes)
    assert (got.status, got.said["status"], "data" in got.said) == (200, status, False)


async def test_an_encryption_works_once() -> None:
    """A repeated encryption is 1001, even while its token lives."""
    async with reach(new_world()) as client:
        stamp = client.stamp()
        client.stamp = lambda: stamp  # type: ignore[method-assign]
        got = [(await client.authorize()).said["status"] for _ in range(2)]
    assert got == [0, 1001]


async def test_a_body_that_is_no_object_is_a_bad_parameter() -> None:
    """Junk is 1004."""
    async with reach(new_world()) as client:
        got = [(await client.send("POST", TOKEN, body)).said["status"] for body in (b"", b"[1]")]
    assert got == [1004, 1004]


async def test_refresh_gives_a_new_token_for_a_living_one() -> None:
    """Both tokens live on; an expired or missing one cannot be refreshed."""
    world = new_world(busy=0.0)
    world.seed_target(target(1))
    async with reach(world) as client:
        old = client.token
        missing = await client.authorize(REFRESH)
        await client.authorize(REFRESH, accessToken=old)
        new, client.token = client.token, old
        still = await client.cancel(device(1))
        move(world, 7201)
        late = await client.authorize(REFRESH, accessToken=old)
        wrong = await client.authorize(REFRESH, appKey="someone")
    assert old != new
    assert (missing.said["status"], still.code, late.said["status"]) == (1202, 0, 1203)
    assert wrong.said["status"] == 1002


async def test_an_expired_token_is_turned_away_as_401_or_1203() -> None:
    """The expiring profile says it with a code, the others with a status."""
    got = []
    for name in ("calm", "expiring"):
        world = new_world(name, scale=0.1)
        world.seed_target(target(1))
        async with reach(world) as client:
            move(world, 721)
            late = await client.cancel(device(1))
            await client.authorize()
            again = await client.cancel(device(1))
        got.append((late.status, late.said.get("code"), again.code))
    assert got == [(401, None, 0), (200, 1203, 0)]


async def test_the_tokens_of_the_expiring_profile_live_for_seconds() -> None:
    """20 s, scaled."""
    async with reach(new_world("expiring", scale=0.1), authorize=False) as client:
        got = await client.authorize()
    assert got.said["data"]["expire"] == 2


async def test_a_token_is_withdrawn_after_its_uses_and_the_next_one_works() -> None:
    """Withdrawn early, but never before it served 20 requests."""
    world = new_world(Profile("picky", token_uses=1), busy=0.0)
    world.seed_target(target(1))
    async with reach(world) as client:
        got = [(await client.cancel(device(1))).status for _ in range(22)]
        await client.authorize()
        got.append((await client.cancel(device(1))).status)
    assert got == [200] * 20 + [401, 401, 200]


async def test_the_token_service_can_fail_too() -> None:
    """Faults of tokens hit get and refresh, and each try is drawn anew."""
    world = new_world(Profile("shaky", token=Faults(error_before=0.5, errors=("503",))))
    async with reach(world, authorize=False) as client:
        got = [(await client.authorize()).status for _ in range(30)]
    assert set(got) == {200, 503}


async def test_tokens_differ_between_seeds_and_agree_within_one() -> None:
    """Tokens are drawn from the seed."""
    got = []
    for seed in (1, 1, 2):
        async with reach(new_world(seed=seed)) as client:
            got.append(client.token)
    assert got[0] == got[1] != got[2]
