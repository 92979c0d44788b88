"""A server on loopback that misbehaves on purpose, byte by byte.

Each connection runs one script: it reads requests, writes whatever bytes it likes and closes or
resets when it likes. What arrived is kept, so that a test can tell what was executed from what
the client believes. A script is a coroutine function of a Connection:

    async def truncated(c: Connection) -> None:
        await c.read_request()
        await c.write(http(200, b'{"code":', length=100))
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable


class Connection:
    """One accepted connection, from the server's side."""

    def __init__(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.number = number  # 1, 2 … in the order of acceptance
        self.requests: list[bytes] = []  # heads and bodies, as they came
        self._reader = reader
        self._writer = writer

    async def read_request(self) -> bytes:
        """The next request, whole; raises IncompleteReadError when there is none."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = await self._reader.readexactly(length)
        self.requests.append(head + body)
        return head + body

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def reset(self) -> None:
        """Close with RST instead of FIN: what was not read yet is lost on both sides."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def until_closed(self) -> None:
        """Wait, silent, for the client to go away."""
        while await self._reader.read(65_536):
            pass


Script = Callable[[Connection], Awaitable[None]]


class FaultServer:
    """Accepts connections and runs a script on each."""

    def __init__(
        self, script: Script, tls: ssl.SSLContext | None = None, receive_buffer: int | None = None
    ) -> None:
        self.connections: list[Connection] = []
        self.port = 0
        self._script = script
        self._tls = tls
        self._receive_buffer = receive_buffer  # bytes; small: the client cannot write all at once
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[bytes]:
        """Every request of every connection."""
        return [request for connection in self.connections for request in connection.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(len(self.connections) + 1, reader, writer)
        self.connections.append(connection)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        # The client may go away at any moment; that is half of what is tested here.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._script(connection)
        self._tasks.discard(task)
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FaultServer]:
        # The protocol is named: asyncio switches Nagle off only where it sees TCP.
        listener = socket.socket(proto=socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._receive_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        listener.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(self._serve, sock=listener, ssl=self._tls)
        self.port = listener.getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.sleep(0)


def http(
    status: int, body: bytes = b"", *headers: str, length: int | None = -1, reason: str = "Said"
) -> bytes:
    """A response; `length` -1 is the true Content-Length, None leaves it out."""
    lines = [f"HTTP/1.1 {status} {reason}", *headers]
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length == -1 else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def always(*responses: bytes) -> Script:
    """Answer each request of a connection with these, the last one again and again."""

    async def script(c: Connection) -> None:
        turn = 0
        while True:
            await c.read_request()
            await c.write(responses[min(turn, len(responses) - 1)])
            turn += 1

    return script


def once(data: bytes) -> Script:
    """Answer one request with these bytes and close."""

    async def script(c: Connection) -> None:
        await c.read_request()
        await c.write(data)

    return script


def tunnel(to_port: int) -> Script:
    """A CONNECT proxy that leads everything to one port."""

    async def script(c: Connection) -> None:
        await c.read_request()
        reader, writer = await asyncio.open_connection("127.0.0.1", to_port)
        await c.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(_pump(c._reader, writer), _pump(reader, c._writer))
        finally:
            writer.close()

    return script


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()
