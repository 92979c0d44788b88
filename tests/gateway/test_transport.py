"""Both transports against servers that misbehave on purpose: one promise, two ways to keep it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.fault_server import Connection, FaultServer, Script, always, http, once
from worker.clock import SystemClock
from worker.gateway.direct import DirectTransport
from worker.gateway.exchange import MAX_BODY, Reply, TransportSettings
from worker.gateway.faults import fault_of
from worker.gateway.sockets import Unread
from worker.gateway.transport import SessionTransport, _Exchange
from worker.model import Secret

AnyTransport = DirectTransport | SessionTransport
Kind = type[DirectTransport] | type[SessionTransport]

CLOCK = SystemClock()
BODY = b'{"code":0,"msg":"OK","requestId":"r1","data":[]}'
TARGET = "/connect-service/v2.1/commands?action=cancel&orgId=o1"
APIM = {"apim-accesstoken": "CANARY-T", "apim-timestamp": "1", "apim-signature": "CANARY-S"}


KIND: ContextVar[Kind] = ContextVar("KIND")


@pytest.fixture(autouse=True, params=[DirectTransport, SessionTransport], ids=["direct", "session"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Every test of a module that imports this runs over both."""
    token = KIND.set(request.param)
    yield request.param
    KIND.reset(token)


@contextlib.asynccontextmanager
async def opened(url: str, **options: object) -> AsyncIterator[AnyTransport]:
    """The transport under test, or the only one that knows proxies."""
    kind = SessionTransport if "proxy" in options else KIND.get()
    transport = kind(TransportSettings(url=url, **options), CLOCK)  # type: ignore[arg-type]
    try:
        yield transport
    finally:
        await transport.aclose()


async def ask(transport: AnyTransport, within: float = 2.0, body: bytes = b"") -> Reply:
    return await transport.post(TARGET, APIM, body, CLOCK.monotonic() + within)


async def exchange(script: Script, within: float = 2.0, body: bytes = b"") -> Reply:
    """What one request comes to at a server with this script."""
    async with FaultServer(script).running() as server, opened(server.url) as transport:
        return await ask(transport, within, body)


def facts(reply: Reply) -> tuple[bool, int | None, bytes, str | None]:
    return reply.sent, reply.status, reply.body, reply.fault


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# ---------------------------------------------------------------- the plain case


async def test_a_request_goes_out_as_it_was_given() -> None:
    """Target, headers and body arrive unchanged, with nothing that names a version."""
    async with FaultServer(always(http(200, BODY))).running() as server:
        async with opened(server.url + "/prefix/") as transport:
            target = "/c?deviceKey=a%2Bb+c/?,:&x=%E8%AE%BE"
            reply = await transport.post(target, APIM, b"{}", CLOCK.monotonic() + 2)
        assert facts(reply) == (True, 200, BODY, None)
        assert server.requests == [
            b"POST /prefix" + target.encode() + b" HTTP/1.1\r\n"
            b"Host: 127.0.0.1:%d\r\n" % server.port + b"Accept-Encoding: identity\r\n"
            b"apim-accesstoken: CANARY-T\r\napim-timestamp: 1\r\napim-signature: CANARY-S\r\n"
            b"Accept: */*\r\nContent-Length: 2\r\n\r\n{}"
        ]


async def test_a_connection_is_kept_for_the_next_request() -> None:
    """Ten requests, one connection; cookies are not kept."""
    script = always(http(200, BODY, "Set-Cookie: a=b"))
    async with FaultServer(script).running() as server, opened(server.url) as transport:
        for _ in range(10):
            assert facts(await ask(transport)) == (True, 200, BODY, None)
        assert len(server.connections) == 1
        assert b"Cookie" not in b"".join(server.requests)


async def test_no_more_connections_than_configured() -> None:
    """Twenty requests at once over two connections."""
    async with FaultServer(always(http(200, BODY))).running() as server:
        async with opened(server.url, connections=2) as transport:
            replies = await asyncio.gather(*(ask(transport) for _ in range(20)))
        assert [r.status for r in replies] == [200] * 20
        assert len(server.connections) == 2


async def test_headers_are_found_whatever_their_case() -> None:
    """`get` on a reply's headers ignores case."""
    reply = await exchange(once(http(200, BODY, "Retry-After: 3")))
    assert reply.headers.get("retry-after") == "3"


