"""URLs: where keys and commands may go, and what never stands in one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url
from yarl import URL

from worker.config import load_settings
from worker.config.kinds import Origin, UnfitError
from worker.config.urls import gateway_url, is_loopback, ledger_url, proxy_url, without_user
from worker.errors import InvalidInputError
from worker.job.document import load_plain

FILE = Origin(Path("/etc/cw"))
ENVIRONMENT = Origin(Path("/work"), may_hold_password=True)


def refused(flaw: pytest.ExceptionInfo[UnfitError]) -> tuple[str, str]:
    return flaw.value.problem, flaw.value.remedy


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://apim.example.com", "https://apim.example.com"),
        ("https://apim.example.com/", "https://apim.example.com"),
        ("https://apim.example.com:8443/edge/v1//", "https://apim.example.com:8443/edge/v1"),
        ("HTTPS://Apim.Example.com", "https://Apim.Example.com"),
        ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
    ],
)
def test_gateway(text: str, url: str) -> None:
    """The base URL keeps its path and loses the slash at its end."""
    assert gateway_url(text, FILE) == url


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        *(
            (
                text,
                "holds user information, keys never stand in a URL",
                "remove it; give access_key_file and secret_key_file",
            )
            for text in ("https://user:s3cr3t@host", "https://s3cr3t@host", "https://@host")
        ),
        ("https://host/x?y=1", "holds a query or fragment", "end it with the path"),
        ("https://host?", "holds a query or fragment", "end it with the path"),
        ("https://host/#", "holds a query or fragment", "end it with the path"),
        *(
            (text, problem, "write it like https://apim.example.com")
            for text, problem in (
                ("apim.example.com", "is not an https URL"),
                ("ftp://host", "is not an https URL"),
                ("//host", "is not an https URL"),
                ("https://", "names no usable host and port"),
                ("https:///path", "names no usable host and port"),
                ("https://host:0", "names no usable host and port"),
                ("https://host:", "names no usable host and port"),
                ("https://a..b", "names no usable host and port"),
                ("https://-a", "names no usable host and port"),
                ("https://a%2eb", "names no usable host and port"),
                ("https://[fe80::1%25eth0]", "names no usable host and port"),
                ("https://host:99999", "is not a URL"),
                ("https://host:x", "is not a URL"),
                ("https://[::1", "is not a URL"),
                ("", "is not a URL, it holds a character that none may"),
                ("https://ho st", "is not a URL, it holds a character that none may"),
                ("https://host\n", "is not a URL, it holds a character that none may"),
                ("https://bücher.example", "is not a URL, it holds a character that none may"),
                ("https://host\\@evil", "is not a URL, it holds a character that none may"),
            )
        ),
    ],
)
def test_gateway_refused(text: str, problem: str, remedy: str) -> None:
    """What could lead the keys elsewhere is refused, and nothing of it is repeated."""
    with pytest.raises(UnfitError) as caught:
        gateway_url(text, FILE)
    assert refused(caught) == (problem, remedy)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("127.0.0.1", True),
        ("127.255.1.2:80", True),
        ("[::1]:80", True),
        ("127.0.0.1.example.com", False),
        ("localhost.example.com", False),
        ("128.0.0.1", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("[::2]", False),
        ("127.1", False),
    ],
)
def test_http_needs_loopback_or_leave(host: str, expected: bool) -> None:
    """Plain http is refused, but for this machine and where allow_http says so."""
    assert is_loopback(f"http://{host}") is expected
    environ = {"HOME": "/h", "CANCEL_WORKER_GATEWAY_URL": f"http://{host}/x/"}
    allowed = {**environ, "CANCEL_WORKER_GATEWAY_ALLOW_HTTP": "true"}
    found = load_settings(load_plain, allowed, places=[]).gateway
    assert found is not None
    assert found.url == f"http://{host}/x"
    if expected:
        assert load_settings(load_plain, environ, places=[]).gateway is not None
        return
    with pytest.raises(InvalidInputError) as caught:
        load_settings(load_plain, environ, places=[])
    assert str(caught.value) == (
        "CANCEL_WORKER_GATEWAY_URL: http would show the keys to the network:"
        " write https; for an Edge gateway set gateway.allow_http: true"
    )


def test_proxy() -> None:
    """A proxy's password may stand in the environment, and nowhere else."""
    with_password = "http://user:s3cr3t@proxy:3128"
    assert proxy_url("http://proxy:3128/", FILE).reveal() == "http://proxy:3128/"
    found = proxy_url(with_password, ENVIRONMENT)
    assert (found.reveal(), repr(found)) == (with_password, "***")
    assert without_user(with_password) == "http://proxy:3128"
    for text in (with_password, "http://user@proxy:3128"):
        with pytest.raises(UnfitError) as caught:
            proxy_url(text, FILE)
        assert refused(caught) == (
            "holds user information, credentials never stand in the configuration",
            "set CANCEL_WORKER_GATEWAY_PROXY in the environment",
        )


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("http://u:p@w@h", "holds more than one @", "write an @ of the password as %40"),
        ("http://h/x", "holds a path, query or fragment", "end it with the port"),
        ("http://h?x", "holds a path, query or fragment", "end it with the port"),
        ("socks5://h", "is not an https URL", "write it like http://proxy.example.com:3128"),
        ("h:3128", "is not an https URL", "write it like http://proxy.example.com:3128"),
    ],
)
def test_proxy_refused(text: str, problem: str, remedy: str) -> None:
    """What aiohttp could not use as a proxy is refused, and nothing of it is repeated."""
    with pytest.raises(UnfitError) as caught:
        proxy_url(text, ENVIRONMENT)
    assert refused(caught) == (problem, remedy)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:////var/lib/l.db", "/var/lib/l.db"),
        ("sqlite:///l.db", "/etc/cw/l.db"),
        ("sqlite+pysqlite:///l.db", "/etc/cw/l.db"),
        ("sqlite:////a%3Fb/ü c#d.db", "/a?b/ü c#d.db"),
        ("sqlite:////data/a:b@c.db", "/data/a:b@c.db"),
    ],
)
def test_ledger(text: str, path: str) -> None:
    """The ledger's path is absolute, and SQLAlchemy reads the very same."""
    assert make_url(ledger_url(text, FILE)).database == path


