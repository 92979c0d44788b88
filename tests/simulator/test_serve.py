"""Serving: where it is reached, how fast it goes, what people are told."""

from __future__ import annotations

import aiohttp
import anyio
import pytest

from tests.simulator.support import (
    KEY,
    ORG,
    SECRET,
    busy,
    device,
    new_world,
    reach,
    seeded,
    target,
)
from worker.clock import SystemClock
from worker.simulator.faults import Faults, Profile
from worker.simulator.serve import describe, serve


async def test_it_binds_loopback_on_a_free_port_and_goes_at_once() -> None:
    """The URL works inside the block; leaving does not wait for idle connections."""
    clock = SystemClock()
    async with aiohttp.ClientSession() as session:
        async with serve(new_world()) as base:
            assert base.startswith("http://127.0.0.1:")
            async with session.get(base) as response:
                assert response.status == 404
            left = clock.monotonic()
        assert clock.monotonic() - left < 0.5
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(base)


async def test_a_request_in_flight_does_not_hold_the_end_back() -> None:
    """A slow reply is given up when the simulator closes."""
    world = new_world(
        Profile("slow", cancel=Faults(slow=1.0, wait=(30.0, 30.0))), clock=SystemClock()
    )
    world.seed_target(target(1))
    clock = SystemClock()
    async with anyio.create_task_group() as tasks:
        async with reach(world) as client:
            tasks.start_soon(client.cancel, device(1))
            await anyio.sleep(0.05)
            left = clock.monotonic()
        assert clock.monotonic() - left < 0.8


async def test_two_simulators_do_not_share_a_port() -> None:
    """A port that is taken is an OSError."""
    async with serve(new_world()) as base:
        port = int(base.rpartition(":")[2])
        with pytest.raises(OSError, match="address"):
            async with serve(new_world(), port=port):
                pass


async def test_ipv6_is_written_in_brackets() -> None:
    """A URL that can be used as it is."""
    async with serve(new_world(), host="::1") as base:
        assert base.startswith("http://[::1]:")


def test_people_are_told_how_to_reach_it() -> None:
    """URL, keys, profile, and some devices that are worth a try."""
    world = new_world("flaky", any_device=True, orgs=[ORG], scale=0.1)
    lines = describe(world, "http://127.0.0.1:8080").splitlines()
    assert lines[:5] == [
        "url         http://127.0.0.1:8080",
        f"access key  {KEY}",
        f"secret key  {SECRET}",
        "profile     flaky, seed 7, waits times 0.1",
        f"orgId       {ORG}",
    ]
    assert len(lines) == 9
    assert all("commands" in line for line in lines[5:])


def test_examples_of_a_seeded_world_are_its_own_devices() -> None:
    """Only devices of the organization, and only those with commands."""
    world = new_world()
    [who] = busy(world)
    lines = describe(world, "u").splitlines()
    assert [who.deviceKey in line for line in lines] == [False] * 5 + [True]
    assert lines[5].endswith(f"commands {len(seeded(world, who))}")
