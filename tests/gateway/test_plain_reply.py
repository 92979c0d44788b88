"""A plain reply, and everything that is not one: what is read fast is what the parser reads."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_parser import HttpResponseParser
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.gateway.exchange import MAX_BODY, Reply
from worker.gateway.plain_reply import plain_reply

PLAIN = (
    b"HTTP/1.1 200 OK\r\nServer: gw\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    b"Content-Type: application/json;charset=UTF-8\r\nContent-Length: 2\r\n\r\n{}"
)


def test_a_plain_reply_is_read() -> None:
    headers = {
        "server": "gw",
        "date": "Sun, 06 Nov 1994 08:49:37 GMT",
        "content-type": "application/json;charset=UTF-8",
        "content-length": "2",
    }
    assert plain_reply(PLAIN) == Reply(True, 200, headers, b"{}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"{}", b"{"),
        (b"{}", b"{}H"),
        (b"{}", b"{}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (b"200 OK", b"201 OK"),
        (b"200 OK", b"429 Too Many Requests"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"HTTP/1.1", b"\r\nHTTP/1.1"),
        (b"200 OK", b"200 \x00"),
        (b"\r\n\r\n", b"\n\n"),
        (b"gw", b"g\rw"),
        (b"gw", b"g\nw"),
        (b"gw", b"g\r\n w"),
        (b"gw", b"g\x00w"),
        (b"gw", b"\xe4"),
        (b"Server", b"Ser ver"),
        (b"Server:", b"Server :"),
        (b"Server", b""),
        (b"Server: gw", b"Transfer-Encoding: chunked"),
        (b"Server: gw", b"Content-Encoding: gzip"),
        (b"Server: gw", b"Connection: close"),
        (b"Server: gw", b"Connection: keep-alive, close"),
        (b"Server: gw", b"Upgrade: websocket"),
        (b"Server: gw", b"content-length: 2"),
        (b"Server: gw", b"Content-Length: 3"),
        (b"Length: 2", b"Length: +2"),
        (b"Length: 2", b"Length: 02"),
        (b"Length: 2", b"Length: 2, 2"),
        (b"Content-Length: 2\r\n", b""),
        (b"gw", b"g" * 1_001),
        (b"Server: gw\r\n", b"Server: gw\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(64))),
        (b"2\r\n\r\n{}", b"%d\r\n\r\n" % (MAX_BODY + 1) + bytes(MAX_BODY + 1)),
    ],
)
def test_all_else_is_for_the_parser(old: bytes, new: bytes) -> None:
    assert plain_reply(PLAIN.replace(old, new, 1)) is None


_USUAL = st.sampled_from(
    ["Date: x", "Retry-After: 1 ", "X-1:", "Connection: Keep-Alive", "Age:  0", "Set-Cookie: a=b"]
)
_OTHER = st.sampled_from(
    [
        "Connection: close",
        "connection: close",
        "Connection: upgrade",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip",
        "Content-Encoding: gzip",
        "Content-Length: 0",
        "content-length:2",
        "Upgrade: h2c",
        "Sec-WebSocket-Key1: x",
        "Date: y",
        "X Y: z",
        "X : z",
        "X\t: z",
        "X-1: \tz",
        ": z",
        " folded",
    ]
)
_ODD = st.text(st.characters(max_codepoint=0xFF), max_size=8)
_FIELDS = st.lists(st.one_of(_USUAL, _USUAL, _OTHER, _ODD), max_size=3)
_STARTS = st.sampled_from(
    [*["HTTP/1.1 200 OK"] * 3, "HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1 204 No", "HTTP/1.0 200"]
)


@given(
    _STARTS,
    _FIELDS,
    st.binary(max_size=4),
    st.sampled_from([0, 0, 0, 1, -1]),
    st.sampled_from([b"", b"", b"", b"x", b"\r\n"]),
)
@settings(max_examples=500)
def test_what_is_read_fast_is_what_the_parser_reads(
    start: str, fields: list[str], body: bytes, off: int, more: bytes
) -> None:
    lines = [start, *fields, f"Content-Length: {len(body) + off}"]
    data = "\r\n".join([*lines, "", ""]).encode("latin-1") + body + more
    fast = plain_reply(data)
    if fast is not None:
        assert fast == asyncio.run(_parsed(data))


async def _parsed(data: bytes) -> Reply:
    """What aiohttp's parser makes of bytes that are one whole reply."""
    loop = asyncio.get_running_loop()
    parser = HttpResponseParser(
        ResponseHandler(loop), loop, 2**16, read_until_eof=True, auto_decompress=False
    )
    ((message, payload),), upgraded, tail = parser.feed_data(data)
    assert (upgraded, tail, message.should_close) == (False, b"", False)
    assert payload.is_eof()
    headers = {name.lower(): value for name, value in message.headers.items()}
    return Reply(True, message.code, headers, payload.read_nowait())
