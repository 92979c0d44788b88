"""What is used of aiohttp below its session, where names are not documented: all of it is here.

A connection comes from the public TCPConnector, a reply that is not plain is read by aiohttp's
response handler and parser, and between the two stands a Wire. tests/gateway/test_connector.py
names what an aiohttp must have for that; one that lacks it fails there, not in a run.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final, Protocol

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader
from yarl import URL

from worker.gateway import causes
from worker.gateway.exchange import MAX_BODY, Reply, Then, TransportSettings
from worker.gateway.faults import fault_of
from worker.gateway.plain_reply import plain_reply
from worker.gateway.secure import secure
from worker.gateway.sockets import Unread, open_connector

_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None)
_NO_HEADERS: Final[Mapping[str, str]] = {}


class SpokeFirstError(Exception):
    """A fresh connection had something to read: whoever is there does not wait for requests."""


class Exchange:
    """One request on its way to its reply."""

    __slots__ = ("data", "deadline", "then", "wire")

    def __init__(self, data: bytes, deadline: float, then: Then) -> None:
        self.data = data  # head and body, as they are written
        self.deadline = deadline  # monotonic
        self.then: Then | None = then  # None: over, or nobody waits for it any more
        self.wire: Wire | None = None  # set: sent

    def end(self, reply: Reply | Exception) -> None:
        """Tell what it came to, once."""
        then, self.then = self.then, None
        if then is not None:
            then(reply)


class Owner(Protocol):
    """Who is told what becomes of a connection."""

    def freed(self, wire: Wire) -> None:
        """It can carry the next exchange."""

    def gone(self, wire: Wire) -> None:
        """It is closed, by whomever."""


class Dialer:
    """Makes connections to one gateway."""

    def __init__(self, settings: TransportSettings, base: URL, tls: ssl.SSLContext | None) -> None:
        """Needs the running loop."""
        self._connector = open_connector(settings, tls)
        loop = asyncio.get_running_loop()
        self.host = aiohttp.ClientRequest("POST", base, loop=loop).headers["Host"]
        self._tls = tls if base.scheme == "https" else None
        self._hostname = (base.raw_host or "").rstrip(".")
        # Only tells the connector where to, and that TLS is not its task; it is never sent.
        bare = base.with_scheme("http").with_port(base.port)
        self._request = aiohttp.ClientRequest("POST", bare, loop=loop)

    async def dial(self, owner: Owner) -> Wire:
        """A fresh connection, handshake done.

        Raises what faults.py knows, and SpokeFirstError; cancelling it is fine.
        """
        connection = await self._connector.connect(self._request, [], _NO_TIMEOUT)
        handler = connection.protocol
        if handler is None or handler.transport is None or handler.transport.is_closing():
            connection.close()
            raise ConnectionResetError("closed as soon as it was there")
        if handler.should_close:
            connection.close()
            raise SpokeFirstError
        raw = handler.transport
        if self._tls is None:
            return Wire(connection, handler, raw, owner)
        try:
            return Wire(connection, handler, await self._secured(raw, self._tls), owner)
        except BaseException:
            raw.set_protocol(handler)  # which tells the connector of the end
            connection.close()
            raise

    async def _secured(self, raw: asyncio.Transport, tls: ssl.SSLContext) -> asyncio.Transport:
        stream = await secure(raw, tls, self._hostname)
        if stream.spoke():
            raise SpokeFirstError
        if raw.is_closing():
            raise ConnectionResetError("closed right behind the handshake")
        return stream

    async def aclose(self) -> None:
        await self._connector.close()


class Wire(ResponseHandler):
    """One connection, one exchange at a time, from the first byte written to the whole reply.

    It takes the place of the handler that the connector made. That one would queue what comes;
    this one knows whether anybody asked for it, and answers as soon as the reply is complete.
    """

    def __init__(
        self,
        connection: Connection,
        made: ResponseHandler,
        transport: asyncio.Transport,
        owner: Owner,
    ) -> None:
        super().__init__(asyncio.get_running_loop())
        self.idle_since = 0.0  # monotonic; kept by the owner
        self.exchange: Exchange | None = None
        self._connection: Connection | None = connection
        self._made = made
        self._wire = transport
        self._owner = owner
        self._used = False
        self._just_read = False  # nothing can wait in it that was not there a moment ago
        self._parsing = False  # what comes is for the parser
        self._held = False  # the parser was told to pause
        self._collecting = False
        self._unread = Unread(transport)
        self._message: RawResponseMessage | None = None
        self._content: StreamReader | None = None
        self._body: bytes | bytearray = b""
        self._surplus = False  # more than one reply came
        self.connection_made(transport)
        transport.set_protocol(self)

    @property
    def ready(self) -> bool:
        """Whether it is open and silent; what has something to say must not be asked."""
        # A fresh TLS connection may have session tickets to read; a used one has read them.
        if self._wire.is_closing():
            return False
        return self._just_read or not (self._used and self._unread)

    def begin(self, exchange: Exchange) -> None:
        """Write the request: from here on it counts as sent."""
        self.exchange = exchange
        exchange.wire = self
        self._used = True
        self._parsing = False
        self._wire.write(exchange.data)

    def end(self, fault: str) -> None:
        """Break off what is under way, with what came so far."""
        self._finish(fault)

    def drop(self) -> None:
        """Close now; nothing that waits to be written goes out any more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._wire.abort()
            connection.close()
            self._owner.gone(self)

    # ---------------------------------------------------------------- called by the event loop

    def data_received(self, data: bytes) -> None:
        if self.exchange is None:
            self.drop()  # nobody asked; it must not answer the next request
            return
        if not self._parsing:
            if (plain := plain_reply(data)) is not None:
                self._answer(plain)
                return
            self._parsing = True
            self.set_response_params(read_until_eof=True, auto_decompress=False)
        super().data_received(data)
        if self._collecting:
            return
        content = self._content
        if content is not None:
            self._collect(content)
        elif (error := self.exception()) is not None:
            self._finish(fault_of(error, sent=True))

    def connection_lost(self, exc: BaseException | None) -> None:
        content = self._content
        super().connection_lost(exc)
        self._made.connection_lost(exc)  # a connector that closes waits for it
        if self.exchange is not None and content is not None:
            self._collect(content)
        if self.exchange is not None:
            error = content.exception() if content is not None else self.exception()
            self._finish(causes.DISCONNECTED if error is None else fault_of(error, sent=True))
        self.drop()

    # ---------------------------------------------------------------- called by handler and parser

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], _size: int = 0) -> None:
        """Instead of a queue: the head of the reply and where its body will come."""
        message, content = data
        if self._message is not None:
            self._surplus = True
        elif not 100 <= message.code <= 199 or message.code == 101:
            self._message, self._content = message, content

    def pause_reading(self) -> None:
        self._held = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        # Every read asks for this; only after a pause there is something to resume.
        if self._held:
            self._held = False
            super().resume_reading(resume_parser)

    # ---------------------------------------------------------------- the reply

    def _collect(self, content: StreamReader) -> None:
        """Take what the body has; when it is complete, or too long, that ends the exchange."""
        self._collecting = True  # a read may make the parser go on, and that call data_received
        while content.exception() is None and (chunk := content.read_nowait()):
            if not self._body:
                self._body = chunk
            elif isinstance(self._body, bytes):
                self._body = bytearray(self._body + chunk)
            else:
                self._body += chunk
            if len(self._body) > MAX_BODY:
                break
        self._collecting = False
        if len(self._body) > MAX_BODY:
            self._body = self._body[:MAX_BODY]
            self._finish(causes.TOO_LONG)
        elif content.is_eof():
            self._finish(None)
        elif self.exception() is not None:
            self._finish(causes.TRUNCATED)

    def _finish(self, fault: str | None) -> None:
        if self.exchange is None:
            return
        message, self._message, self._content = self._message, None, None
        body, self._body = bytes(self._body), b""
        self._answer(
            Reply(True, None, _NO_HEADERS, body, fault)
            if message is None
            else Reply(True, message.code, message.headers, body, fault),
            spent=self._surplus or self.should_close,
        )

    def _answer(self, reply: Reply, *, spent: bool = False) -> None:
        """The end of an exchange; spent: the connection can carry no other."""
        exchange, self.exchange = self.exchange, None
        # Bytes that wait to be written: the reply came before the request was out.
        if spent or reply.fault is not None or self._wire.get_write_buffer_size():
            self.drop()
        else:
            self._just_read = True
            self._owner.freed(self)
        if exchange is not None:
            exchange.end(reply)  # which may begin the next one here
        self._just_read = False