# ---------------------------------------------------------------- not sent


async def test_refused() -> None:
    """Row 1: nobody listens; proven not sent."""
    async with opened(f"http://127.0.0.1:{free_port()}") as transport:
        assert await ask(transport) == Reply(sent=False, fault="refused")


async def test_name_not_resolved() -> None:
    """Row 2: a name that cannot resolve; asked anew each time, so a failure is never cached."""
    async with opened("http://no-such-host.invalid") as transport:
        assert await ask(transport) == Reply(sent=False, fault="dns")
        assert await ask(transport) == Reply(sent=False, fault="dns")


async def test_black_hole() -> None:
    """Row 3: a full backlog answers no SYN; the connect timeout ends it, not the deadline."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):  # fill the backlog
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        async with opened(f"http://127.0.0.1:{port}", connect_timeout=0.2) as transport:
            before = CLOCK.monotonic()
            assert await ask(transport, within=5) == Reply(sent=False, fault="connect_timeout")
            assert 0.15 < CLOCK.monotonic() - before < 1.0


async def test_deadline_while_waiting_for_a_connection() -> None:
    """A timeout in the pool's queue is proven not sent, the one in flight is not."""

    async def silent(c: Connection) -> None:
        await c.until_closed()

    async with FaultServer(silent).running() as server:
        async with opened(server.url, connections=1) as transport:
            first, second = await asyncio.gather(ask(transport, 0.3), ask(transport, 0.2))
        assert facts(first) == (True, None, b"", "request_timeout")
        assert second == Reply(sent=False, fault="pool_timeout")


