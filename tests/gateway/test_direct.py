"""What only the direct transport promises: its pool, its one timer, and to equal the other."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.gateway.fault_server import Connection, FaultServer, Script, always, http, once
from tests.gateway.test_transport import APIM, BODY, CLOCK, TARGET, ask, facts
from worker.gateway.direct import DirectTransport, open_transport
from worker.gateway.exchange import Reply, TransportSettings
from worker.gateway.transport import SessionTransport
from worker.model import Secret


@asynccontextmanager
async def opened(url: str, **options: object) -> AsyncIterator[DirectTransport]:
    transport = DirectTransport(TransportSettings(url=url, **options), CLOCK)  # type: ignore[arg-type]
    try:
        yield transport
    finally:
        await transport.aclose()


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One authority is loaded faster than all that the system knows."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return str(path)


async def both(script: Script, ca_file: str) -> tuple[Reply, Reply]:
    """One request to the same script over each transport."""
    replies = []
    for kind in (DirectTransport, SessionTransport):
        async with FaultServer(script).running() as server:
            transport = kind(TransportSettings(url=server.url, ca_file=ca_file), CLOCK)
            replies.append(await transport.post(TARGET, APIM, b"", CLOCK.monotonic() + 2))
            await transport.aclose()
    return replies[0], replies[1]


# ---------------------------------------------------------------- it equals the session


@pytest.mark.parametrize("prefix", ["", "/", "/prefix/"])
@pytest.mark.parametrize("body", [b"", b"{}"])
async def test_both_write_the_same_bytes(prefix: str, body: bytes) -> None:
    """A gateway cannot tell which of the two asks."""
    async with FaultServer(always(http(200, BODY))).running() as server:
        for kind in (DirectTransport, SessionTransport):
            transport = kind(TransportSettings(url=server.url + prefix), CLOCK)
            await transport.post(TARGET + "&x=%2F+/?,", APIM, body, CLOCK.monotonic() + 2)
            await transport.aclose()
        direct, session = server.requests
        assert direct == session


REPLIES = {
    "length": http(200, BODY, "Date: Sun, 06 Nov 1994 08:49:37 GMT", "Retry-After: 3"),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5\r\n{"cod\r\n4;x=y\r\ne":0\r\n1\r\n}\r\n0\r\nTrailer: x\r\n\r\n',
    "no length": http(200, BODY, length=None),
    "hints": b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + http(503, BODY),
    "nothing": http(204, length=None),
    "close": http(200, BODY, "Connection: close"),
    "old": http(200, BODY).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "too long": http(200, BODY, length=500),
    "surplus": http(200, BODY, length=9),
    "malformed": http(200, BODY, "Content-Length: 3"),
    "upgrade": http(101, b"", "Upgrade: x", "Connection: upgrade", length=None) + b"abc",
}


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from(sorted(REPLIES)), where=st.integers(0, 2**16), ends=st.booleans())
@example(name="length", where=20, ends=False)
@example(name="chunked", where=60, ends=False)
def test_both_come_to_the_same_reply(ca_file: str, name: str, where: int, ends: bool) -> None:
    """Row 9: wherever a reply is cut in two, or ends, the two transports read the same."""
    whole = REPLIES[name]
    at = where % (len(whole) + 1)

    async def script(c: Connection) -> None:
        await c.read_request()
        await c.write(whole[:at])
        await asyncio.sleep(0.002)
        if not ends:
            await c.write(whole[at:])
            await asyncio.sleep(0.002)

    direct, session = asyncio.run(both(script, ca_file))
    if name == "surplus" and session.fault is None:  # the rest came with the reply, or after it
        assert facts(direct) in {facts(session), (True, None, b"", "malformed_http")}
        return
    assert facts(direct) == facts(session)
    told = [[(k.lower(), v) for k, v in reply.headers.items()] for reply in (direct, session)]
    assert told[0] == told[1]


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=120))
@example(data=b"\r\n\r\n")
@example(data=b"HTTP/1.1 200\r\n\r\n")
@example(data=b"HTTP/1.1 100 Continue\r\n\r\n")
def test_both_make_the_same_of_any_bytes(ca_file: str, data: bytes) -> None:
    """Whatever a server answers before it closes."""
    direct, session = asyncio.run(both(once(data), ca_file))
    assert facts(direct) == facts(session)


# ---------------------------------------------------------------- connections


async def test_the_connection_used_last_is_used_next() -> None:
    """Of five kept connections, one request at a time keeps only one busy."""
    async with FaultServer(always(http(200, BODY))).running() as server:
        async with opened(server.url) as transport:
            await asyncio.gather(*(ask(transport) for _ in range(5)))
            last = transport._idle[-1]
            for _ in range(10):
                await ask(transport)
                assert transport._idle[-1] is last
        assert sorted(len(c.requests) for c in server.connections) == [1, 1, 1, 1, 11]


async def test_idle_connections_go() -> None:
    """What was not used for the keep-alive time is closed by itself, the rest stays."""
    async with FaultServer(always(http(200, BODY))).running() as server:
        async with opened(server.url, keepalive=0.2) as transport:
            await asyncio.gather(*(ask(transport) for _ in range(3)))
            for _ in range(6):
                await asyncio.sleep(0.06)
                await ask(transport)
            assert len(transport._wires) == 1
            await asyncio.sleep(0.3)
            assert (transport._wires, transport._idle) == ({}, [])
            assert facts(await ask(transport)) == (True, 200, BODY, None)
        assert len(server.connections) == 4


async def test_the_queue_moves_when_a_connection_is_lost() -> None:
    """Who waits gets the place of a connection that closed, failed or was given up."""
    async with FaultServer(always(http(200, BODY, "Connection: close"))).running() as server:
        async with opened(server.url, connections=2) as transport:
            replies = await asyncio.gather(*(ask(transport) for _ in range(9)))
            assert [facts(r) for r in replies] == [(True, 200, BODY, None)] * 9
            assert (transport._wires, transport._dials, len(transport._queue)) == ({}, {}, 0)
        assert len(server.connections) == 9


async def test_the_queue_moves_when_connecting_fails() -> None:
    """Every request of a queue in front of nobody is refused, none waits for its deadline."""
    async with opened("http://127.0.0.1:9", connections=2) as transport:
        before = CLOCK.monotonic()
        replies = await asyncio.gather(*(ask(transport) for _ in range(9)))
        assert replies == [Reply(sent=False, fault="refused")] * 9
        assert CLOCK.monotonic() - before < 1.5
        assert (transport._wires, transport._dials) == ({}, {})


async def test_a_connection_made_for_a_cancelled_task_is_the_next_ones() -> None:
    """Cancelling who waits, or for whom a connection is being made, blocks nobody."""

    async def silent(c: Connection) -> None:
        await c.until_closed()

    async with (
        FaultServer(silent).running() as server,
        opened(server.url, connections=1) as transport,
    ):
        tasks = [asyncio.ensure_future(ask(transport, 0.4)) for _ in range(4)]
        await asyncio.sleep(0.05)
        tasks[1].cancel()  # waits
        await asyncio.sleep(0)
        next(iter(transport._wires)).drop()  # the first ends, the third gets a connection
        tasks[2].cancel()
        ends = await asyncio.gather(*tasks[1:], return_exceptions=True)
        assert [type(end) for end in ends[:2]] == [asyncio.CancelledError] * 2
        assert ends[2] == Reply(sent=True, fault="request_timeout")
        assert (transport._dials, len(transport._queue)) == ({}, 0)


async def test_an_idle_connection_that_speaks_is_closed_at_once() -> None:
    """Row 35: a byte that nobody asked for, even half a line, ends the connection."""

    async def script(c: Connection) -> None:
        await c.read_request()
        await c.write(http(200, BODY))
        await asyncio.sleep(0.02)
        await c.write(b"H")
        await c.until_closed()

    async with FaultServer(script).running() as server, opened(server.url) as transport:
        await ask(transport)
        assert len(transport._idle) == 1
        await asyncio.sleep(0.06)
        assert (transport._idle, transport._wires) == ([], {})


@pytest.mark.parametrize("said", [http(200, BODY), b""])
async def test_what_comes_with_the_handshake(said: bytes, tmp_path: Path) -> None:
    """Row 35: an answer, or a goodbye, in one piece with the handshake's end answers nobody."""
    ca, good = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ca.issue_cert("127.0.0.1").configure_cert(good)
    good.maximum_version = ssl.TLSVersion.TLSv1_2  # where the server has the last word

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = good.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65_536))
        if said:
            tls.write(said)
        else:
            with contextlib.suppress(ssl.SSLError):
                tls.unwrap()
        writer.write(outgoing.read())
        if said:
            heard.append(await reader.read(65_536))
        writer.close()

    heard: list[bytes] = []
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url, ca_file = f"https://127.0.0.1:{port}", str(tmp_path / "ca.pem")
        async with opened(url, ca_file=ca_file) as transport:
            fault = "malformed_http" if said else "refused"
            assert await ask(transport, within=1.0) == Reply(sent=False, fault=fault)
        await asyncio.sleep(0.05)
    assert heard in ([], [b""])


