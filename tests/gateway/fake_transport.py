"""A network of one line: replies come from a function, requests are kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from tests.gateway.fake_clock import FakeClock
from worker.gateway.exchange import Reply, Then
from worker.gateway.launches import Launches
from worker.gateway.token import PATH


class Request(Struct, frozen=True):
    """What a transport was asked to send."""

    target: str
    headers: dict[str, str]
    body: bytes
    deadline: float


class FakeTransport:
    """Answers token requests from one list and calls from another; the last reply stays."""

    def __init__(
        self,
        clock: FakeClock,
        tokens: list[Reply] | None = None,
        calls: list[Reply] | None = None,
    ) -> None:
        self.tokens = tokens if tokens is not None else [token_reply("T1")]
        self.calls = calls if calls is not None else [ok(code=0, data=[])]
        self.token_requests: list[Request] = []
        self.call_requests: list[Request] = []
        self.takes_ms = 0  # how long each exchange lasts
        self.before_reply: Callable[[], None] = lambda: None
        self.gate = asyncio.Event()  # token requests wait for it
        self.gate.set()
        self._clock = clock
        self._launches = Launches()

    async def post(
        self, target: str, headers: Mapping[str, str], body: bytes, deadline: float
    ) -> Reply:
        request = Request(target, dict(headers), body, deadline)
        is_token = target == PATH
        (self.token_requests if is_token else self.call_requests).append(request)
        await asyncio.sleep(0)
        if is_token:
            await self.gate.wait()
        self._clock.pass_ms(self.takes_ms)
        self.before_reply()
        replies = self.tokens if is_token else self.calls
        return replies.pop(0) if len(replies) > 1 else replies[0]

    def launch(
        self, target: str, headers: Mapping[str, str], body: bytes, deadline: float, then: Then
    ) -> None:
        self._launches.add(self.post(target, headers, body, deadline), then)

    def cut(self, at: float) -> None:
        """Nothing is in flight for longer than a test's step."""

    async def aclose(self) -> None:
        """Nothing to close."""


class Tries:
    """Patience with fixed waits, which pass at once; `stops_at` is the wait that ends the run."""

    def __init__(self, clock: FakeClock, *delays: float, stops_at: int | None = None) -> None:
        self.waited: list[float] = []
        self.stopping = False
        self._clock = clock
        self._delays = delays
        self._stops_at = stops_at

    def delays(self) -> Iterator[float]:
        return iter(self._delays)

    async def wait(self, seconds: float) -> bool:
        if not seconds:
            return not self.stopping
        self.waited.append(seconds)
        await asyncio.sleep(0)
        self._clock.pass_ms(round(seconds * 1000))
        return len(self.waited) != self._stops_at


def ok(headers: dict[str, str] | None = None, http: int = 200, **members: Any) -> Reply:
    return Reply(sent=True, status=http, headers=headers or {}, body=json.dumps(members).encode())


def token_reply(text: Any, expire: Any = 7200, **members: Any) -> Reply:
    data = {"accessToken": text, "expire": expire}
    return ok(**{"status": 0, "msg": "SUCCESS", "data": data, **members})
