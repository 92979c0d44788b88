"""Two small workers against a flaky gateway: the honest one agrees, the careless one is caught."""

from __future__ import annotations

import msgspec
import pytest

from tests.simulator.support import ORG, Client, device, new_world, reach, target
from worker.model import AllCached, Command, CommandResult, OutcomeKind, ReportRow
from worker.simulator.compare import compare

DEVICES = 200


def _row(at: int, kind: OutcomeKind, ids: tuple[str, ...] = ()) -> ReportRow:
    commands = tuple(CommandResult(Command(i), "cancelled", "response", None, 1) for i in ids)
    name = device(at)
    return ReportRow(
        *(at, ORG, name.productKey, name.deviceKey, None, kind, None, 1, None, None, None),
        *(None, None, 1, "jobs/a.yaml:5", AllCached(), commands),
    )


async def _once(client: Client, at: int) -> tuple[str, ...] | None:
    """The ids that a whole answer names; None for anything else."""
    got = await client.cancel(device(at))
    if got.status == 401:
        await client.authorize()
        got = await client.cancel(device(at))
    try:
        said = got.said
    except msgspec.DecodeError:
        return None
    if got.status != 200 or got.fault or said["code"] != 0:
        return None
    return tuple(command["commandId"] for command in said["data"])


def _settled(at: int, ids: tuple[str, ...]) -> ReportRow:
    return _row(at, OutcomeKind.CANCELLED if ids else OutcomeKind.NOTHING_CACHED, ids)


async def _honest(client: Client, at: int) -> ReportRow:
    ids = await _once(client, at)
    return _row(at, OutcomeKind.UNKNOWN) if ids is None else _settled(at, ids)


async def _careless(client: Client, at: int) -> ReportRow:
    """Retries until an answer comes and believes it."""
    while (ids := await _once(client, at)) is None:
        pass
    return _settled(at, ids)


async def _pessimist(client: Client, at: int) -> ReportRow:
    """Calls failed what gave no answer."""
    ids = await _once(client, at)
    return _row(at, OutcomeKind.FAILED) if ids is None else _settled(at, ids)


@pytest.mark.parametrize("profile", ["calm", "flaky", "lossy", "slow", "expiring", "down"])
async def test_an_honest_worker_agrees_with_the_gateway(profile: str) -> None:
    """Who calls uncertain what is uncertain has nothing to fear in any weather."""
    world = new_world(profile, seed=5)
    for at in range(DEVICES):
        world.seed_target(target(at))
    async with reach(world) as client:
        while not client.token:
            await client.authorize()
        rows = [await _honest(client, at) for at in range(DEVICES)]
    assert compare(world, rows) == []


@pytest.mark.parametrize("worker", [_careless, _pessimist])
async def test_a_careless_worker_is_caught(worker: object) -> None:
    """Believing the second answer, or calling no answer a failure, loses ids."""
    world = new_world("flaky", seed=5, busy=1.0)
    for at in range(DEVICES):
        world.seed_target(target(at))
    async with reach(world) as client:
        rows = [await worker(client, at) for at in range(DEVICES)]  # type: ignore[operator]
    problems = compare(world, rows)
    assert len(problems) > 3
    assert all("the gateway cancelled" in p and "leaves it out" in p for p in problems)
