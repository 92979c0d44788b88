"""Loopback sockets that can misbehave at every step, and the two kinds of proxy before them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path

import trustme

from tests.system.stories.gateway import Request

PROXY_USER, PROXY_PASSWORD = "somebody", "canary-story-proxy-password"
_PROXY_AUTH = base64.b64encode(f"{PROXY_USER}:{PROXY_PASSWORD}".encode()).decode()
_LONGEST_HEAD = 65_536  # bytes


class Connection:
    """One connection from the server's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.served = 0  # requests that were answered on it

    async def read(self) -> Request:
        """The next request, whole; raises IncompleteReadError when there is none."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Request(method, rest.rpartition(" ")[0], headers, body)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """RST instead of FIN."""
        linger(self.writer.get_extra_info("socket"))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()

    async def until_closed(self) -> None:
        """Silence until the client goes away."""
        while await self.reader.read(65_536):
            pass


Serve = Callable[[Connection], Awaitable[None]]
Meet = Callable[[socket.socket], bool]  # at accept; False: the connection is dealt with


class Port:
    """A listener on loopback; it can refuse for a while."""

    def __init__(self, serve: Serve, meet: Meet, tls: ssl.SSLContext | None = None) -> None:
        self._serve = serve
        self._meet = meet
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = _listen(0)
        self.number: int = self._listener.getsockname()[1]
        self._accept_from_now()

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._tasks)

    async def refuse(self, seconds: float) -> None:
        """Listen no more for so long."""
        self._stop_listening()
        await asyncio.sleep(seconds)
        self._listener = _listen(self.number)
        self._accept_from_now()

    async def close(self) -> None:
        self._stop_listening()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept_from_now(self) -> None:
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _stop_listening(self) -> None:
        if self._listener.fileno() < 0:
            return  # it refuses just now
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            accepted, _ = self._listener.accept()
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._meet(accepted):
                task = asyncio.ensure_future(self._converse(accepted))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _converse(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(_LONGEST_HEAD)
        protocol = asyncio.StreamReaderProtocol(reader)
        # The client may go away at any moment, in the handshake too.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=self._tls
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            try:
                await self._serve(Connection(reader, writer))
            finally:
                writer.close()


def linger(sock: socket.socket) -> None:
    """The next close is a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _listen(port: int) -> socket.socket:
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    return listener


# ---------------------------------------------------------------- TLS


@lru_cache(1)
def _authority() -> tuple[trustme.CA, ssl.SSLContext]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return authority, context


def server_tls(ca_file: Path) -> ssl.SSLContext:
    """A server's side for 127.0.0.1; whom to trust is written to a file."""
    authority, context = _authority()
    authority.cert_pem.write_to_path(ca_file)
    return context


# ---------------------------------------------------------------- proxies


class Proxies:
    """What both kinds of proxy do, and what was wrong with what they heard."""

    def __init__(self, wrong: list[str]) -> None:
        self._wrong = wrong

    def _check(self, request: Request) -> None:
        if request.headers.get("proxy-authorization") != f"Basic {_PROXY_AUTH}":
            self._wrong.append("the proxy was asked without its password")

    async def tunnel(self, connection: Connection, to_port: int) -> None:
        """CONNECT, then bytes both ways."""
        request = await connection.read()
        self._check(request)
        if (request.method, request.target) != ("CONNECT", f"127.0.0.1:{to_port}"):
            self._wrong.append(f"a tunnel to elsewhere: {request.method} {request.target}")
            return
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", to_port)
        except OSError:
            await connection.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        await connection.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await _both_ways(connection, reader, writer)

    async def forward(self, connection: Connection, to_port: int) -> None:
        """Absolute requests, each sent on over a connection of its own."""
        while True:
            request = await connection.read()
            self._check(request)
            root = f"http://127.0.0.1:{to_port}"
            if not request.target.startswith(root + "/"):
                self._wrong.append(f"forwarding to elsewhere: {request.method} {request.target}")
                return
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", to_port)
            except OSError:
                page = b"<html>no route</html>"
                head = f"HTTP/1.1 503 No\r\nContent-Type: text/html\r\nContent-Length: {len(page)}"
                await connection.write(head.encode() + b"\r\n\r\n" + page)
                continue
            writer.write(_onward(request, root))
            # The reply is passed on byte by byte, whatever it is, until the gateway closes.
            try:
                while data := await reader.read(65_536):
                    await connection.write(data)
            except ConnectionResetError:
                connection.reset()
            finally:
                writer.close()
            return


def _onward(request: Request, root: str) -> bytes:
    kept = {k: v for k, v in request.headers.items() if not k.startswith("proxy-")}
    kept["connection"] = "close"
    lines = [f"{request.method} {request.target.removeprefix(root)} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in kept.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + request.body


async def _both_ways(
    connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    async def back() -> None:
        try:
            while data := await reader.read(65_536):
                await connection.write(data)
        except ConnectionResetError:
            connection.reset()
        else:
            connection.close()

    async def forth() -> None:
        with contextlib.suppress(OSError):
            while data := await connection.reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    try:
        await asyncio.gather(back(), forth())
    finally:
        writer.close()