# ---------------------------------------------------------------- time


async def test_one_timer_ends_what_is_late() -> None:
    """Deadlines in any order, each kept, by one timer."""

    async def silent(c: Connection) -> None:
        await c.until_closed()

    async def timed(transport: DirectTransport, within: float) -> tuple[str | None, float]:
        before = CLOCK.monotonic()
        reply = await ask(transport, within)
        return reply.fault, CLOCK.monotonic() - before

    withins = [0.3, 0.1, 0.2, 0.05, 0.25]
    async with FaultServer(silent).running() as server, opened(server.url) as transport:
        ends = await asyncio.gather(*(timed(transport, within) for within in withins))
        for (fault, after), within in zip(ends, withins, strict=True):
            assert fault == "request_timeout"
            assert within - 0.01 <= after < within + 0.1


async def test_nothing_is_sent_when_it_is_too_late_already() -> None:
    """A deadline that has passed is proven not sent, also on a kept connection."""
    async with FaultServer(always(http(200, BODY))).running() as server:
        async with opened(server.url) as transport:
            await ask(transport)
            assert await ask(transport, within=-1) == Reply(sent=False, fault="pool_timeout")
        assert len(server.requests) == 1


async def test_nothing_is_kept_after_a_cut() -> None:
    """Idle connections go with it: nothing will be asked any more, and no timer waits for them."""
    faults = FaultServer(always(http(200, BODY)))
    async with faults.running() as server, opened(server.url) as transport:
        await ask(transport)
        assert len(transport._idle) == 1
        transport.cut(CLOCK.monotonic())
        await asyncio.sleep(0.05)
        assert (transport._idle, transport._wires) == ([], {})
        assert transport._wakes_at == math.inf


