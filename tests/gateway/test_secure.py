"""TLS between two buffers: whatever way the bytes are cut, what was said is what is heard."""

from __future__ import annotations

import asyncio
import ssl
from itertools import pairwise

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.gateway.secure import SecureStream
from worker.gateway.tls import tls_context


class Raw(asyncio.Transport):
    """The connection beneath: keeps what is written, and whether it was closed or aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = ""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class Heard(asyncio.Protocol):
    """Who sends: what it hears, and the end."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.lost: list[Exception | None] = []

    def data_received(self, data: bytes) -> None:
        self.data.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Pair:
    """A SecureStream and a server in memory, hands shaken."""

    def __init__(self, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
        client, server = contexts
        self.raw, self.heard = Raw(), Heard()
        self.stream = SecureStream(self.raw, client, "localhost")
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(self._in, self._out, server_side=True)

    async def shaken(self) -> Pair:
        shaking = asyncio.ensure_future(self.stream.shake_hands())
        done = False
        for _ in range(5):
            await asyncio.sleep(0)
            self.carry()
            if not done:
                try:
                    self.server.do_handshake()
                    done = True
                except ssl.SSLError:
                    pass  # there is more to come, or the client turned us down
            self.stream.data_received(self._out.read())
        await shaking
        self.carry()
        self.stream.set_protocol(self.heard)
        return self

    def carry(self) -> None:
        """What the stream wrote reaches the server."""
        self._in.write(self.raw.written)
        self.raw.written = b""

    def said(self, *parts: bytes) -> bytes:
        """The server says each part in records of its own."""
        for part in parts:
            self.server.write(part)
        return self._out.read()


@pytest.fixture(scope="module", params=["TLSv1_2", "TLSv1_3"])
def contexts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Client's and server's, for each version that is spoken."""
    path = tmp_path_factory.mktemp("secure") / "ca.pem"
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(path))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(server)
    server.maximum_version = ssl.TLSVersion[request.param]
    return tls_context(str(path), None, None), server


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.binary(min_size=1, max_size=60_000), min_size=1, max_size=3),
    cuts=st.lists(st.floats(0, 1), max_size=4),
)
def test_what_is_said_is_heard(contexts: Contexts, parts: list[bytes], cuts: list[float]) -> None:
    """Row 9: records in one piece, in several, several in one: the same bytes in the same order."""

    async def run() -> None:
        pair = await Pair(contexts).shaken()
        wire = pair.said(*parts)
        ends = sorted({0, len(wire), *(round(cut * len(wire)) for cut in cuts)})
        for low, high in pairwise(ends):
            pair.stream.data_received(wire[low:high])
        assert b"".join(pair.heard.data) == b"".join(parts)
        assert pair.raw.ended == ""

    asyncio.run(run())


@pytest.mark.parametrize("size", [1, 16_384, 3_000_000])
async def test_what_is_written_arrives(contexts: Contexts, size: int) -> None:
    """However long a request is."""
    pair = await Pair(contexts).shaken()
    pair.stream.write(b"x" * size)
    pair.carry()
    got = b""
    while len(got) < size:
        got += pair.server.read(size)
    assert got == b"x" * size


async def test_a_goodbye_ends_the_connection(contexts: Contexts) -> None:
    """What was said before is heard, and nothing waits for more."""
    pair = await Pair(contexts).shaken()
    wire = pair.said(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        pair.server.unwrap()
    pair.stream.data_received(wire + pair._out.read())
    assert (pair.heard.data, pair.raw.ended) == ([b"last words"], "closed")


async def test_nonsense_ends_the_connection(contexts: Contexts) -> None:
    """Bytes that nobody with the keys can have written are heard by nobody."""
    pair = await Pair(contexts).shaken()
    wire = bytearray(pair.said(b"truth"))
    wire[-1] ^= 1
    pair.stream.data_received(bytes(wire))
    assert (pair.heard.data, pair.raw.ended) == ([], "aborted")
    pair.stream.connection_lost(None)
    assert pair.heard.lost == [None]


async def test_lost_while_shaking_hands(contexts: Contexts) -> None:
    """Row 1: a connection that breaks off says nothing about certificates."""
    for error in (None, ConnectionResetError("peer")):
        pair = Pair(contexts)
        shaking = asyncio.ensure_future(pair.stream.shake_hands())
        await asyncio.sleep(0)
        pair.stream.connection_lost(error)
        with pytest.raises(ConnectionResetError):
            await shaking


async def test_another_name_is_turned_down(contexts: Contexts) -> None:
    """Row 37: the certificate is checked against the name that was dialled."""
    pair = Pair(contexts)
    pair.stream = SecureStream(pair.raw, contexts[0], "other.example.com")
    with pytest.raises(ssl.SSLCertVerificationError):
        await pair.shaken()
