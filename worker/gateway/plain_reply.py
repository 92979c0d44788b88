"""The reply that nearly every request gets, cut out of its bytes: or not at all.

A 200 that came whole, with a Content-Length that is kept and nothing that changes how the bytes
are to be read. All else is for aiohttp's parser. Where this says something, it is what that
parser would say: tests/gateway/test_plain_reply.py compares the two. Pure.
"""

from __future__ import annotations

import re
from typing import Final

from worker.gateway.exchange import MAX_BODY, Reply

_HEAD: Final = re.compile(
    r"HTTP/1\.1 200(?: [ -~]{0,64})?(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}:[ -~]{0,1000}){1,64}"
)
_LONGEST: Final = 8_000  # bytes of a head, less than any limit of the parser
_FRAMING: Final = frozenset(
    {"transfer-encoding", "content-encoding", "upgrade", "trailer", "proxy-connection"}
    | {"sec-websocket-key1"}  # which the parser refuses
)


def plain_reply(data: bytes) -> Reply | None:
    """The reply, if `data` is exactly one plain one; None: it is to be parsed with more care."""
    end = data.find(b"\r\n\r\n", 0, _LONGEST)
    if end < 0:
        return None
    head = data[:end].decode("latin-1")
    if _HEAD.fullmatch(head) is None:
        return None
    lines = head.split("\r\n")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip(" ")
    body = data[end + 4 :]
    if headers.get("content-length") != str(len(body)) or len(headers) != len(lines) - 1:
        return None
    if not _FRAMING.isdisjoint(headers) or len(body) > MAX_BODY:
        return None
    if headers.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    return Reply(sent=True, status=200, headers=headers, body=body)