async def test_no_descriptors() -> None:
    """Row 54: no file descriptor left is told apart, and proven not sent."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with (
        FaultServer(always(http(200, BODY))).running() as server,
        opened(server.url) as transport,
    ):
        with socket.socket() as probe:
            used = probe.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
        try:
            reply = await ask(transport)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert reply == Reply(sent=False, fault="no_descriptors")


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.ENETUNREACH, "unreachable"),
        (errno.ETIMEDOUT, "connect_timeout"),
        (errno.ENFILE, "no_descriptors"),
        (errno.ECONNRESET, "refused"),
    ],
)
def test_what_an_errno_means_before_sending(number: int, fault: str) -> None:
    """Failures to connect are told apart by errno alone."""
    assert fault_of(OSError(number, "CANARY"), sent=False) == fault


def test_any_other_failure_of_the_library_has_a_cause() -> None:
    """What nobody thought of is not sent, or ambiguous, by the flag."""
    assert fault_of(aiohttp.ClientError(), sent=False) == "client_error"
    assert fault_of(aiohttp.ClientError(), sent=True) == "client_error"


@pytest.mark.parametrize("said", [http(200, BODY), b"SSH-2.0-x\r\n"])
async def test_somebody_who_speaks_first(said: bytes) -> None:
    """Row 35: what a fresh connection says unasked answers nobody; nothing is sent to it."""

    async def script(c: Connection) -> None:
        await c.write(said)
        await c.until_closed()

    async with FaultServer(script).running() as server, opened(server.url) as transport:
        for _ in range(3):
            reply = await ask(transport, within=0.5)
            # Heard before the request was written, or else read as what it is not: an answer.
            if not reply.sent:
                assert reply == Reply(sent=False, fault="malformed_http")
        assert len(server.connections) <= 4


# ---------------------------------------------------------------- sent, and broken off


async def test_reset_at_accept() -> None:
    """Row 4: reset before anything was read; the request was written, so it counts as sent."""

    async def script(c: Connection) -> None:
        await asyncio.sleep(0.05)  # the request waits in the socket, unread
        c.reset()

    assert facts(await exchange(script)) == (True, None, b"", "disconnected")


@pytest.mark.parametrize("reset", [False, True])
async def test_closed_after_the_request_was_read(reset: bool) -> None:
    """Row 5: closed or reset instead of an answer."""

    async def script(c: Connection) -> None:
        await c.read_request()
        if reset:
            c.reset()

    assert facts(await exchange(script)) == (True, None, b"", "disconnected")


async def test_keep_alive_race() -> None:
    """Row 6: the server closes a kept connection as the next request arrives; never repeated."""

    async def script(c: Connection) -> None:
        await c.read_request()
        await c.write(http(200, BODY))
        await c.read_request()

    async with FaultServer(script).running() as server, opened(server.url) as transport:
        assert facts(await ask(transport)) == (True, 200, BODY, None)
        assert facts(await ask(transport)) == (True, None, b"", "disconnected")
        assert len(server.requests) == 2


async def test_a_kept_connection_that_was_closed_is_not_used() -> None:
    """Row 6: a close that is in the socket already is seen before the request is lost in it."""
    closed = asyncio.Event()

    async def script(c: Connection) -> None:
        await c.read_request()
        await c.write(http(200, BODY))
        closed.set()

    async with FaultServer(script).running() as server, opened(server.url) as transport:
        for _ in range(3):
            assert facts(await ask(transport)) == (True, 200, BODY, None)
            await closed.wait()
            closed.clear()
        assert len(server.requests) == 3


async def test_peer_vanished() -> None:
    """Row 7: no answer ever; the deadline ends it."""

    async def silent(c: Connection) -> None:
        await c.until_closed()

    before = CLOCK.monotonic()
    assert facts(await exchange(silent, within=0.2)) == (True, None, b"", "request_timeout")
    assert CLOCK.monotonic() - before < 1.0


async def test_dripping() -> None:
    """Row 8: a byte now and then keeps no exchange alive past its deadline."""
    whole = http(200, BODY)

    async def script(c: Connection) -> None:
        await c.read_request()
        for i in range(len(whole)):
            await c.write(whole[i : i + 1])
            await asyncio.sleep(0.02)

    reply = await exchange(script, within=0.3)
    assert (reply.sent, reply.status, reply.fault) == (True, None, "request_timeout")


async def test_dripping_body_keeps_what_came() -> None:
    """Row 8: status and part of the body were there when the deadline came."""

    async def script(c: Connection) -> None:
        await c.read_request()
        await c.write(http(200, BODY[:20], length=len(BODY)))
        await c.until_closed()

    assert facts(await exchange(script, 0.2)) == (True, 200, BODY[:20], "request_timeout")


async def test_every_split() -> None:
    """Row 9: the reply is the same wherever the network cuts it in two."""
    whole = http(200, BODY, "Content-Type: application/json")

    async def script(c: Connection) -> None:
        for at in range(1, len(whole)):
            await c.read_request()
            await c.write(whole[:at])
            await asyncio.sleep(0.001)
            await c.write(whole[at:])

    async with FaultServer(script).running() as server, opened(server.url) as transport:
        for _ in range(1, len(whole)):
            assert facts(await ask(transport)) == (True, 200, BODY, None)


@pytest.mark.parametrize("reset", [False, True])
async def test_content_length_too_long(reset: bool) -> None:
    """Row 10: the body ends early; what came is kept."""

    async def script(c: Connection) -> None:
        await c.read_request()
        await c.write(http(200, BODY[:30], length=500))
        if reset:
            await asyncio.sleep(0.05)
            c.reset()

    assert facts(await exchange(script)) == (True, 200, BODY[:30], "truncated")


async def test_content_length_too_short() -> None:
    """Row 11: the rest of the body is no next answer; the status is never one of aiohttp's own."""
    async with (
        FaultServer(always(http(200, BODY, length=9))).running() as server,
        opened(server.url) as transport,
    ):
        for _ in range(3):
            reply = await ask(transport)
            assert (reply.sent, reply.status in {None, 200}) == (True, True)
            assert (reply.body, reply.fault) in {(BODY[:9], None), (b"", "malformed_http")}


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/9.9 banana\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        http(200, BODY, "Transfer-Encoding: chunked"),
        http(200, BODY, "Content-Length: 3"),
        http(200, BODY, "Content-Length: -3", length=None),
        http(200, BODY, "X: " + "x" * 10_000),
        http(200, BODY, *[f"X{i}: x" for i in range(200)]),
    ],
    ids=["line", "binary", "te+cl", "two-cl", "negative-cl", "long-header", "header-flood"],
)
async def test_malformed_http_has_no_status(response: bytes) -> None:
    """Rows 11 and 34: a reply the library cannot read proves nothing, though it was executed."""
    assert facts(await exchange(once(response))) == (True, None, b"", "malformed_http")


