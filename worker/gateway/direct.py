"""Requests written as bytes on kept connections: the fast way to a gateway without a proxy.

No task, timer or stream is made for a request, and a future only for one that is awaited:
deadlines are numbers that one timer looks after. The connection used last is used next, so that
as few stay open as the rate needs. What it takes from below aiohttp's session: connector.py.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Mapping
from functools import partial

from yarl import URL

from worker.clock import Clock
from worker.gateway import causes
from worker.gateway.connector import Dialer, Exchange, SpokeFirstError, Wire
from worker.gateway.exchange import Reply, Then, Transport, TransportSettings
from worker.gateway.faults import EXPECTED, fault_of
from worker.gateway.tls import tls_for
from worker.gateway.transport import SessionTransport


def open_transport(settings: TransportSettings, clock: Clock) -> Transport:
    """The way to a gateway: directly, or through the proxy that the settings name.

    Raises UsageError when a certificate or key file cannot be used.
    """
    kind = DirectTransport if settings.proxy is None else SessionTransport
    return kind(settings, clock)


class DirectTransport:
    """One gateway over as few connections as it takes."""

    def __init__(self, settings: TransportSettings, clock: Clock) -> None:
        """Raises UsageError when a certificate or key file cannot be used."""
        if settings.proxy is not None:
            raise ValueError("no way leads through a proxy here: take a SessionTransport")
        self._settings = settings
        self._keepalive = settings.keepalive
        self._clock = clock
        self._base = URL(str(URL(settings.url)).rstrip("/"), encoded=True)
        self._tls = tls_for(settings)
        self._dialer: Dialer | None = None
        self._start = "POST " + self._base.raw_path.rstrip("/")
        self._host = ""  # of the request; known with the dialer
        self._wires: dict[Wire, None] = {}  # in the order they were opened
        self._idle: list[Wire] = []  # the one used last is the last
        self._dials: dict[Exchange, asyncio.Task[None]] = {}  # each for the one that waits for it
        self._queue: deque[Exchange] = deque()
        self._cut = math.inf  # what is out ends then, and nothing goes out; inf: no end yet
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = math.inf  # monotonic

    async def post(
        self, target: str, headers: Mapping[str, str], body: bytes, deadline: float
    ) -> Reply:
        """As `Transport.post`; ValueError for a line break in target or headers."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        exchange = self.launch(target, headers, body, deadline, partial(_resolve, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            self._give_up(exchange)
            raise

    def launch(
        self, target: str, headers: Mapping[str, str], body: bytes, deadline: float, then: Then
    ) -> Exchange:
        """As `Transport.launch`; ValueError for a line break in target or headers."""
        now = self._clock.monotonic()
        if self._dialer is None:
            self._dialer = Dialer(self._settings, self._base, self._tls)
            self._host = self._dialer.host
        exchange = Exchange(self._request(target, headers, body), deadline, then)
        if now >= deadline or self._cut < math.inf:
            asyncio.get_running_loop().call_soon(exchange.end, self._not_sent())
            return exchange
        if (wire := self._take(now)) is not None:
            wire.begin(exchange)
        elif self._has_room():
            self._dial_for(exchange)
            return exchange
        else:
            self._queue.append(exchange)
        if deadline < self._wakes_at:
            self._look_after(deadline)
        return exchange

    def cut(self, at: float) -> None:
        self._cut = min(self._cut, at)
        if self._wires:
            self._look_after(self._cut)
        if self._dials or self._queue:  # soon: whoever stops the run may be in the middle of it
            asyncio.get_running_loop().call_soon(self._end_unsent)

    async def aclose(self) -> None:
        """Close every connection; what is under way ends as disconnected."""
        self._cut = -math.inf
        if self._timer is not None:
            self._timer.cancel()
        dials = list(self._dials.values())
        self._end_unsent()
        ends: list[Awaitable[object] | None] = [wire.closed for wire in self._wires]
        for wire in list(self._wires):
            wire.drop()
        await asyncio.gather(*dials, *filter(None, ends), return_exceptions=True)
        if self._dialer is not None:
            await self._dialer.aclose()

    # ---------------------------------------------------------------- what becomes of a connection

    def freed(self, wire: Wire) -> None:
        """The next in the queue goes out at once, before anybody has read the last reply."""
        now = self._clock.monotonic()
        while self._queue:
            if not wire.ready:
                return wire.drop()
            exchange = self._queue.popleft()
            if exchange.then is None:
                continue  # given up
            if now < exchange.deadline:
                return wire.begin(exchange)
            exchange.end(self._not_sent())
        wire.idle_since = now
        self._idle.append(wire)
        if now + self._keepalive < self._wakes_at:
            self._look_after(now + self._keepalive)
        return None

    def gone(self, wire: Wire) -> None:
        """Its place is the next one's."""
        self._wires.pop(wire, None)
        if wire in self._idle:
            self._idle.remove(wire)
        self._offer()

    def _offer(self) -> None:
        """Open connections for who waits in the queue, as long as there is room."""
        while self._queue and self._has_room():
            exchange = self._queue.popleft()
            if exchange.then is not None:
                self._dial_for(exchange)

    def _has_room(self) -> bool:
        return len(self._wires) + len(self._dials) < self._settings.connections

    # ---------------------------------------------------------------- one exchange

    def _request(self, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
        lines = ""
        for name, value in headers.items():
            lines += f"{name}: {value}\r\n"
        head = (
            f"{self._start}{target} HTTP/1.1\r\nHost: {self._host}\r\nAccept-Encoding: identity\r\n"
            f"{lines}Accept: */*\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        count = 6 + len(headers)
        if head.count("\r") != count or head.count("\n") != count or "\0" in head:
            raise ValueError("a line break in the target or a header")
        return head.encode() + body

    def _take(self, now: float) -> Wire | None:
        """The kept connection that was used last; those that cannot be used any more go."""
        while self._idle:
            wire = self._idle.pop()
            if now < wire.idle_since + self._keepalive and wire.ready:
                return wire
            wire.drop()
        return None

    def _give_up(self, exchange: Exchange) -> None:
        """Nobody waits for this one any more."""
        exchange.then = None
        if exchange.wire is not None and exchange.wire.exchange is exchange:
            exchange.wire.drop()

    def _dial_for(self, exchange: Exchange) -> None:
        self._dials[exchange] = asyncio.get_running_loop().create_task(self._dial(exchange))

    async def _dial(self, exchange: Exchange) -> None:
        """The exchange over a connection of its own; one that is given up leaves it to others."""
        outcome: Wire | str | Exception
        try:
            outcome = await self._connect(exchange.deadline)
        except Exception as bug:  # noqa: BLE001 - whoever waits must hear of it
            outcome = bug
        finally:
            self._dials.pop(exchange, None)
        if isinstance(outcome, str):
            exchange.end(Reply(sent=False, fault=outcome))
        elif isinstance(outcome, Exception):
            exchange.end(outcome)
        else:
            self._wires[outcome] = None
            if exchange.then is None:
                self.freed(outcome)
            else:
                outcome.begin(exchange)
                self._look_after(exchange.deadline)
        self._offer()

    async def _connect(self, deadline: float) -> Wire | str:
        """A fresh connection, or the cause why there is none."""
        assert self._dialer is not None  # noqa: S101 - made before the first dial
        end = min(deadline, self._clock.monotonic() + self._settings.connect_timeout)
        try:
            async with asyncio.timeout_at(self._on_the_loop(end)):
                return await self._dialer.dial(self)
        except TimeoutError:
            return causes.CONNECT_TIMEOUT
        except SpokeFirstError:
            return causes.MALFORMED_HTTP
        except EXPECTED as error:
            return fault_of(error, sent=False)

    # ---------------------------------------------------------------- time

    def _look_after(self, moment: float) -> None:
        """Sweep then, or earlier."""
        moment = min(moment, self._cut)
        if moment < self._wakes_at:
            self._wakes_at = moment
            if self._timer is not None:
                self._timer.cancel()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._on_the_loop(moment), self._sweep)

    def _sweep(self) -> None:
        """End what is late, close what was idle for too long."""
        self._wakes_at = math.inf
        now = self._clock.monotonic()
        next_end = self._sweep_queue(now)
        for wire in list(self._wires):
            exchange = wire.exchange
            if exchange is None:
                continue
            if now >= exchange.deadline or now >= self._cut:
                wire.end(causes.CUT if now >= self._cut else causes.REQUEST_TIMEOUT)
            else:
                next_end = min(next_end, exchange.deadline, self._cut)
        while self._idle and now >= min(self._idle[0].idle_since + self._keepalive, self._cut):
            self._idle[0].drop()
        if self._idle:
            next_end = min(next_end, self._idle[0].idle_since + self._keepalive)
        if next_end < math.inf:
            self._look_after(next_end)

    def _sweep_queue(self, now: float) -> float:
        """End what waited for a connection for too long; when the next one has."""
        next_end = math.inf
        waiting, self._queue = self._queue, deque()
        for exchange in waiting:
            if exchange.then is None:
                continue
            if now >= exchange.deadline:
                exchange.end(self._not_sent())
            else:
                self._queue.append(exchange)
                next_end = min(next_end, exchange.deadline)
        return next_end

    def _end_unsent(self) -> None:
        """What waits for a connection, or for one to be made, is proven not sent."""
        dials, self._dials = self._dials, {}
        for dial in dials.values():
            dial.cancel()
        waiting, self._queue = self._queue, deque()
        for exchange in (*dials, *waiting):
            exchange.end(self._not_sent())

    def _not_sent(self) -> Reply:
        return Reply(sent=False, fault=causes.CUT if self._cut < math.inf else causes.POOL_TIMEOUT)

    def _on_the_loop(self, moment: float) -> float:
        """The moment by the loop's clock: its zero may differ from ours."""
        return asyncio.get_running_loop().time() + (moment - self._clock.monotonic())


def _resolve(answer: asyncio.Future[Reply], reply: Reply | Exception) -> None:
    if answer.done():
        return  # cancelled, and its task has not noticed yet
    if isinstance(reply, Exception):
        answer.set_exception(reply)
    else:
        answer.set_result(reply)
