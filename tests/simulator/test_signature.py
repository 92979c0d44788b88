"""The gateway's own signature check: the published vectors, and who is turned away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.simulator.support import COMMANDS, ORG, HandClock, new_world, reach, target
from worker.simulator.signature import (
    Replays,
    expected_encryption,
    expected_signature,
    read_query,
    same,
)

VECTORS = msgspec.json.decode(Path(__file__).with_name("vectors.json").read_bytes())


@pytest.mark.parametrize("case", VECTORS["call"], ids=lambda case: case["name"])
def test_signature_vectors(case: dict[str, Any]) -> None:
    """The check agrees with the published signatures, however the query is encoded."""
    pairs = read_query(case["target"].partition("?")[2])
    stamp, secret = str(case["timestamp"]), case["secret"]
    body = case["body"].encode()
    got = expected_signature(case["access_token"], pairs, body, stamp, secret)
    assert got == case["signature"]


@pytest.mark.parametrize("case", VECTORS["token"], ids=lambda case: case["name"])
def test_token_vectors(case: dict[str, Any]) -> None:
    """The encryption of a token request agrees with the published ones."""
    got = expected_encryption(case["access_key"], str(case["timestamp"]), case["secret"])
    assert got == case["encryption"]


def test_a_signature_that_is_no_ascii_is_only_wrong() -> None:
    """Whatever stands in the header is compared, never a crash."""
    assert not same("\udcff", "a" * 64)


async def _try(**changes: Any) -> tuple[int, dict[str, Any]]:
    """One cancel whose headers or clock are changed after signing."""
    world = new_world()
    world.seed_target(target(1))
    pairs = {"action": "cancel", "orgId": ORG, "productKey": "bXuuAiku", "deviceKey": "mqtt_00001"}
    query = "&".join(f"{name}={value}" for name, value in pairs.items())
    async with reach(world) as client:
        stamp = changes.pop("stamp", None) or client.stamp()
        headers = client.sign(pairs.items(), b"", stamp) | changes
        got = await client.send("POST", f"{COMMANDS}?{query}", b"", headers)
    return got.status, got.said


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 200),
        ({"apim-accesstoken": "someone-else"}, 401),
        ({"apim-accesstoken": ""}, 401),
        ({"apim-signature": "0" * 64}, 401),
        ({"apim-timestamp": "1790000000999"}, 401),
        ({"stamp": "now"}, 401),
        ({"stamp": "1790000299000"}, 200),
        ({"stamp": "1790000301000"}, 401),
        ({"stamp": "1789999699000"}, 401),
    ],
)
async def test_who_is_not_let_in(changes: dict[str, str], status: int) -> None:
    """A bad token, signature or timestamp is 401 without an envelope."""
    got, said = await _try(**changes)
    assert (got, set(said) == {"message"}) == (status, status == 401)


async def test_a_signature_works_once() -> None:
    """The second use of a signature is 401 and counted, unless replays are allowed."""
    pairs = {"action": "cancel", "orgId": ORG, "productKey": "bXuuAiku", "deviceKey": "mqtt_00001"}
    query = "&".join(f"{name}={value}" for name, value in pairs.items())
    got = []
    for refuse in (True, False):
        world = new_world(refuse_replays=refuse)
        world.seed_target(target(1))
        async with reach(world) as client:
            headers = client.sign(pairs.items(), b"", client.stamp())
            sent = [await client.send("POST", f"{COMMANDS}?{query}", b"", headers) for _ in "12"]
        got.append(([s.status for s in sent], world.truth().replays))
    assert got == [([200, 401], 1), ([200, 200], 0)]


def test_old_signatures_are_forgotten() -> None:
    """Signatures are kept 10 to 20 minutes, so that memory is bounded."""
    clock = HandClock()
    replays = Replays(clock)
    one = "00000000000000ff" + "0" * 48
    seen = [replays.first_time(one), replays.first_time(one)]
    clock.now += 601
    seen.append(replays.first_time(one))
    clock.now += 601
    seen.append(replays.first_time("0" * 64))
    clock.now += 601
    seen.append(replays.first_time(one))
    assert seen == [True, False, False, True, True]


async def test_a_body_is_signed_byte_for_byte() -> None:
    """A search whose body was changed after signing is turned away."""
    world = new_world()
    world.seed_target(target(1))
    pairs = {"action": "search", "orgId": ORG, "productKey": "bXuuAiku", "deviceKey": "mqtt_00001"}
    query = "&".join(f"{name}={value}" for name, value in pairs.items())
    async with reach(world) as client:
        headers = client.sign(pairs.items(), b"{}", client.stamp())
        got = await client.send("POST", f"{COMMANDS}?{query}", b"{ }", headers)
    assert got.status == 401
