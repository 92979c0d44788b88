"""TLS on a connection, with nothing around it: OpenSSL between two buffers, documented names only.

To whoever sends, a SecureStream is a transport like any other. It stands apart because asyncio's
own TLS transport does much more for each read and write, which costs a device more than OpenSSL.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

_CHUNK: Final = 65_536  # bytes; more than one record holds


async def secure(raw: asyncio.Transport, context: ssl.SSLContext, hostname: str) -> SecureStream:
    """The connection once its peer has shown who it is.

    Raises ssl.SSLError when it is not trusted, OSError when it breaks off; the connection is
    closed by the caller, who also says how long this may take.
    """
    stream = SecureStream(raw, context, hostname)
    raw.set_protocol(stream)
    await stream.shake_hands()
    return stream


class SecureStream(asyncio.Transport, asyncio.Protocol):
    """A transport to who sends, a protocol to the connection beneath."""

    def __init__(self, raw: asyncio.Transport, context: ssl.SSLContext, hostname: str) -> None:
        super().__init__()
        self._raw = raw
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=hostname)
        self._protocol: asyncio.Protocol | None = None  # None: still shaking hands
        self._shaken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def shake_hands(self) -> None:
        """The first thing to do."""
        self._go_on_shaking()
        await self._shaken

    def spoke(self) -> bool:
        """Whether the peer said something right behind its handshake, before it was asked."""
        return bool(self._read())

    # ---------------------------------------------------------------- to who sends

    def write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            written = self._tls.write(data)
            while written < len(data):
                written += self._tls.write(memoryview(data)[written:])
        except ssl.SSLError:  # the end of the connection tells who waits
            self._raw.abort()
            return
        self._raw.write(self._to_send.read())

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)  # noqa: S101 - no other is used here
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol or self

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def close(self) -> None:
        self._raw.close()

    def abort(self) -> None:
        self._raw.abort()

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    # ---------------------------------------------------------------- called by the event loop

    def data_received(self, data: bytes) -> None:
        self._received.write(data)
        if self._protocol is None:
            self._go_on_shaking()
            return
        plain = self._read()
        if self._to_send.pending:
            self._raw.write(self._to_send.read())  # what the protocol itself has to say
        if plain:
            self._protocol.data_received(plain)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._shaken.done():
            self._shaken.set_exception(exc or ConnectionResetError("during the handshake"))
        if self._protocol is not None:
            self._protocol.connection_lost(exc)

    # ---------------------------------------------------------------- between the two

    def _read(self) -> bytes:
        """What came, decrypted; the connection ends where the peer says so, or makes no sense."""
        plain = b""
        try:
            while part := self._tls.read(_CHUNK):
                plain = plain + part if plain else part
                if not self._received.pending:
                    return plain
            self._raw.close()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._raw.close()
        except ssl.SSLError:
            self._raw.abort()
        return plain

    def _go_on_shaking(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            if not self._shaken.done():
                self._shaken.set_exception(error)
        else:
            if not self._shaken.done():
                self._shaken.set_result(None)
        if self._to_send.pending and not self._raw.is_closing():
            self._raw.write(self._to_send.read())
