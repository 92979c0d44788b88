"""Whom the transport trusts, and what a handshake that fails comes to."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from aiohttp import ClientConnectorSSLError
from aiohttp.client_reqrep import ConnectionKey

from tests.gateway.fault_server import Connection, FaultServer, always, http, once, tunnel
from tests.gateway.test_transport import BODY, ask, facts, free_port, kind, opened
from worker.errors import UsageError
from worker.gateway.exchange import Reply
from worker.gateway.faults import fault_of
from worker.gateway.tls import tls_context
from worker.model import Secret

__all__ = ["kind"]  # each test here runs over both transports

PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


def served_by(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture
def good(ca: trustme.CA) -> ssl.SSLContext:
    return served_by(ca.issue_cert("127.0.0.1", "localhost"))


async def test_a_ca_file_is_trusted(good: ssl.SSLContext, ca_file: str) -> None:
    """An own authority works, and a kept TLS connection is used again."""
    async with FaultServer(always(http(200, BODY)), good).running() as server:
        async with opened(server.url, ca_file=ca_file) as transport:
            for _ in range(5):
                assert facts(await ask(transport)) == (True, 200, BODY, None)
        assert len(server.connections) == 1


async def test_unknown_ca(good: ssl.SSLContext) -> None:
    """Row 37: an authority nobody named is turned down before anything is sent."""
    async with FaultServer(always(http(200, BODY)), good).running() as server:
        async with opened(server.url) as transport:
            assert await ask(transport) == Reply(sent=False, fault="tls")
        assert server.requests == []


async def test_expired(ca: trustme.CA, ca_file: str) -> None:
    """Rows 37 and 38: an expired certificate."""
    context = served_by(ca.issue_cert("127.0.0.1", not_before=PAST, not_after=PAST))
    async with (
        FaultServer(always(http(200, BODY)), context).running() as server,
        opened(server.url, ca_file=ca_file) as transport,
    ):
        assert await ask(transport) == Reply(sent=False, fault="tls")


async def test_hostname_mismatch(ca: trustme.CA, ca_file: str) -> None:
    """Row 37: somebody else's certificate."""
    context = served_by(ca.issue_cert("other.example.com"))
    async with (
        FaultServer(always(http(200, BODY)), context).running() as server,
        opened(server.url, ca_file=ca_file) as transport,
    ):
        assert await ask(transport) == Reply(sent=False, fault="tls")


async def test_plain_http_on_a_tls_port(ca_file: str) -> None:
    """Row 37: no TLS at the other end at all."""

    async def script(c: Connection) -> None:
        await c._reader.read(10)
        await c.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with (
        FaultServer(script).running() as server,
        opened(f"https://127.0.0.1:{server.port}", ca_file=ca_file) as transport,
    ):
        assert await ask(transport) == Reply(sent=False, fault="tls")


@pytest.mark.parametrize("reset", [False, True])
async def test_broken_off_in_the_handshake(ca_file: str, reset: bool) -> None:
    """Row 37: a close or reset during the handshake is row 1, not a verdict on certificates."""

    async def script(c: Connection) -> None:
        await c._reader.read(10)
        if reset:
            c.reset()

    async with (
        FaultServer(script).running() as server,
        opened(f"https://127.0.0.1:{server.port}", ca_file=ca_file) as transport,
    ):
        assert await ask(transport) == Reply(sent=False, fault="refused")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ssl.SSLEOFError(8, "CANARY"), "refused"),
        (ssl.SSLZeroReturnError(6, "CANARY"), "refused"),
        (ssl.SSLError(1, "CANARY"), "tls"),
    ],
)
def test_how_a_handshake_ended(error: ssl.SSLError, fault: str) -> None:
    """Row 37: loops differ in how they say that the other end went away."""
    key = ConnectionKey("h", 443, True, True, None, None, None)
    assert fault_of(ClientConnectorSSLError(key, error), sent=False) == fault


async def test_silent_in_the_handshake(ca_file: str) -> None:
    """Row 3: the connect timeout covers the handshake."""

    async def silent(c: Connection) -> None:
        await c.until_closed()

    async with FaultServer(silent).running() as server:
        url = f"https://127.0.0.1:{server.port}"
        async with opened(url, ca_file=ca_file, connect_timeout=0.2) as transport:
            assert await ask(transport) == Reply(sent=False, fault="connect_timeout")


