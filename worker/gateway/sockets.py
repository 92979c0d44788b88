"""The connections under both transports: how they are made, and what waits in them unread."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from typing import Final

import aiohttp

from worker.gateway.exchange import TransportSettings

_DNS_TTL: Final = 1  # s; failures are not cached at all
_KEEPALIVE: Final = [  # named differently, or not there, on some systems
    (getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
]


def open_connector(settings: TransportSettings, tls: ssl.SSLContext | None) -> aiohttp.TCPConnector:
    """A connector for the gateway; needs the running loop."""
    return aiohttp.TCPConnector(
        ssl=tls or True,
        limit=settings.connections,
        keepalive_timeout=settings.keepalive,
        ttl_dns_cache=_DNS_TTL,
        socket_factory=_socket,
    )


class Unread:
    """Tells whether bytes or an end wait in a connection's socket, without reading them."""

    __slots__ = ("_poll",)

    def __init__(self, transport: asyncio.BaseTransport | None) -> None:
        self._poll: select.poll | None = None
        stream = transport.get_extra_info("socket") if transport is not None else None
        if stream is not None and stream.fileno() >= 0:
            self._poll = select.poll()
            self._poll.register(stream.fileno(), select.POLLIN)

    def __bool__(self) -> bool:
        """False where there is no socket to ask; ask only while the connection is open."""
        return self._poll is not None and bool(self._poll.poll(0))


def _socket(address: aiohttp.connector.AddrInfoType) -> socket.socket:
    """A socket that notices when its peer has vanished."""
    family, kind, protocol, _name, _where = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
