"""Serving a world on loopback, and telling people how to reach it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worker.model import DeviceKey
from worker.simulator.world import World

_SHUTDOWN = 0.1  # s that requests in flight get when the simulator closes
_EXAMPLES = 3


@asynccontextmanager
async def serve(world: World, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve until the block ends and yield the base URL; port 0 takes any that is free.

    OSError when the address cannot be bound.
    """
    # A run against a real gateway has no use for a web server, and 3 MB for it neither.
    from aiohttp import web  # noqa: PLC0415

    from worker.simulator.app import create_app  # noqa: PLC0415

    runner = web.AppRunner(
        create_app(world), access_log=None, shutdown_timeout=_SHUTDOWN, handle_signals=False
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        name, bound = runner.addresses[0][:2]
        yield f"http://[{name}]:{bound}" if ":" in name else f"http://{name}:{bound}"
    finally:
        await runner.cleanup()


def describe(world: World, url: str) -> str:
    """What a person needs to point something at the simulator, one fact a line."""
    lines = [
        f"url         {url}",
        f"access key  {world.access_key}",
        f"secret key  {world.secret_key}",
        f"profile     {world.profile.name}, seed {world.seed}, waits times {world.scale:g}",
    ]
    for orgId in sorted(world.orgs):
        lines.append(f"orgId       {orgId}")
        lines += [f"  {line}" for line in _examples(world, orgId)]
    if world.any_device:
        lines.append("Any device of these organizations is there; about a quarter have commands.")
    return "\n".join(lines)


def _examples(world: World, orgId: str) -> list[str]:
    """Some devices with commands: of an open world made-up ones, else those seeded so far."""
    if world.any_device:
        names = [DeviceKey("bXuuAiku", f"mqtt_{at:02}") for at in range(1, 41)]
        known = [world.fleet.look(orgId, device) for device in names]
    else:
        known = [device for device in world.fleet.kept() if device.who.orgId == orgId]
    found = [device for device in known if device is not None and device.commands]
    return [
        f"productKey {d.who.productKey}  deviceKey {d.who.deviceKey}  assetId {d.who.assetId}  "
        f"commands {len(d.commands)}"
        for d in found[:_EXAMPLES]
    ]
