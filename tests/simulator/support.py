"""A small signing client of its own, and the pieces that every test of the simulator needs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct
from yarl import URL

from worker.clock import SystemClock
from worker.model import AllCached, AssetId, Device, DeviceKey, Listed, Target
from worker.simulator.faults import PROFILES, Profile
from worker.simulator.serve import serve
from worker.simulator.world import World

ORG = "o15541858646501"
KEY, SECRET = "rehearsal-key", "rehearsal-secret"
COMMANDS = "/connect-service/v2.1/commands"
DEVICES = "/connect-service/v2.1/devices"
TOKEN = "/apim-token-service/v2.0/token/get"
START_MS = 1_790_000_000_000


class HandClock(SystemClock):
    """A clock that stands until it is moved; a sleep moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.jump_ms = 0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return START_MS + round((self.now - 1000.0) * 1000) + self.jump_ms

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def new_world(profile: Profile | str = "calm", **options: Any) -> World:
    """A world on a clock that stands still, unless one is given."""
    usual: dict[str, Any] = {"clock": HandClock(), "seed": 7}
    chosen = PROFILES[profile] if isinstance(profile, str) else profile
    return World(profile=chosen, access_key=KEY, secret_key=SECRET, **(usual | options))


def move(world: World, seconds: float) -> None:
    assert isinstance(world.clock, HandClock)
    world.clock.now += seconds


def device(at: int) -> DeviceKey:
    return DeviceKey("bXuuAiku", f"mqtt_{at:05}")


def target(at: int, *ids: str, who: Device | None = None) -> Target:
    scope = Listed(ids) if ids else AllCached()
    return Target(at, who or device(at), ORG, scope, f"jobs/a.yaml:{at + 5}")


def names(who: Device) -> dict[str, str]:
    if isinstance(who, AssetId):
        return {"assetId": who.assetId}
    return {"productKey": who.productKey, "deviceKey": who.deviceKey}


def seeded(world: World, who: Device) -> list[str]:
    """The ids that are cached for the device now."""
    known = world.fleet.look(ORG, who)
    return [command.commandId for command in world.cached(known)] if known else []


def busy(world: World, count: int = 1, first: int = 0) -> list[DeviceKey]:
    """Seed devices until so many with commands are found."""
    found: list[DeviceKey] = []
    at = first
    while len(found) < count:
        world.seed_target(target(at))
        if seeded(world, device(at)):
            found.append(device(at))
        at += 1
    return found


class Got(Struct):
    """A reply, or what went wrong instead."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}
    fault: str | None = None

    @property
    def said(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> Any:
        return self.said["code"]

    @property
    def ids(self) -> list[str]:
        return [command["commandId"] for command in self.said["data"]]


class Client:
    """Signs and sends; one method a call."""

    def __init__(self, world: World, base: str, session: aiohttp.ClientSession) -> None:
        self.world = world
        self.base = base
        self.session = session
        self.token = ""
        self._ticks = 0

    def stamp(self) -> str:
        self._ticks += 1
        return str(self.world.now_ms() + self._ticks)

    async def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Got:
        url = URL(self.base + path, encoded=True)
        try:
            async with self.session.request(method, url, data=body, headers=headers) as response:
                try:
                    read = await response.read()
                except aiohttp.ClientPayloadError:
                    return Got(response.status, b"", dict(response.headers), "truncated")
                return Got(response.status, read, dict(response.headers))
        except (aiohttp.ClientError, ConnectionError) as problem:
            return Got(0, fault=type(problem).__name__)

    async def authorize(self, path: str = TOKEN, **changes: str) -> Got:
        stamp = self.stamp()
        encryption = hashlib.sha256(f"{KEY}{stamp}{SECRET}".encode()).hexdigest()
        body = {"appKey": KEY, "encryption": encryption, "timestamp": stamp} | changes
        got = await self.send("POST", path, msgspec.json.encode(body))
        if got.status == 200 and got.said["status"] == 0:
            self.token = got.said["data"]["accessToken"]
        return got

    def sign(self, pairs: Iterable[tuple[str, str]], body: bytes, stamp: str) -> dict[str, str]:
        query = "".join(name + value for name, value in sorted(pairs, key=lambda p: p[0]))
        text = self.token.encode() + query.encode() + body + stamp.encode() + SECRET.encode()
        return {
            "apim-accesstoken": self.token,
            "apim-timestamp": stamp,
            "apim-signature": hashlib.sha256(text).hexdigest(),
        }

    async def call(
        self, path: str, pairs: Mapping[str, str], body: bytes = b"", method: str = "POST"
    ) -> Got:
        headers = self.sign(pairs.items(), body, self.stamp())
        target = str(URL(path).with_query(dict(pairs)))
        return await self.send(method, target, body, headers)

    async def cancel(self, who: Device, commandId: str | None = None, orgId: str = ORG) -> Got:
        one = {} if commandId is None else {"commandId": commandId}
        return await self.call(COMMANDS, {"action": "cancel", "orgId": orgId} | names(who) | one)

    async def search(
        self, who: Device, expression: str = "state = 1", page: int = 1, size: int = 50
    ) -> Got:
        body = {"expression": expression, "pagination": {"pageNo": page, "pageSize": size}}
        pairs = {"action": "search", "orgId": ORG} | names(who)
        return await self.call(COMMANDS, pairs, msgspec.json.encode(body))

    async def devices(self, **body: Any) -> Got:
        pairs = {"action": "search", "orgId": ORG}
        return await self.call(DEVICES, pairs, msgspec.json.encode(body))


@asynccontextmanager
async def reach(world: World, *, authorize: bool = True) -> AsyncIterator[Client]:
    """A served world and a client that holds a token."""
    async with serve(world) as base, aiohttp.ClientSession() as session:
        client = Client(world, base, session)
        if authorize:
            await client.authorize()
        yield client
