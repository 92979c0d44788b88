"""Requests over aiohttp's client session: the way through proxies, and the second opinion.

It uses documented names only, costs several times what direct.py does and must come to the same
replies. Nothing is followed, repeated, decoded or kept by the session itself.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Final

import aiohttp
from yarl import URL

from worker.clock import Clock
from worker.gateway import causes
from worker.gateway.exchange import MAX_BODY, Reply, Then, TransportSettings
from worker.gateway.faults import EXPECTED, fault_of
from worker.gateway.launches import Launches
from worker.gateway.sockets import Unread, open_connector
from worker.gateway.tls import tls_for

__all__ = ["SessionTransport", "TransportSettings"]


class SessionTransport:
    """One gateway over one pool of connections."""

    def __init__(self, settings: TransportSettings, clock: Clock) -> None:
        """Raises UsageError when a certificate or key file cannot be used."""
        self._settings = settings
        self._clock = clock
        self._base = str(URL(settings.url)).rstrip("/")
        self._tls = tls_for(settings)
        self._session: aiohttp.ClientSession | None = None
        self._exchanges: dict[_Exchange, None] = {}  # in the order they began
        self._launches = Launches()
        self._cut = math.inf  # what is out ends then, and nothing goes out; inf: no end yet

    async def post(
        self, target: str, headers: Mapping[str, str], body: bytes, deadline: float
    ) -> Reply:
        if self._cut < math.inf:
            return Reply(sent=False, fault=causes.CUT)
        exchange = _Exchange(self._clock, deadline, self._settings.connect_timeout)
        try:
            async with exchange.timeout:
                self._exchanges[exchange] = None
                try:
                    await self._talk(exchange, target, headers, body)
                finally:
                    self._exchanges.pop(exchange, None)
        except TimeoutError:
            exchange.fault = exchange.why_timed_out()
        return exchange.reply()

    def launch(
        self, target: str, headers: Mapping[str, str], body: bytes, deadline: float, then: Then
    ) -> None:
        self._launches.add(self.post(target, headers, body, deadline), then)

    def cut(self, at: float) -> None:
        self._cut = min(self._cut, at)
        for exchange in self._exchanges:
            exchange.cut(self._cut)

    async def aclose(self) -> None:
        await self._launches.aclose()
        if self._session is not None:
            await self._session.close()

    async def _talk(
        self, exchange: _Exchange, target: str, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Fill the exchange with what comes; whatever breaks becomes its fault."""
        if self._session is None:
            self._session = self._open()
        try:
            while True:
                try:
                    async with self._session.post(
                        URL(self._base + target, encoded=True),
                        headers={"Accept-Encoding": "identity", **headers},
                        data=body or None,
                        allow_redirects=False,
                        trace_request_ctx=exchange,
                    ) as response:
                        return await exchange.read(response)
                except _StaleConnectionError:
                    continue  # closed by now, and nothing was written: the next one, or a new one
        except _SpokeFirstError:
            exchange.fault = causes.MALFORMED_HTTP
        except EXPECTED as error:
            exchange.fault = fault_of(error, sent=exchange.sent)

    def _open(self) -> aiohttp.ClientSession:
        proxy = self._settings.proxy
        return aiohttp.ClientSession(
            connector=open_connector(self._settings, self._tls),
            timeout=aiohttp.ClientTimeout(),  # none of its own: each exchange has its deadline
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Content-Type"),
            auto_decompress=False,
            trust_env=False,
            proxy=proxy.reveal() if proxy is not None else None,
            request_class=_Request,
            trace_configs=[_watch()],
        )


class _StaleConnectionError(aiohttp.ClientConnectionError):
    """A kept connection has something to read before anything was asked."""


class _SpokeFirstError(aiohttp.ClientConnectionError):
    """A fresh connection has: whoever is there does not wait for requests."""