async def test_chunked_truncated() -> None:
    """Row 12: a chunked body without its end; what came is kept."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = head + b"%x\r\n%s\r\n" % (len(BODY), BODY)
    assert facts(await exchange(once(whole))) == (True, 200, BODY, "truncated")
    assert facts(await exchange(once(whole + b"0\r\n\r\n"))) == (True, 200, BODY, None)


async def test_very_many_chunks() -> None:
    """Row 9: so many that the parser is told to pause in the middle of a segment, and goes on."""
    chunks = b"1\r\nx\r\n" * 100_000
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = await exchange(once(head + chunks + b"0\r\n\r\n"))
    assert facts(reply) == (True, 200, b"x" * 100_000, None)


async def test_chunk_broken_later(kind: Kind) -> None:
    """Row 12: garbage instead of a chunk; the session never hears of it, the deadline ends it."""

    async def script(c: Connection) -> None:
        await c.read_request()
        await c.write(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"cod\r\n')
        await asyncio.sleep(0.05)
        await c.write(b"zz\r\nhello")
        await c.until_closed()

    reply = await exchange(script, within=0.3)
    fault = "request_timeout" if kind is SessionTransport else "truncated"
    assert facts(reply) == (True, 200, b'{"cod', fault)


async def test_no_length_and_close() -> None:
    """Row 12: without a length a cut body looks complete; only its own syntax can tell."""
    cut = http(200, BODY[:30], length=None)
    assert facts(await exchange(once(cut))) == (True, 200, BODY[:30], None)


async def test_compression_is_not_undone() -> None:
    """Rows 12 and 33: identity is asked for; a gzip body, cut or a bomb, stays what it is."""
    bomb = gzip.compress(b"\0" * 50_000_000)
    async with FaultServer(once(http(200, bomb, "Content-Encoding: gzip"))).running() as server:
        async with opened(server.url) as transport:
            reply = await ask(transport)
        assert facts(reply) == (True, 200, bomb, None)
        assert b"Accept-Encoding: identity\r\n" in server.requests[0]


@pytest.mark.parametrize(("extra", "fault"), [(0, None), (1, "too_long"), (500_000, "too_long")])
async def test_body_is_bounded(extra: int, fault: str | None) -> None:
    """Row 33: one MiB is read, a byte more is a fault and closes the connection."""
    reply = await exchange(once(http(200, b"x" * (MAX_BODY + extra))))
    assert (reply.status, len(reply.body), reply.fault) == (200, MAX_BODY, fault)


@pytest.mark.parametrize("status", [200, 204, 205, 304, 404, 503])
async def test_any_status_is_the_responses_own(status: int) -> None:
    """Row 16: whatever the status, it is handed on as it came and raises nothing."""
    reply = await exchange(once(http(status)))
    assert facts(reply) == (True, status, b"", None)


async def test_early_hints_are_skipped() -> None:
    """Row 16: a 103 before the answer is not the answer."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"
    assert facts(await exchange(once(hints + http(200, BODY)))) == (True, 200, BODY, None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    """Rows 17 and 18: no request and no apim header reaches the other host."""
    async with FaultServer(always(http(200, BODY))).running() as other:
        script = always(http(status, b"", f"Location: {other.url}/x"))
        async with FaultServer(script).running() as server, opened(server.url) as transport:
            reply = await ask(transport, body=b"{}")
            assert facts(reply) == (True, status, b"", None)
            assert (len(server.requests), other.requests) == (1, [])
            assert other.connections == []


@pytest.mark.parametrize("later", [0.0, 0.02])
async def test_an_unasked_response_answers_nobody(later: float) -> None:
    """Row 35: a second response, with the first or on the idle connection, is thrown away."""

    async def script(c: Connection) -> None:
        while True:
            request = await c.read_request()
            await c.write(http(200, request.split(b"device=")[1][:2]))
            await asyncio.sleep(later)
            await c.write(http(200, b"??"))

    async with FaultServer(script).running() as server, opened(server.url) as transport:
        for n in range(10, 15):
            target = f"{TARGET}&device={n}"
            reply = await transport.post(target, APIM, b"", CLOCK.monotonic() + 2)
            assert facts(reply) == (True, 200, str(n).encode(), None)
            await asyncio.sleep(2 * later)
        assert len(server.connections) == 5


async def test_an_unasked_response_unread_in_the_socket_answers_nobody() -> None:
    """Row 35: the same when the loop had no time to read it."""
    sent = asyncio.Event()

    async def script(c: Connection) -> None:
        await c.read_request()
        await c.write(http(200, BODY))
        await sent.wait()
        await c.write(http(200, b"??"))
        await c.read_request()
        await c.write(http(200, b"second"))

    async with FaultServer(script).running() as server, opened(server.url) as transport:
        assert facts(await ask(transport)) == (True, 200, BODY, None)
        sent.set()
        await asyncio.sleep(0)  # the server writes; nobody has polled the socket since
        assert facts(await ask(transport)) == (True, 200, BODY, None)
        assert len(server.connections) == 2


async def test_a_second_response_begun_on_an_idle_connection_answers_nobody() -> None:
    """Row 35: neither does one of which only the start was read when the next request goes out."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def script(c: Connection) -> None:
        await c.read_request()
        await c.write(http(200, BODY) + b"HTTP/1.1 2")
        asked.set()
        await go_on.wait()
        await c.write(b"00 OK\r\nContent-Length: 2\r\n\r\n??")
        await c.until_closed()

    async with FaultServer(script).running() as server, opened(server.url) as transport:
        assert facts(await ask(transport)) == (True, 200, BODY, None)
        await asked.wait()
        second = asyncio.ensure_future(ask(transport, 0.5))
        await asyncio.sleep(0.05)
        go_on.set()
        assert (await second).status is None


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_response_before_the_request_is_sent() -> None:
    """Row 36: an early answer counts by its body, and its connection is not used again."""

    async def script(c: Connection) -> None:
        await c._reader.readuntil(b"\r\n\r\n")
        await c.write(http(413, BODY))
        await asyncio.sleep(0.2)

    faults = FaultServer(script, receive_buffer=4096)
    async with faults.running() as server, opened(server.url) as transport:
        for _ in range(2):
            reply = await ask(transport, body=b"x" * 16_000_000)
            assert reply.sent
            assert facts(reply) in {
                (True, 413, BODY, None),
                (True, None, b"", "disconnected"),
            }
        assert len(server.connections) == 2


# ---------------------------------------------------------------- told by a plain call


async def test_launched_is_told_once() -> None:
    """A launched exchange comes to what an awaited one does, and is told after launch returned."""
    told: list[Reply | Exception] = []
    faults = FaultServer(always(http(200, BODY)))
    async with faults.running() as server, opened(server.url, connections=2) as transport:
        for _ in range(5):
            transport.launch(TARGET, APIM, b"", CLOCK.monotonic() + 2, told.append)
        transport.launch(TARGET, APIM, b"", CLOCK.monotonic() - 1, told.append)
        assert told == []
        await asyncio.sleep(0.3)
    assert [facts(r) for r in told if isinstance(r, Reply) and r.sent] == [
        (True, 200, BODY, None)
    ] * 5
    assert [r for r in told if r == Reply(sent=False, fault="pool_timeout")] == told[:1]
    assert len(told) == 6
    assert len(server.requests) == 5


async def test_launched_and_closed_is_told_at_most_once() -> None:
    """Closing the transport ends what is under way and leaves nobody hanging."""

    async def silent(c: Connection) -> None:
        await c.until_closed()

    told: list[Reply | Exception] = []
    async with FaultServer(silent).running() as server, opened(server.url) as transport:
        transport.launch(TARGET, APIM, b"", CLOCK.monotonic() + 5, told.append)
        await asyncio.sleep(0.05)
        before = CLOCK.monotonic()
        await transport.aclose()
        assert CLOCK.monotonic() - before < 1.0
    assert told in ([], [Reply(sent=True, fault="disconnected")])


# ---------------------------------------------------------------- ends from our side


async def test_cut_ends_what_is_in_flight() -> None:
    """What is out gets until the cut, and nothing goes out any more."""

    async def script(c: Connection) -> None:
        await c.read_request()
        await c.write(http(200, BODY[:9], length=99))
        await c.until_closed()

    async with FaultServer(script).running() as server, opened(server.url) as transport:
        flying = asyncio.ensure_future(ask(transport))
        await asyncio.sleep(0.1)
        before = CLOCK.monotonic()
        transport.cut(before + 0.1)
        transport.cut(before + 5)  # a later cut does not give time back
        assert await ask(transport) == Reply(sent=False, fault="cut")
        assert facts(await flying) == (True, 200, BODY[:9], "cut")
        assert 0.1 <= CLOCK.monotonic() - before < 1.0
        assert len(server.requests) == 1


async def test_what_is_not_out_at_the_end_never_goes_out() -> None:
    """Once the end is announced, a connection that is being made is of no use any more."""

    async def silent(c: Connection) -> None:
        await c.until_closed()

    async with (
        FaultServer(silent).running() as server,
        opened(f"https://127.0.0.1:{server.port}") as transport,  # the handshake hangs
    ):
        flying = asyncio.ensure_future(ask(transport))
        await asyncio.sleep(0.1)
        before = CLOCK.monotonic()
        transport.cut(before + 5)
        assert await flying == Reply(sent=False, fault="cut")
        assert await ask(transport) == Reply(sent=False, fault="cut")
        assert CLOCK.monotonic() - before < 1.0


async def test_cut_while_connecting_is_not_sent() -> None:
    """What was not written when the cut came is proven not sent."""

    async def silent(c: Connection) -> None:
        await c.until_closed()

    async with (
        FaultServer(silent).running() as server,
        opened(server.url, connections=1) as transport,
    ):
        first = asyncio.ensure_future(ask(transport))
        second = asyncio.ensure_future(ask(transport))
        await asyncio.sleep(0.05)
        transport.cut(CLOCK.monotonic())
        assert facts(await first) == (True, None, b"", "cut")
        assert await second == Reply(sent=False, fault="cut")


async def test_a_cut_after_the_deadline_changes_nothing() -> None:
    """An exchange whose time is up stays so, whatever is said before it notices."""
    exchange = _Exchange(CLOCK, CLOCK.monotonic(), 1.0)

    async def wait() -> None:
        async with exchange.timeout:
            try:
                await asyncio.sleep(1)
            finally:
                exchange.cut(CLOCK.monotonic() + 5)

    with pytest.raises(TimeoutError):
        await wait()
    assert exchange.why_timed_out() == "pool_timeout"


def test_a_transport_without_a_socket_is_taken_as_it_is() -> None:
    """Row 35: connections in memory have nothing to poll."""
    assert not Unread(asyncio.Transport())
    assert not Unread(None)


async def test_cancelling_passes_through() -> None:
    """A task that is cancelled ends cancelled, and leaves nothing behind."""

    async def silent(c: Connection) -> None:
        await c.until_closed()

    async with FaultServer(silent).running() as server, opened(server.url) as transport:
        task = asyncio.ensure_future(ask(transport))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if isinstance(transport, SessionTransport):
            assert transport._exchanges == {}
        else:
            assert transport._wires == {}


async def test_an_unused_transport_closes() -> None:
    """Closing before the first request is fine."""
    async with opened("http://127.0.0.1:9"):
        pass


# ---------------------------------------------------------------- proxies, plain http


async def test_a_plain_proxy_gets_the_absolute_target() -> None:
    """Row 39: plain http through a proxy, with its credentials; the environment is not asked."""
    async with FaultServer(once(http(502, b"<html>"))).running() as proxy:
        secret = Secret(f"http://user:CANARY-P@127.0.0.1:{proxy.port}")
        async with opened("http://gateway.invalid", proxy=secret) as transport:
            assert facts(await ask(transport)) == (True, 502, b"<html>", None)
        assert proxy.requests[0].startswith(b"POST http://gateway.invalid/connect-service")
        assert b"Proxy-Authorization: Basic dXNlcjpDQU5BUlktUA==" in proxy.requests[0]


async def test_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 39: HTTP_PROXY is ignored."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    assert facts(await exchange(once(http(200, BODY)))) == (True, 200, BODY, None)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    """Whatever a server answers, a reply comes of it."""
    reply = asyncio.run(exchange(once(data), 0.5))
    assert reply.sent