PASSWORD = (
    "holds a password, which never stands in a flag or the configuration",
    "remove it; use PGPASSFILE or CANCEL_WORKER_LEDGER_URL in the environment",
)
PLAIN = "write sqlite:////absolute/path/ledger.db"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("postgresql://user:s3cr3t@host/db", PASSWORD),
        ("postgresql+psycopg://user:s3/cr3t@host/db", PASSWORD),
        ("postgresql://host/db?password=s3cr3t", PASSWORD),
        ("mysql://user:s3cr3t@host/db", PASSWORD),
        ("postgresql://user@host/db", ("PostgreSQL is not supported yet", PLAIN)),
        ("mysql://host/db", ("is not a URL of SQLite", PLAIN)),
        ("ledger.db", ("is not a URL", PLAIN)),
        ("", ("is not a URL", PLAIN)),
        ("sqlite:////a\nb", ("is not a URL", PLAIN)),
        ("sqlite://", ("keeps nothing, it is in memory", PLAIN)),
        ("sqlite:///", ("keeps nothing, it is in memory", PLAIN)),
        ("sqlite:///:memory:", ("keeps nothing, it is in memory", PLAIN)),
        ("sqlite:///%3Amemory:", ("keeps nothing, it is in memory", PLAIN)),
        ("sqlite://ledger.db", ("names a host, not a path", PLAIN)),
        ("sqlite://user:s3cr3t@/x", ("names a host, not a path", PLAIN)),
        ("sqlite:///file:x", ("does not name a file", PLAIN)),
        ("sqlite:////a%00b", ("does not name a file", PLAIN)),
        (
            "sqlite:////a?mode=ro",
            ("holds options", "end it with the path; a ? in the path is %3F"),
        ),
    ],
)
def test_ledger_refused(text: str, said: tuple[str, str]) -> None:
    """What is no durable record, or holds a password, is refused without repeating it."""
    with pytest.raises(UnfitError) as caught:
        ledger_url(text, FILE)
    assert refused(caught) == said


def test_a_password_in_the_environment_is_no_fault_of_its_own() -> None:
    """In the environment a database password may stand; the database is what is refused."""
    with pytest.raises(UnfitError) as caught:
        ledger_url("postgresql://user:s3cr3t@host/db", ENVIRONMENT)
    assert refused(caught) == ("PostgreSQL is not supported yet", PLAIN)


@settings(max_examples=100, deadline=None)
@given(st.from_regex(r"https?://[!-~]{0,30}", fullmatch=True))
def test_an_accepted_url_means_the_same_to_the_client(text: str) -> None:
    """A URL that is accepted leads aiohttp to the host and port that were checked."""
    try:
        url = gateway_url(text, FILE)
    except UnfitError:
        return
    seen = URL(url)
    assert seen.user is None
    assert seen.password is None
    assert (seen.query_string, seen.fragment) == ("", "")
    if is_loopback(url):
        assert seen.host in ("localhost", "::1") or str(seen.host).startswith("127.")


@settings(max_examples=100, deadline=None)
@given(st.from_regex(r"https?://([!-~]{0,12}@)?[!-~]{0,20}", fullmatch=True))
def test_an_accepted_proxy_can_be_used(text: str) -> None:
    """A proxy that is accepted is a URL to aiohttp too, and its password is not shown."""
    try:
        found = proxy_url(text, ENVIRONMENT)
    except UnfitError:
        return
    assert URL(found.reveal()).host
    assert "@" not in without_user(found.reveal())