class _Request(aiohttp.ClientRequest):
    """A request that does not go out on a connection with an answer already in it.

    The session hands out a kept connection unread: what the server sent meanwhile, an answer
    nobody asked for, would answer this request, and so another device. Often it is just the
    server's close, which is then seen before the request is lost in it.
    """

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        if conn.protocol is not None:
            # A fresh TLS connection may have session tickets to read; a used one has read them.
            used = conn.protocol in _USED
            _USED.add(conn.protocol)
            if used and (conn.protocol.should_close or Unread(conn.protocol.transport)):
                raise _StaleConnectionError
            if conn.protocol.should_close:
                raise _SpokeFirstError
        return await super().send(conn)


_USED: Final[weakref.WeakSet[aiohttp.client_proto.ResponseHandler]] = weakref.WeakSet()


class _Exchange:
    """One request on its way: its deadline, whether it went out, what came back."""

    def __init__(self, clock: Clock, deadline: float, connect_timeout: float) -> None:
        self.sent = False
        self.fault: str | None = None
        self._clock = clock
        self._deadline = deadline
        self._connect_timeout = connect_timeout
        self._connect_by: float | None = None  # set while a connection is being made
        self._cut = math.inf
        self._status: int | None = None
        self._headers: Mapping[str, str] = {}
        self._body = bytearray()
        self.timeout = asyncio.timeout_at(self._on_the_loop())

    def cut(self, at: float) -> None:
        """End then, or now if nothing went out yet."""
        if not self.timeout.expired():  # one that fired keeps its reason
            self._cut = at if self.sent else -math.inf
            self._reschedule()

    def connecting(self) -> None:
        self._connect_by = self._clock.monotonic() + self._connect_timeout
        self._reschedule()

    def connected(self) -> None:
        self._connect_by = None
        self._reschedule()

    async def read(self, response: aiohttp.ClientResponse) -> None:
        """Status, headers and as much of the body as anybody may send."""
        self._status = response.status
        self._headers = response.headers
        while chunk := await response.content.read(MAX_BODY + 1 - len(self._body)):
            self._body += chunk
            if len(self._body) > MAX_BODY:
                del self._body[MAX_BODY:]
                self.fault = causes.TOO_LONG
                response.close()
                return

    def why_timed_out(self) -> str:
        if self._clock.monotonic() >= self._cut:
            return causes.CUT
        if self.sent:
            return causes.REQUEST_TIMEOUT
        return causes.POOL_TIMEOUT if self._connect_by is None else causes.CONNECT_TIMEOUT

    def reply(self) -> Reply:
        return Reply(
            sent=self.sent,
            status=self._status,
            headers=self._headers,
            body=bytes(self._body),
            fault=self.fault,
        )

    def _reschedule(self) -> None:
        # One that fired keeps its moment; the task just has not noticed yet.
        if not self.timeout.expired():
            self.timeout.reschedule(self._on_the_loop())

    def _on_the_loop(self) -> float:
        """The nearest of the ends, by the loop's clock: its zero may differ from ours."""
        end = min(self._deadline, self._cut, self._connect_by or math.inf)
        return asyncio.get_running_loop().time() + (end - self._clock.monotonic())


def _watch() -> aiohttp.TraceConfig:
    """Tells each exchange how far it got."""

    async def connecting(_session: object, context: SimpleNamespace, _params: object) -> None:
        context.trace_request_ctx.connecting()

    async def connected(_session: object, context: SimpleNamespace, _params: object) -> None:
        context.trace_request_ctx.connected()

    async def sent(_session: object, context: SimpleNamespace, _params: object) -> None:
        # Runs before the first byte is written, so "not set" is proof and "set" is none.
        context.trace_request_ctx.sent = True

    watch = aiohttp.TraceConfig()
    watch.on_connection_create_start.append(connecting)
    watch.on_connection_create_end.append(connected)
    watch.on_request_headers_sent.append(sent)
    return watch
