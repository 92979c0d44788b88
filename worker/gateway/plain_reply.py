"""The reply that nearly every request gets, cut out of its bytes: or not at all.

A 200 that came whole, with a Content-Length that is kept and nothing that changes how the bytes
are to be read. All else is for aiohttp's parser. Where this says something, it is what that
parser would say: tests/gateway/test_plain_reply.py compares the two. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from worker.gateway.exchange import MAX_BODY, Reply

_HEAD: Final = re.compile(
    r"HTTP/1\.1 200(?: [ -~]{0,64})?(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}:[ -~]{0,1000}){1,64}"
)
_LENGTH: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_LONGEST: Final = 8_000  # bytes of a head, less than any limit of the parser
_FRAMING: Final = frozenset(
    {"transfer-encoding", "content-encoding", "upgrade", "trailer", "proxy-connection"}
    | {"sec-websocket-key1"}  # which the parser refuses
)


def plain_reply(data: bytes) -> Reply | None:
    """The reply, if `data` is exactly one plain one; None: it is to be parsed with more care."""
    end = data.find(b"\r\n\r\n", 0, _LONGEST)
    if end < 0 or (read := _head(data[:end])) is None:
        return None
    headers, length = read
    body = data[end + 4 :]
    if len(body) != length:
        return None
    return Reply(True, 200, headers, body)


@lru_cache(maxsize=64)  # a gateway writes one head again and again: only Date and length differ
def _head(raw: bytes) -> tuple[Mapping[str, str], int] | None:
    """Headers and length of the body, if the head is a plain one."""
    head = raw.decode("latin-1")
    if _HEAD.fullmatch(head) is None:
        return None
    lines = head.split("\r\n")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip(" ")
    length = headers.get("content-length", "")
    if _LENGTH.fullmatch(length) is None or int(length) > MAX_BODY:
        return None
    if len(headers) != len(lines) - 1 or not _FRAMING.isdisjoint(headers):
        return None
    if headers.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    return headers, int(length)
