"""A network in memory for the real HTTP client: bytes go straight to the gateway's model.

`SessionTransport` and all of aiohttp run unmodified; only the loop's own way to a connection is
replaced. What a connection delivers keeps its order, whatever the loop shuffles: one callback
takes one item off the connection's queue.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import deque
from collections.abc import Callable, Mapping
from http import HTTPStatus
from math import isinf
from random import Random
from typing import TYPE_CHECKING, Any

from tests.simulation.answers import token_body
from tests.simulation.fates import Fate
from tests.simulation.gateway import Gateway
from tests.simulation.seeded import SeededLoop
from tests.simulation.setup import Setup
from tests.simulation.span import Span, WorldClock
from tests.simulation.truth import Exchange
from worker.gateway.direct import open_transport
from worker.gateway.exchange import Reply, Then, Transport, TransportSettings
from worker.gateway.transport import SessionTransport

if TYPE_CHECKING:
    from tests.simulation.world import World

Item = Callable[["Connection"], None]


class Net:
    """Everything between the client and the gateway; one a loop."""

    def __init__(self, world: World, loop: SeededLoop, chance: Random) -> None:
        self.world = world
        self.gateway: Gateway = world.gateway
        self.span: Span = world.span
        self.setup: Setup = world.setup
        self.loop = loop
        self.chance = chance
        self.runs: dict[int, int] = {}  # worker -> run
        self.started: dict[Any, float] = {}  # when the worker asked for a request, loop time
        self._ways: dict[Any, int] = {}

    async def resolve(self, host: str, port: int) -> list[Any]:
        await asyncio.sleep(self.chance.uniform(0.0, 0.01))
        if self._fault("dns"):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        where = (f"10.0.0.{host.partition('.')[0][-1]}", port)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where)]

    async def reach(self, sock: Any, address: Any) -> None:
        await asyncio.sleep(self.chance.uniform(0.0, 0.02))
        if self._fault("refused"):
            raise ConnectionRefusedError(111, "Connection refused")
        if self._fault("connect_timeout"):
            await asyncio.sleep(1e6)
        self._ways[sock] = int(address[0][-1])

    async def connect(self, factory: Callable[[], Any], sock: Any) -> tuple[Any, Any]:
        worker = self._ways.pop(sock)
        sock.close()
        protocol = factory()
        connection = Connection(self, protocol, worker)
        protocol.connection_made(connection)
        return connection, protocol

    def _fault(self, name: str) -> bool:
        """Whether a fault of the way strikes now."""
        setup, now = self.setup, self.span.now()
        share = setup.weather.cancel.get(name, 0.0)
        outage = setup.outage
        if outage and outage[2] == name and outage[0] <= now < outage[1]:
            share = 1.0
        if self.chance.random() >= share:
            return False
        self.world.witness.rows[{"refused": 1, "dns": 2, "connect_timeout": 3}[name]] += 1
        self.world.note("no way", name)
        return True


class Connection(asyncio.Transport):
    """One connection, the client's end of it."""

    def __init__(self, net: Net, protocol: Any, worker: int) -> None:
        super().__init__()
        self._net = net
        self._protocol = protocol
        self._worker = worker
        self._sent = b""
        self._items: deque[Item] = deque()
        self._paused = self._closing = self._lost = False
        self._exchange: Exchange | None = None
        self._fate: Fate | None = None

    # ---------------------------------------------------------------- the client's side

    def write(self, data: Any) -> None:
        if self._closing:
            return
        self._sent += bytes(data)
        head, found, body = self._sent.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        if len(body) < int(headers.get("content-length", "0")):
            return
        self._sent = b""
        self._begin(lines[0].split(" ")[1], headers, body)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._end(None)

    def abort(self) -> None:
        self._end(None)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        for _ in self._items:
            self._net.loop.call_soon(self._pump)

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def _end(self, error: Exception | None) -> None:
        """Closed by either side; an exchange that is on its way is over."""
        if self._closing:
            return
        self._closing = True
        exchange, net = self._exchange, self._net
        if exchange is not None:
            self._exchange = None
            net.gateway.abandon(exchange)
            net.gateway.over(exchange, "AM")
            net.gateway.answered(exchange, 0, {}, "gave up")
        self._items.clear()
        net.loop.call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._protocol.connection_lost(error)

    # ---------------------------------------------------------------- the gateway's side

    def _begin(self, target: str, headers: dict[str, str], body: bytes) -> None:
        net, gateway = self._net, self._net.gateway
        run = net.runs[self._worker]
        started = net.started.pop(_mark(headers, body), None)
        exchange = gateway.open(self._worker, run, target, headers, body, started)
        fate = gateway.fate(exchange, connected=True)
        gateway.begin(exchange, fate, net.span.now() + net.setup.request_timeout)
        self._exchange = exchange
        self._at(exchange.arrives, lambda: self._arrive(exchange, fate, body))

    def _at(self, moment: float, what: Callable[[], None]) -> None:
        """moment in true time."""
        if not isinf(moment):
            self._net.loop.call_at(moment - self._net.span.slept, what)

    def _arrive(self, exchange: Exchange, fate: Fate, body: bytes) -> None:
        if self._exchange is not exchange:
            return
        fate = self._net.gateway.arrive(exchange, fate)
        if fate.ending == "drip":
            moment = exchange.arrives + 1.6
            self._at(moment, lambda: self._answer(exchange, fate, body))
        else:
            self._at(exchange.replies, lambda: self._answer(exchange, fate, body))

    def _answer(self, exchange: Exchange, fate: Fate, body: bytes) -> None:
        net, gateway = self._net, self._net.gateway
        if self._exchange is not exchange:
            return
        if fate.ending == "disconnect":
            self._over(exchange, 0, {}, "disconnected")
            self._hang_up()
            return
        status, headers, said = gateway.reply(exchange, fate)
        if exchange.kind == "token" and fate.body == "answer":
            said = token_body(gateway.token(exchange, body))
        raw = _raw(status, headers, said)
        head = raw.index(b"\r\n\r\n") + 4
        if fate.ending == "truncate":
            cut = head + net.chance.randrange(max(1, len(said)))
            exchange.delivered = _whole(exchange, raw[head:cut])
            self._send(_sliced(raw[:cut], net.chance))
            self._put(lambda line: line._over(exchange, status, headers, "truncated"))
            self._put(lambda line: line._hang_up())
            return
        exchange.delivered = _whole(exchange, said)
        if fate.ending == "drip":
            self._drip(exchange, raw)
            return
        *pieces, last = _sliced(raw, net.chance)
        self._send(pieces)
        # Over before its last piece is read: the client may go on the moment it is.
        self._put(lambda line: line._over(exchange, status, headers, None))
        self._items.append(lambda line: line._protocol.data_received(last))
        if net.chance.random() < 0.1:  # an idle connection is closed, perhaps just when it is used
            idle = net.chance.uniform(0.0, 3.0)
            net.loop.call_at(net.loop.now + idle, self._hang_up_idle)

    def _drip(self, exchange: Exchange, raw: bytes) -> None:
        """One byte every 200 ms, for as long as anybody listens."""
        for index in range(min(len(raw), 300)):
            moment = self._net.loop.now + 0.2 * index
            self._net.loop.call_at(moment, self._one_byte, exchange, raw[index : index + 1])

    def _one_byte(self, exchange: Exchange, data: bytes) -> None:
        if self._exchange is exchange:
            self._protocol.data_received(data)

    def _over(
        self, exchange: Exchange, status: int, headers: dict[str, str], fault: str | None
    ) -> None:
        """The client has all that it gets."""
        if self._exchange is exchange:
            self._exchange = None
            self._net.gateway.over(exchange, exchange.proof)
            self._net.gateway.answered(exchange, status, headers, fault)

    def _hang_up(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._net.chance.random() < 0.5:
            self._net.loop.call_soon(self._lose, ConnectionResetError(104, "reset"))
        else:
            self._protocol.eof_received()
            self._net.loop.call_soon(self._lose, None)

    def _hang_up_idle(self) -> None:
        if self._exchange is None and not self._items:
            self._hang_up()

    def _send(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._put(lambda line, data=piece: line._protocol.data_received(data))  # type: ignore[misc]

    def _put(self, item: Item) -> None:
        self._items.append(item)
        self._net.loop.call_soon(self._pump)

    def _pump(self) -> None:
        if self._items and not self._paused and not self._closing:
            self._items.popleft()(self)
            if self._exchange is None and self._items:
                self._pump()  # what belongs to the end of a reply comes in one go


def _raw(status: int, headers: dict[str, str], body: bytes) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Odd"
    lines = [f"HTTP/1.1 {status} {phrase}"]
    lines += [f"{name.title()}: {value}" for name, value in headers.items()]
    if status != 204:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (b"" if status == 204 else body)


def _sliced(raw: bytes, chance: Random) -> list[bytes]:
    """The bytes in up to four pieces, cut anywhere."""
    cuts = sorted(chance.randrange(len(raw) + 1) for _ in range(chance.randrange(4)))
    ends = [0, *cuts, len(raw)]
    return [raw[lo:hi] for lo, hi in itertools.pairwise(ends) if lo < hi]


def _whole(exchange: Exchange, said: bytes) -> tuple[str, ...]:
    return tuple(c for c in exchange.executed if c.encode() in said)


def reach(
    world: World, loop: SeededLoop, clock: WorldClock, settings: TransportSettings, who: Any
) -> Transport:
    """A real transport of a worker in this world; who: its number and its run.

    Two worlds of three use what a run without a proxy uses, the third what goes through proxies.
    """
    worker, run = who
    if not isinstance(loop.network, Net):
        loop.network = Net(world, loop, Random(f"{world.seed} net {len(world.starts)}"))
    loop.network.runs[worker] = run
    kind = SessionTransport if world.seed % 3 == 0 else open_transport
    return _Started(kind(settings, clock), loop, loop.network)


class _Started:
    """Notes when a request was asked for: what comes before the first byte takes time."""

    def __init__(self, transport: Transport, loop: SeededLoop, net: Net) -> None:
        self._transport = transport
        self._loop = loop
        self._net = net
        self.cut = transport.cut
        self.aclose = transport.aclose

    async def post(
        self, target: str, headers: Mapping[str, str], body: bytes, deadline: float
    ) -> Reply:
        self._net.started[_mark(headers, body)] = self._loop.now
        return await self._transport.post(target, headers, body, deadline)

    def launch(
        self, target: str, headers: Mapping[str, str], body: bytes, deadline: float, then: Then
    ) -> None:
        self._net.started[_mark(headers, body)] = self._loop.now
        self._transport.launch(target, headers, body, deadline, then)


def _mark(headers: Mapping[str, str], body: bytes) -> Any:
    """What no two requests share."""
    return headers.get("apim-signature") or body
