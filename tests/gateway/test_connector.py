"""The contract with aiohttp's undocumented names: what connector.py stands on.

A failure here means: this aiohttp changed something below its session. Read its connector.py and
client_proto.py, mend worker/gateway/connector.py, or run with the session's transport.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from yarl import URL

from tests.gateway.fault_server import FaultServer, always, http
from worker.gateway.connector import Wire

BODY = b'{"code":0}'

# What is called or overridden, and the arguments that it is called with.
CALLED: list[tuple[object, str, list[str]]] = [
    (aiohttp.TCPConnector, "connect", ["req", "traces", "timeout"]),
    (Connection, "close", []),
    (ResponseHandler, "__init__", ["loop"]),
    (ResponseHandler, "connection_made", ["transport"]),
    (ResponseHandler, "connection_lost", ["exc"]),
    (ResponseHandler, "data_received", ["data"]),
    (ResponseHandler, "feed_data", ["data", "size"]),
    (ResponseHandler, "exception", []),
    (ResponseHandler, "pause_reading", []),
    (ResponseHandler, "resume_reading", ["resume_parser"]),
    (ResponseHandler, "set_response_params", ["read_until_eof", "auto_decompress"]),
    (StreamReader, "read_nowait", []),
    (StreamReader, "is_eof", []),
    (StreamReader, "exception", []),
]
PROPERTIES = [
    (Connection, "protocol"),
    (ResponseHandler, "should_close"),
    (ResponseHandler, "closed"),
]
# What a Wire means to replace; every other name of its own must be new.
OVERRIDDEN = {
    "__init__",
    "connection_lost",
    "data_received",
    "feed_data",
    "pause_reading",
    "resume_reading",
}


@pytest.mark.parametrize(("owner", "name", "arguments"), CALLED)
def test_what_is_called_is_there(owner: Any, name: str, arguments: list[str]) -> None:
    """Every method exists and takes what it is given; what else it takes has a default."""
    method = getattr(owner, name, None)
    where = f"aiohttp {aiohttp.__version__}: {owner.__name__}.{name}"
    assert method is not None, f"{where} is gone"
    parameters = dict(inspect.signature(method).parameters)
    parameters.pop("self", None)
    for argument in arguments:
        assert argument in parameters, f"{where} takes no {argument}"
        del parameters[argument]
    more = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in {2, 4}]
    assert more == [], f"{where} wants more than it gets"


@pytest.mark.parametrize(("owner", "name"), PROPERTIES)
def test_what_is_read_is_there(owner: Any, name: str) -> None:
    """Every property is one."""
    assert isinstance(inspect.getattr_static(owner, name), property), f"{owner.__name__}.{name}"


def test_the_coroutines_are_the_expected_ones() -> None:
    """What is awaited is a coroutine, what is not is none: the handler answers within a call."""
    assert inspect.iscoroutinefunction(aiohttp.TCPConnector.connect)
    assert inspect.iscoroutinefunction(aiohttp.TCPConnector.close)
    for name in ("data_received", "connection_lost", "feed_data", "set_response_params"):
        assert not inspect.iscoroutinefunction(getattr(ResponseHandler, name)), name
    assert not inspect.iscoroutinefunction(StreamReader.read_nowait)


async def test_a_wire_shadows_nothing_by_accident() -> None:
    """No attribute of a Wire is one of aiohttp's, except those that it means to replace."""
    async with live() as (connector, url):
        connection = await connect(connector, url)
        handler = connection.protocol
        assert handler is not None
        assert handler.transport is not None
        theirs = set(vars(handler)) | set(dir(ResponseHandler))
        wire = Wire(connection, handler, handler.transport, Nobody())
        added = set(vars(wire)) - set(vars(ResponseHandler(asyncio.get_running_loop())))
        wire.drop()
        await asyncio.sleep(0)
        mine = added | {name for name in vars(Wire) if not name.startswith("__")}
        assert (mine - OVERRIDDEN) & theirs == set()


async def test_a_reply_comes_as_a_message_and_its_content() -> None:
    """The handler gives head and body to `feed_data` while the bytes are fed, whole when whole."""
    got: list[tuple[RawResponseMessage, StreamReader]] = []

    class Handler(ResponseHandler):
        def feed_data(self, data: tuple[RawResponseMessage, StreamReader], _size: int = 0) -> None:
            got.append(data)

    async with live() as (connector, url):
        connection = await connect(connector, url)
        made = connection.protocol
        assert isinstance(made, ResponseHandler)
        assert made.transport is not None
        handler = Handler(asyncio.get_running_loop())
        handler.connection_made(made.transport)
        handler.set_response_params(read_until_eof=True, auto_decompress=False)
        handler.data_received(http(200, BODY[:4], "Date: x", length=len(BODY)))
        [(message, content)] = got
        assert (message.code, message.headers.get("date")) == (200, "x")
        assert (content.read_nowait(), content.is_eof()) == (BODY[:4], False)
        busy = handler.should_close  # the rest is to come
        handler.data_received(BODY[4:])
        assert (content.read_nowait(), content.is_eof()) == (BODY[4:], True)
        assert (busy, handler.should_close) == (True, False)
        handler.data_received(http(204, length=None))
        assert got[-1][1] is EMPTY_PAYLOAD
        assert EMPTY_PAYLOAD.is_eof()
        handler.data_received(b"nonsense\r\n\r\n")
        assert isinstance(handler.exception(), HttpProcessingError)
        assert [handler.should_close] == [True]
        connection.close()


async def test_a_connection_made_by_the_connector_is_ours() -> None:
    """A live one: the handler is silent, its transport takes another protocol, and it closes."""
    async with live() as (connector, url):
        connection = await connect(connector, url)
        handler = connection.protocol
        assert type(handler) is ResponseHandler
        assert handler.transport is not None
        assert not handler.should_close
        assert not handler.transport.is_closing()
        handler.transport.set_protocol(ResponseHandler(asyncio.get_running_loop()))
        connection.close()
        assert connection.protocol is None


@asynccontextmanager
async def live() -> AsyncIterator[tuple[aiohttp.TCPConnector, str]]:
    """A connector and a server to connect to."""
    connector = aiohttp.TCPConnector()
    async with FaultServer(always(http(200, BODY))).running() as server, connector:
        yield connector, server.url


async def connect(connector: aiohttp.TCPConnector, url: str) -> Connection:
    request = aiohttp.ClientRequest("POST", URL(url), loop=asyncio.get_running_loop())
    assert request.headers["Host"] == url.removeprefix("http://")
    return await connector.connect(request, [], aiohttp.ClientTimeout(total=None))


class Nobody:
    """Whom a Wire tells what becomes of it."""

    def freed(self, wire: Wire) -> None:
        """Nothing to do."""

    def gone(self, wire: Wire) -> None:
        """Nothing to do."""
