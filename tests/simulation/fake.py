"""The fast network of a world: `gateway.exchange.Transport` straight onto the gateway's model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from math import inf
from random import Random

from tests.simulation.answers import token_body
from tests.simulation.fates import Fate
from tests.simulation.gateway import Gateway
from tests.simulation.seeded import SeededLoop
from tests.simulation.span import Span, WorldClock
from tests.simulation.truth import Exchange
from worker.gateway.exchange import Reply, Then
from worker.gateway.launches import Launches


class BugError(RuntimeError):
    """Stands for any bug of ours."""


class FakeTransport:
    """Carries requests of one process of one worker."""

    def __init__(
        self,
        gateway: Gateway,
        span: Span,
        loop: SeededLoop,
        clock: WorldClock,
        chance: Random,
        worker: int,
        run: int,
    ) -> None:
        self._gateway = gateway
        self._span = span
        self._loop = loop
        self._clock = clock
        self._chance = chance
        self._who = (worker, run)
        self._launches = Launches()
        self._cut = inf  # loop time
        self._waits: dict[asyncio.Future[None], asyncio.TimerHandle] = {}

    async def post(
        self, target: str, headers: Mapping[str, str], body: bytes, deadline: float
    ) -> Reply:
        gateway = self._gateway
        if self._cut < inf:
            return Reply(sent=False, fault="cut")
        exchange = gateway.open(*self._who, target, headers, body)
        ends = deadline - self._clock.zero  # loop time
        fate = gateway.fate(exchange)
        if fate.before is not None:
            return await self._before(exchange, fate, ends)
        thing = exchange.thing
        if thing is not None and thing.bug and exchange.kind == "cancel":
            thing.bug = False
            exchange.row = 55
            gateway.over(exchange, "AM", "bug")
            gateway.answered(exchange, 0, {}, "bug")
            raise BugError("a bug of ours")
        gateway.begin(exchange, fate, ends + self._span.slept)
        if not await self._until(exchange.arrives - self._span.slept, ends):
            return self._given_up(exchange, ends)
        fate = gateway.arrive(exchange, fate)
        if not await self._until(exchange.replies - self._span.slept, ends):
            return self._given_up(exchange, ends, fate)
        return self._replied(exchange, fate, body)

    def launch(
        self, target: str, headers: Mapping[str, str], body: bytes, deadline: float, then: Then
    ) -> None:
        self._launches.add(self.post(target, headers, body, deadline), then)

    def cut(self, at: float) -> None:
        self._cut = min(self._cut, at - self._clock.zero)
        for future, timer in list(self._waits.items()):
            if self._cut < timer.when():
                timer.cancel()
                self._waits[future] = self._loop.call_at(self._cut, _wake, future)

    async def aclose(self) -> None:
        await self._launches.aclose()

    async def _before(self, exchange: Exchange, fate: Fate, ends: float) -> Reply:
        takes = 5.0 if fate.before == "connect_timeout" else self._chance.uniform(0.0, 0.05)
        exchange.row = fate.row
        whole = await self._until(self._loop.now + takes, ends)
        fault = fate.before if whole or self._loop.now < self._cut else "cut"
        exchange.fate = fate
        self._gateway.over(exchange, "NS", fate.name)
        self._gateway.answered(exchange, 0, {}, fault)
        return Reply(sent=False, fault=fault)

    def _given_up(self, exchange: Exchange, ends: float, fate: Fate | None = None) -> Reply:
        gateway = self._gateway
        gateway.abandon(exchange)
        fault = "cut" if self._loop.now >= self._cut else "request_timeout"
        name = exchange.fault if exchange.fault in ("hang", "drip") else fault
        gateway.over(exchange, "AM", name)
        gateway.answered(exchange, 0, {}, fault)
        if fate is not None and fate.ending == "drip" and exchange.kind == "cancel":
            status, headers, body = gateway.reply(exchange, fate)
            part = body[: self._chance.randrange(len(body) + 1)]
            self._told(exchange, part)
            return Reply(sent=True, status=status, headers=headers, body=part, fault=fault)
        return Reply(sent=True, fault=fault)

    def _replied(self, exchange: Exchange, fate: Fate, body: bytes) -> Reply:
        gateway = self._gateway
        status, headers, said = gateway.reply(exchange, fate)
        if exchange.kind == "token" and fate.body == "answer":
            said = token_body(gateway.token(exchange, body))
        fault = None
        if fate.ending == "disconnect":
            fault, status, headers, said = "disconnected", 0, {}, b""
        elif fate.ending == "truncate":
            fault, said = "truncated", said[: self._chance.randrange(len(said) + 1)]
        self._told(exchange, said)
        gateway.over(exchange, exchange.proof)
        gateway.answered(exchange, status, headers, fault)
        return Reply(sent=True, status=status or None, headers=headers, body=said, fault=fault)

    def _told(self, exchange: Exchange, said: bytes) -> None:
        exchange.delivered = tuple(c for c in exchange.executed if c.encode() in said)

    async def _until(self, moment: float, ends: float) -> bool:
        """Wait for a moment of the loop; False when the exchange ended before it."""
        end = min(moment, ends, self._cut)
        if end > self._loop.now:
            future = self._loop.create_future()
            self._waits[future] = self._loop.call_at(end, _wake, future)
            try:
                await future
            finally:
                self._waits.pop(future).cancel()
        now = self._loop.now
        return now >= moment - 1e-9 and now < self._cut


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
