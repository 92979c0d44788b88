"""The seam to the network: one request out, one Reply back, whatever happened on the way.

It stands apart from transport.py so that reading a reply needs no HTTP library, and so that a
test or another client can take the network's place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from msgspec import Struct

from worker.model import Secret

MAX_BODY: Final = 1024 * 1024  # bytes of a reply that are read; 50 commands are some 30 KiB


class TransportSettings(Struct, frozen=True):
    """Where the gateway is and how to get there."""

    url: str  # https://host[:port][/prefix]
    connect_timeout: float = 5.0  # s; DNS, TCP, proxy and TLS together
    ca_file: str | None = None  # trusted instead of the system's authorities
    client_cert_file: str | None = None
    client_key_file: str | None = None
    proxy: Secret | None = None  # http://[user:password@]host:port
    keepalive: float = 15.0  # s an idle connection is kept; stay below the gateway's own
    connections: int = 16


class Reply(Struct, frozen=True, gc=False):
    """What an exchange came to; an expected failure is data, never an exception."""

    sent: bool  # the request's headers were about to be written; not set: proven not sent
    status: int | None = None  # of the response itself, never of an exception
    headers: Mapping[str, str] = {}  # `get` ignores case, or the keys are lower-case
    body: bytes = b""  # what arrived, at most 1 MiB
    fault: str | None = (
        None  # None: the body is complete; else a cause (causes.py, the first table)
    )


#: Who is told what an exchange came to; an exception is a bug of ours.
Then = Callable[[Reply | Exception], None]


class Transport(Protocol):
    """Sends requests to one gateway, from one event loop."""

    async def post(
        self, target: str, headers: Mapping[str, str], body: bytes, deadline: float
    ) -> Reply:
        """One POST, never more: no redirect is followed and nothing is repeated.

        `target` is path and query, encoded already; `deadline` a moment of Clock.monotonic.
        """

    def launch(
        self, target: str, headers: Mapping[str, str], body: bytes, deadline: float, then: Then
    ) -> object:
        """As `post`, told by a plain call: once, from the loop, and never before this returns.

        What comes back means something to the transport only.
        """

    def cut(self, at: float) -> None:
        """Nothing goes out any more, and what is out ends at this moment of Clock.monotonic."""

    async def aclose(self) -> None:
        """Close every connection."""