async def test_cut_while_writing() -> None:
    """A request that is half out counts as sent, and its rest never goes out."""

    async def script(c: Connection) -> None:
        await asyncio.sleep(0.3)
        await c.until_closed()

    faults = FaultServer(script, receive_buffer=4096)
    async with faults.running() as server, opened(server.url) as transport:
        flying = asyncio.ensure_future(ask(transport, body=b"x" * 16_000_000))
        await asyncio.sleep(0.1)
        transport.cut(CLOCK.monotonic())
        assert facts(await flying) == (True, None, b"", "cut")
        assert transport._wires == {}


# ---------------------------------------------------------------- and the rest


@pytest.mark.parametrize("bad", ["a\r\nX: y", "a\nb", "a\rb", "a\0b"])
async def test_no_value_adds_a_line(bad: str) -> None:
    """Neither a header nor a target can say more than it should; nothing is sent."""
    async with FaultServer(always(http(200, BODY))).running() as server:
        async with opened(server.url) as transport:
            for target, headers in ((TARGET, {"x": bad}), (TARGET + bad, {}), (TARGET, {bad: "x"})):
                with pytest.raises(ValueError, match="line break"):
                    await transport.post(target, headers, b"", CLOCK.monotonic() + 1)
        assert server.connections == []


def test_not_through_a_proxy() -> None:
    """A proxy that is configured is never passed by."""
    through = TransportSettings(url="http://x", proxy=Secret("http://p"))
    with pytest.raises(ValueError, match="proxy"):
        DirectTransport(through, CLOCK)
    assert type(open_transport(through, CLOCK)) is SessionTransport
    assert type(open_transport(TransportSettings(url="http://x"), CLOCK)) is DirectTransport


async def test_nothing_is_left_behind() -> None:
    """Two thousand requests leave no task, no timer, no open connection and no warning."""
    loop = asyncio.get_running_loop()
    tasks = len(asyncio.all_tasks())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with FaultServer(always(http(200, BODY))).running() as server:
            async with opened(server.url, connections=8) as transport:
                for _ in range(20):
                    await asyncio.gather(*(ask(transport) for _ in range(100)))
                assert len(asyncio.all_tasks()) <= tasks + len(server.connections)
                assert len(transport._wires) == len(server.connections) == 8
                assert (transport._dials, len(transport._queue)) == ({}, 0)
            assert len(server.requests) == 2_000
        await asyncio.sleep(0.05)
        del transport
        gc.collect()
    assert len(asyncio.all_tasks()) == tasks
    timers = [t for t in loop._scheduled if not t.cancelled()]  # type: ignore[attr-defined]
    assert timers == []