async def test_client_certificate(ca: trustme.CA, ca_file: str, tmp_path: Path) -> None:
    """A gateway that wants a client certificate gets the configured one."""
    leaf = ca.issue_cert("worker@example.com")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    leaf.cert_chain_pems[0].write_to_path(str(certificate))
    leaf.private_key_pem.write_to_path(str(key))
    context = served_by(ca.issue_cert("127.0.0.1"))
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    async with FaultServer(always(http(200, BODY)), context).running() as server:
        options = {"client_cert_file": str(certificate), "client_key_file": str(key)}
        async with opened(server.url, ca_file=ca_file, **options) as transport:
            assert facts(await ask(transport)) == (True, 200, BODY, None)
        async with opened(server.url, ca_file=ca_file) as transport:
            # TLS 1.3 tells the client only after the request went out.
            assert facts(await ask(transport)) == (True, None, b"", "disconnected")
        assert len(server.requests) == 1


def test_files_that_cannot_be_used(tmp_path: Path, ca_file: str) -> None:
    """The message names the option and the file."""
    with pytest.raises(UsageError, match=r"no/ca: gateway\.ca_file cannot be used"):
        tls_context("no/ca", None, None)
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    with pytest.raises(UsageError, match=r"gateway\.ca_file cannot be used"):
        tls_context(str(empty), None, None)
    with pytest.raises(UsageError, match=r"gateway\.client_cert_file .* cannot be used"):
        tls_context(None, ca_file, None)


def test_verification_is_on() -> None:
    """Certificates and names are checked, and nothing older than TLS 1.2 is spoken."""
    context = tls_context(None, None, None)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


# ---------------------------------------------------------------- proxies


async def test_through_a_tunnel(good: ssl.SSLContext, ca_file: str) -> None:
    """Row 39: TLS reaches through CONNECT; the proxy sees neither path nor token."""
    async with FaultServer(always(http(200, BODY)), good).running() as server:
        async with FaultServer(tunnel(server.port)).running() as proxy:
            secret = Secret(f"http://user:CANARY-P@127.0.0.1:{proxy.port}")
            async with opened(server.url, ca_file=ca_file, proxy=secret) as transport:
                assert facts(await ask(transport)) == (True, 200, BODY, None)
                assert facts(await ask(transport)) == (True, 200, BODY, None)
            assert len(proxy.requests) == 1
            assert b"Proxy-Authorization: Basic " in proxy.requests[0]
            assert b"apim" not in proxy.requests[0]
        assert b"Proxy-Authorization" not in server.requests[0]


@pytest.mark.parametrize(("status", "fault"), [(407, "proxy_auth"), (502, "proxy"), (403, "proxy")])
async def test_proxy_says_no(status: int, fault: str) -> None:
    """Row 39: a refused CONNECT is proven not sent, whatever its status."""
    async with FaultServer(once(http(status))).running() as proxy:
        secret = Secret(f"http://127.0.0.1:{proxy.port}")
        async with opened("https://gateway.invalid", proxy=secret) as transport:
            assert await ask(transport) == Reply(sent=False, fault=fault)


async def test_proxy_not_there() -> None:
    """Row 39: nobody listens where the proxy should be."""
    secret = Secret(f"http://127.0.0.1:{free_port()}")
    for url in ("https://gateway.invalid", "http://gateway.invalid"):
        async with opened(url, proxy=secret) as transport:
            assert await ask(transport) == Reply(sent=False, fault="proxy")


@pytest.mark.parametrize("said", [b"", b"\x00\x01nonsense\r\n\r\n"])
async def test_proxy_breaks_off(said: bytes) -> None:
    """Row 39: a proxy that closes or talks nonsense instead of answering CONNECT."""
    async with FaultServer(once(said)).running() as proxy:
        secret = Secret(f"http://127.0.0.1:{proxy.port}")
        async with opened("https://gateway.invalid", proxy=secret) as transport:
            assert await ask(transport) == Reply(sent=False, fault="proxy")


async def test_silent_proxy() -> None:
    """Row 39: the connect timeout covers CONNECT."""

    async def silent(c: Connection) -> None:
        await c.until_closed()

    async with FaultServer(silent).running() as proxy:
        secret = Secret(f"http://127.0.0.1:{proxy.port}")
        url = "https://gateway.invalid"
        async with opened(url, proxy=secret, connect_timeout=0.2) as transport:
            assert await ask(transport) == Reply(sent=False, fault="connect_timeout")
