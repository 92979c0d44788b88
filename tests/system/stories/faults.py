"""What can go wrong with one exchange, byte by byte: a table of faults, each a few lines.

A fault is a coroutine function of an Exchange. It decides whether the call is executed, writes
whatever bytes it likes and returns True when the connection may carry the next request. Faults of
a kind (`cancel`, `search`, `token`) strike when a request was read, `accept` and `tls` before one
was, `tunnel` and `forward` at the proxy.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from random import Random
from typing import Any, NamedTuple, TypeVar

from msgspec import Struct

from tests.system.stories.fleet import Command
from tests.system.stories.gateway import Call, Gateway, Request
from tests.system.stories.sockets import Connection, linger

_LATE = 0.03  # s after the reply that an effect may come, at most
_WAIT = 1  # s of a Retry-After
_LONG = 86_400  # s of one that nobody waits for
_MANY = 1_200  # structs


class Exchange:
    """One request and whatever it is answered with."""

    def __init__(
        self,
        gateway: Gateway,
        connection: Connection,
        request: Request,
        call: Call,
        chance: Random,
        trap: str,
    ) -> None:
        """trap: the URL of a server that no request may ever reach."""
        self.gateway = gateway
        self.connection = connection
        self.request = request
        self.call = call
        self.chance = chance
        self.trap = trap
        self.refuse: Callable[[float], None] = lambda seconds: None

    # ------------------------------------------------------------ what is executed

    def maybe_execute(self) -> list[Command]:
        """Execute it: wholly, in part, soon, or not at all."""
        how = self.chance.random()
        if how < 0.35:
            return []
        if how < 0.5:
            return self.gateway.execute(self.call, after=_LATE * self.chance.random())
        return self.gateway.execute(self.call, share=0.5 if how < 0.6 else 1.0)

    def honest(self) -> tuple[int, dict[str, Any]]:
        """Execute it; status and envelope of the honest reply."""
        return self.gateway.reply(self.call, self.request)

    def body(self) -> bytes:
        """Execute it; the body of the honest reply."""
        return dump(self.honest()[1])

    # ------------------------------------------------------------ what is written

    def http(self, status: int, body: bytes = b"", *headers: str, length: int | None = -1) -> bytes:
        """A response; `length` -1 is the true one, None leaves it out."""
        lines = [f"HTTP/1.1 {status} Said", *self.gateway.date(), *headers]
        if not any(h.lower().startswith("content-type") for h in headers):
            lines.append("Content-Type: application/json")
        if self.request.headers.get("connection") == "close":
            lines.append("Connection: close")
        if length is not None:
            lines.append(f"Content-Length: {len(body) if length == -1 else length}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def say(self, status: int, body: Any = b"", *headers: str) -> bool:
        """A whole response; the connection goes on."""
        data = body if isinstance(body, bytes) else dump(body)
        await self.connection.write(self.http(status, data, *headers))
        return True

    async def answer(self) -> bool:
        """The honest reply."""
        status, envelope = self.honest()
        return await self.say(status, envelope)

    async def hang(self) -> bool:
        await self.connection.until_closed()
        return False


def dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


P = TypeVar("P", bound=Callable[..., Any])


class Fault(Struct, frozen=True):
    """One kind of fault."""

    name: str
    kinds: frozenset[str]
    play: Callable[..., Any]  # of an Exchange; at accept of the socket, at a proxy of AtProxy
    lies: bool = False  # the reply breaks the contract: an anomaly is the right answer
    stops: frozenset[str] = frozenset()  # stop rules that it explains
    usual: bool = True  # among those that a story draws beside its main one


FAULTS: dict[str, Fault] = {}
_COMMANDS = "cancel search"


def fault(
    kinds: str, *, lies: bool = False, stops: str = "", usual: bool = True
) -> Callable[[P], P]:
    def add(play: P) -> P:
        name = play.__name__
        FAULTS[name] = Fault(
            name, frozenset(kinds.split()), play, lies, frozenset(stops.split()), usual
        )
        return play

    return add


# ---------------------------------------------------------------- before a request was read


@fault("accept")
def reset_at_accept(sock: socket.socket) -> bool:
    linger(sock)
    sock.close()
    return False


@fault("accept")
def closed_at_accept(sock: socket.socket) -> bool:
    sock.close()
    return False


@fault("accept")
def speaks_first(sock: socket.socket) -> bool:
    """As servers that are tired of waiting: a reply before anything was asked, and closed."""
    sock.send(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    sock.close()
    return False


@fault("accept", lies=True, stops="anomaly", usual=False)
def answers_first(sock: socket.socket) -> bool:
    """Row 100 too: an answer before anything was asked; what is answered then is one behind."""
    sock.send(b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"code":0,"data":[]}')
    return True


@fault("accept")
def silent_at_accept(sock: socket.socket) -> bool:
    """Accepted and never read; it goes with the process."""
    _SILENT.append(sock)
    del _SILENT[:-200]
    return False


_SILENT: list[socket.socket] = []


@fault("tls")
def tls_reset(sock: socket.socket) -> bool:
    """A reset instead of a server's hello."""
    linger(sock)
    sock.close()
    return False


@fault("tls")
def tls_closed(sock: socket.socket) -> bool:
    sock.close()
    return False


@fault("tls", stops="tls", usual=False)
def tls_garbage(sock: socket.socket) -> bool:
    sock.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    sock.close()
    return False


@fault("cancel search token")
async def listener_gone(x: Exchange) -> bool:
    """Connections are refused for a while; this one ends honestly."""
    x.refuse(0.15)
    await x.say(*x.honest(), "Connection: close")
    return False


# ---------------------------------------------------------------- the connection breaks off


@fault("cancel search token")
async def reset_before(x: Exchange) -> None:
    """Read, not executed."""
    x.connection.reset()


@fault("cancel search token")
async def closed_before(x: Exchange) -> None:
    x.connection.close()


@fault(_COMMANDS)
async def reset_after(x: Exchange) -> None:
    """Executed, wholly, in part or soon; the reply is lost."""
    x.maybe_execute()
    x.connection.reset()


@fault(_COMMANDS)
async def closed_after(x: Exchange) -> None:
    x.honest()
    x.connection.close()


@fault("cancel", usual=False)
async def reply_lost(x: Exchange) -> None:
    """Executed as asked; used for stories in which no reply arrives."""
    x.honest()
    x.connection.reset()


@fault("cancel search token")
async def hangs_before(x: Exchange) -> bool:
    return await x.hang()


@fault("cancel")
async def hangs_after(x: Exchange) -> bool:
    x.maybe_execute()
    return await x.hang()


@fault("cancel")
async def half_closed(x: Exchange) -> bool:
    """FIN after the request, and then nothing but reading."""
    x.maybe_execute()
    if x.connection.writer.can_write_eof():
        x.connection.writer.write_eof()
        return await x.hang()
    return False


@fault("cancel search")
async def idle_closed(x: Exchange) -> bool:
    """Honest, and closed without a word just after."""
    await x.answer()
    await asyncio.sleep(x.chance.choice((0.0, 0.002, 0.01)))
    return False


# ---------------------------------------------------------------- the body breaks off


@fault("cancel search token")
async def cut_body(x: Exchange) -> None:
    """Cut at any byte, and closed."""
    body = x.body()
    await x.connection.write(x.http(200, body)[: -x.chance.randint(1, len(body))])


@fault("cancel search")
async def cut_body_reset(x: Exchange) -> None:
    body = x.body()
    await x.connection.write(x.http(200, body)[: -x.chance.randint(1, len(body))])
    await asyncio.sleep(0.005)
    x.connection.reset()


@fault("cancel search")
async def cut_body_hangs(x: Exchange) -> bool:
    body = x.body()
    await x.connection.write(x.http(200, body)[: -x.chance.randint(1, len(body))])
    return await x.hang()


@fault("cancel search")
async def cut_head(x: Exchange) -> None:
    data = x.http(200, x.body())
    await x.connection.write(data[: x.chance.randint(1, data.index(b"\r\n\r\n"))])


@fault("cancel search")
async def length_too_long(x: Exchange) -> None:
    body = x.body()
    await x.connection.write(x.http(200, body, length=len(body) + x.chance.randint(1, 50)))


@fault("cancel search")
async def length_too_long_hangs(x: Exchange) -> bool:
    body = x.body()
    await x.connection.write(x.http(200, body, length=len(body) + 5))
    return await x.hang()


@fault("cancel search")
async def length_too_short(x: Exchange) -> None:
    body = x.body()
    await x.connection.write(x.http(200, body, length=x.chance.randint(0, len(body) - 1)))


@fault("cancel search")
async def two_lengths(x: Exchange) -> None:
    body = x.body()
    await x.connection.write(x.http(200, body, f"Content-Length: {len(body) + 1}"))


@fault("cancel search")
async def length_and_chunks(x: Exchange) -> None:
    body = x.body()
    data = x.http(200, _chunked(body), "Transfer-Encoding: chunked", length=len(body))
    await x.connection.write(data)


@fault("cancel search")
async def chunked(x: Exchange) -> bool:
    """Chunks, in good order."""
    body = _chunked(x.body())
    await x.connection.write(x.http(200, body, "Transfer-Encoding: chunked", length=None))
    return True


@fault("cancel search")
async def chunks_cut(x: Exchange) -> None:
    body = _chunked(x.body())
    cut = body[: -x.chance.randint(1, len(body))]
    await x.connection.write(x.http(200, cut, "Transfer-Encoding: chunked", length=None))


@fault("cancel search")
async def chunks_broken(x: Exchange) -> None:
    body = b"zz\r\n" + x.body() + b"\r\n0\r\n\r\n"
    await x.connection.write(x.http(200, body, "Transfer-Encoding: chunked", length=None))


@fault("cancel search token")
async def no_length(x: Exchange) -> None:
    """No length, closed at the end: in good order."""
    await x.connection.write(x.http(200, x.body(), "Connection: close", length=None))


@fault("cancel search token")
async def no_length_cut(x: Exchange) -> None:
    body = x.body()
    cut = body[: -x.chance.randint(1, len(body))]
    await x.connection.write(x.http(200, cut, "Connection: close", length=None))


# ---------------------------------------------------------------- slow


@fault("cancel search token")
async def slow(x: Exchange) -> bool:
    await asyncio.sleep(0.1 * x.chance.random())
    return await x.answer()


@fault("cancel search token")
async def sliced(x: Exchange) -> bool:
    """In small pieces, in time."""
    status, envelope = x.honest()
    data = x.http(status, dump(envelope))
    for at in range(0, len(data), step := 1 + len(data) // 12):
        await x.connection.write(data[at : at + step])
        await asyncio.sleep(0.001)
    return True


@fault("cancel search token")
async def drips(x: Exchange) -> bool:
    """A byte now and then: never done in time."""
    status, envelope = x.honest()
    for byte in x.http(status, dump(envelope)):
        await x.connection.write(bytes([byte]))
        await asyncio.sleep(0.04)
    return False


# ---------------------------------------------------------------- not HTTP, or odd HTTP


@fault("cancel search")
async def garbage(x: Exchange) -> None:
    x.maybe_execute()
    junk = x.chance.choice((b"HTTP/1.1 banana\r\n\r\n", b"\x16\x03\x01\x02", b"SSH-2.0-x\r\n"))
    await x.connection.write(junk)


@fault("cancel search")
async def bad_status_line(x: Exchange) -> None:
    line = x.chance.choice((b"HTTP/1.1 2000 OK", b"HTTP/3.9 200 OK", b"HTTP/1.1 -20 OK"))
    data = x.http(200, x.body())
    await x.connection.write(line + data[data.index(b"\r\n") :])


@fault("cancel search")
async def no_head(x: Exchange) -> None:
    """A body and nothing else."""
    await x.connection.write(x.body())


@fault("cancel search")
async def old_http(x: Exchange) -> None:
    """HTTP/1.0: in good order, closed at the end."""
    status, envelope = x.honest()
    data = x.http(status, dump(envelope))
    await x.connection.write(data.replace(b"HTTP/1.1", b"HTTP/1.0", 1))


@fault("cancel search")
async def header_flood(x: Exchange) -> None:
    flood = [f"X-Flood-{n}: {'x' * 40}" for n in range(400)]
    await x.connection.write(x.http(200, x.body(), *flood))


@fault("cancel search")
async def long_header(x: Exchange) -> None:
    await x.connection.write(x.http(200, x.body(), "X-Long: " + "x" * 20_000))


@fault("cancel search token")
async def hints_first(x: Exchange) -> bool:
    """103 before the reply: in good order."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    status, envelope = x.honest()
    await x.connection.write(early + x.http(status, dump(envelope)))
    return True


@fault("cancel")
async def continue_first(x: Exchange) -> bool:
    await x.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return await x.answer()


@fault("cancel")
async def switches(x: Exchange) -> None:
    """101: another protocol from now on."""
    x.maybe_execute()
    await x.connection.write(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
    await asyncio.sleep(0.02)


@fault("cancel search")
async def second_reply(x: Exchange) -> bool:
    """A reply that nobody asked for, in one piece with the right one."""
    status, envelope = x.honest()
    other = x.gateway.envelope(0, "Success") | {"data": []}
    await x.connection.write(x.http(status, dump(envelope)) + x.http(200, dump(other)))
    return False


@fault("cancel", lies=True, stops="anomaly", usual=False)
async def late_second_reply(x: Exchange) -> bool:
    """Row 100: the other reply comes when the next request may be on its way."""
    await x.answer()
    await asyncio.sleep(x.chance.choice((0.0001, 0.001, 0.003, 0.01)))
    await x.say(200, x.gateway.envelope(0, "Success") | {"data": []})
    return True


@fault("cancel search")
async def early_reply(x: Exchange) -> bool:
    """Two packets, the first of them before anything was done."""
    await x.connection.write(b"HTTP/1.1 200 Said\r\n")
    await asyncio.sleep(0.003)
    status, envelope = x.honest()
    if status != 200:
        return False
    await x.connection.write(x.http(200, dump(envelope)).partition(b"\r\n")[2])
    return True


@fault("cancel search")
async def gzipped(x: Exchange) -> bool:
    """Compressed although nobody asked for that."""
    await x.say(200, gzip.compress(x.body()), "Content-Encoding: gzip")
    return True


@fault("cancel search")
async def gzipped_cut(x: Exchange) -> None:
    body = gzip.compress(x.body())
    cut = body[: -x.chance.randint(1, len(body))]
    data = x.http(200, cut, "Content-Encoding: gzip", "Connection: close", length=None)
    await x.connection.write(data)


# ---------------------------------------------------------------- statuses


@fault("cancel search token", stops="redirect", usual=False)
async def redirect(x: Exchange) -> bool:
    status = x.chance.choice((301, 302, 303, 307, 308))
    x.maybe_execute()
    return await x.say(status, b"", f"Location: {x.trap}{x.request.target}")


@fault("cancel search token")
async def page_200(x: Exchange) -> bool:
    """A page where an answer should be."""
    x.maybe_execute()
    return await x.say(200, b"<html>welcome</html>", "Content-Type: text/html")


@fault("cancel search token")
async def page_5xx(x: Exchange) -> bool:
    x.maybe_execute()
    status = x.chance.choice((500, 502, 503, 504, 520, 522))
    return await x.say(status, b"<html>sorry</html>", "Content-Type: text/html")


@fault("cancel", stops="forbidden wrong_path cancel_all_refused")
async def page_4xx(x: Exchange) -> bool:
    """Never executed."""
    status = x.chance.choice((400, 403, 404, 405, 411, 413, 414, 415, 421, 431))
    return await x.say(status, b"<html>no</html>", "Content-Type: text/html")


@fault("cancel search")
async def other_2xx(x: Exchange) -> bool:
    status = x.chance.choice((201, 202, 204, 206))
    body = x.body()
    return await x.say(status, b"" if status == 204 else body)


@fault("cancel search token")
async def server_error(x: Exchange) -> bool:
    x.maybe_execute()
    status = x.chance.choice((500, 502, 503, 504))
    return await x.say(status, x.gateway.envelope(99500, "server"))


@fault("cancel search")
async def timeout_status(x: Exchange) -> bool:
    x.maybe_execute()
    return await x.say(x.chance.choice((408, 499, 524)), b"")


@fault("cancel")
async def unavailable_wait(x: Exchange) -> bool:
    """503 with Retry-After, executed or not."""
    x.maybe_execute()
    return await _wait(x, 503)


@fault("cancel search")
async def throttled(x: Exchange) -> bool:
    return await x.say(429, {"message": "rate limit"})


@fault("cancel search token")
async def throttled_wait(x: Exchange) -> bool:
    return await _wait(x, 429)


@fault("cancel search")
async def throttled_odd(x: Exchange) -> bool:
    """A Retry-After that says nothing."""
    odd = x.chance.choice(("soon", "0", "-1", "1.5", "1e9", "Mon, 01 Jan 2001 00:00:00 GMT"))
    return await x.say(429, {"message": "rate limit"}, f"Retry-After: {odd}")


@fault("cancel search", stops="retry_after", usual=False)
async def throttled_long(x: Exchange) -> bool:
    """A Retry-After that nobody waits for."""
    wait = x.chance.choice((str(_LONG), "999999999999"))
    return await x.say(429, {"message": "rate limit"}, f"Retry-After: {wait}")


@fault("cancel", stops="forbidden")
async def forbidden(x: Exchange) -> bool:
    return await x.say(*x.chance.choice(((403, {"message": "no"}), (200, _code(x, 99403)))))


@fault("cancel", stops="cancel_all_refused")
async def bad_request(x: Exchange) -> bool:
    return await x.say(*x.chance.choice(((400, _code(x, 99400)), (200, _code(x, 99400)))))


@fault("cancel search", stops="not_found")
async def refused_503(x: Exchange) -> bool:
    """HTTP 503 with a code that means: refused before execution."""
    return await x.say(503, _code(x, 99403 if x.call.kind == "search" else 99404))


# ---------------------------------------------------------------- tokens


@fault("cancel search", stops="auth")
async def unauthorized(x: Exchange) -> bool:
    """401 for this call only: the token is fine."""
    return await x.say(401, {"message": "who?"})


@fault("cancel search", stops="auth")
async def token_code(x: Exchange) -> bool:
    return await x.say(200, _code(x, 1203))


@fault("cancel search", stops="auth")
async def tokens_forgotten(x: Exchange) -> bool:
    """Every token is void from now on."""
    x.gateway.forget_tokens()
    return await x.say(401, _code(x, 1203))


@fault("cancel", stops="auth")
async def device_unauthorized(x: Exchange) -> bool:
    """401 for this device, always."""
    assert x.call.spelling is not None
    x.gateway.refused_devices.add(x.call.spelling)
    return await x.say(401, {"message": "not this one"})


@fault("token", stops="no_token")
async def token_trouble(x: Exchange) -> bool:
    code = x.chance.choice((1001, 1004, 1005, 1202, 1204))
    return await x.say(200, {"status": code, "msg": "no", "data": None})


@fault("token", stops="auth", usual=False)
async def token_bad_keys(x: Exchange) -> bool:
    return await x.say(200, {"status": x.chance.choice((1002, 1003)), "msg": "no", "data": None})


@fault("token", stops="no_token")
async def token_odd(x: Exchange) -> bool:
    """A success without a token that can be used."""
    data = x.chance.choice((None, {}, {"accessToken": ""}, {"accessToken": 5, "expire": 7200}))
    return await x.say(200, {"status": 0, "msg": "SUCCESS", "data": data})


# ---------------------------------------------------------------- envelopes


@fault("cancel search")
async def code_99500(x: Exchange) -> bool:
    x.maybe_execute()
    return await x.say(200, _code(x, 99500))


@fault("cancel search")
async def code_unknown(x: Exchange) -> bool:
    x.maybe_execute()
    return await x.say(200, _code(x, x.chance.choice((12345, -1, 99401, 10**12))))


@fault("cancel search")
async def code_odd(x: Exchange) -> bool:
    """A code that is not an integer, with the honest data."""
    _, envelope = x.honest()
    envelope["code"] = x.chance.choice(("0", 0.0, False, None, [], {}))
    return await x.say(200, envelope)


@fault("cancel search")
async def code_missing(x: Exchange) -> bool:
    _, envelope = x.honest()
    del envelope["code"]
    return await x.say(200, envelope)


@fault("cancel search")
async def code_twice(x: Exchange) -> bool:
    """One key twice: which one counts?"""
    body = x.body()
    return await x.say(200, b'{"code": 99400, ' + body[1:])


@fault("cancel search")
async def data_odd(x: Exchange) -> bool:
    """Code 0 and data that is no list."""
    x.maybe_execute()
    envelope = x.gateway.envelope(0, "Success") | {"pagination": {"totalSize": 0}}
    envelope["data"] = x.chance.choice((None, {}, "", "[]", 0, [None], ["x"]))
    if x.chance.random() < 0.2:
        del envelope["data"]
    return await x.say(200, envelope)


@fault("cancel search")
async def not_an_object(x: Exchange) -> bool:
    x.maybe_execute()
    return await x.say(200, x.chance.choice((b"", b"[]", b"null", b"0", b'"ok"', b"{}")))


@fault("cancel search")
async def not_json(x: Exchange) -> bool:
    body = x.body()
    spoilt = x.chance.choice(
        (
            b"\xef\xbb\xbf" + body,
            body.replace(b'"msg"', b'"m\xff"'),
            body[:-1] + b', "deep": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
            body[:-1] + b', "more": ' + b"9" * 6_000 + b"}",
            body[:-1] + b', "x": NaN}',
            body + b"{}",
        )
    )
    return await x.say(200, spoilt)


# ---------------------------------------------------------------- what replies tell


@fault("cancel search")
async def ids_twice(x: Exchange) -> bool:
    status, envelope = x.honest()
    if envelope.get("data") and x.call.kind == "cancel":
        envelope["data"] += envelope["data"][:1]
    return await x.say(status, envelope)


@fault("cancel", lies=True, stops="anomaly", usual=False)
async def another_device(x: Exchange) -> bool:
    """Executed; the rows name another device."""
    status, envelope = x.honest()
    for row in envelope.get("data") or ():
        row |= {"assetId": "another", "productKey": "another", "deviceKey": "another_one"}
    return await x.say(status, envelope)


@fault("cancel", lies=True, stops="anomaly", usual=False)
async def another_org(x: Exchange) -> bool:
    status, envelope = x.honest()
    for row in envelope.get("data") or ():
        row["orgId"] = "o999"
    return await x.say(status, envelope)


@fault("cancel", lies=True, stops="anomaly", usual=False)
async def another_command(x: Exchange) -> bool:
    """Asked by id: a row more than that, of the same device."""
    status, envelope = x.honest()
    if envelope.get("data") and x.call.commandId:
        envelope["data"].append({**envelope["data"][0], "commandId": "1234567890123456789"})
    return await x.say(status, envelope)


@fault("cancel", lies=True, stops="anomaly", usual=False)
async def malformed_id(x: Exchange) -> bool:
    status, envelope = x.honest()
    if envelope.get("data"):
        envelope["data"][0]["commandId"] = x.chance.choice(("", "x-1", "1.5", None, "9" * 40))
    return await x.say(status, envelope)


@fault("cancel", lies=True, stops="anomaly", usual=False)
async def numeric_ids(x: Exchange) -> bool:
    """Ids as numbers: the digits are kept, or the contract is broken."""
    status, envelope = x.honest()
    for row in envelope.get("data") or ():
        row["commandId"] = int(row["commandId"])
    return await x.say(status, envelope)


@fault("cancel", lies=True, usual=False)
async def unmarked_rows(x: Exchange) -> bool:
    """Row 95: not executed; rows of another device, named only as nobody asked."""
    fleet = x.gateway.fleet
    device = fleet.find(x.call.spelling) if x.call.spelling else None
    if device is None or x.call.denied is not None:
        return await x.answer()
    other = fleet.devices[(device.number + 1) % len(fleet.devices)]
    rows = [x.gateway.show(c, x.call, 1) for c in fleet.cached(other)[:3]]
    if not rows:
        return await x.answer()
    for row in rows:
        named = ("assetId",) if x.call.spelling and x.call.spelling.assetId else _PAIR
        for name in named:
            row.pop(name, None)
    return await x.say(200, x.gateway.envelope(0, "Success") | {"data": rows})


@fault("cancel", lies=True, stops="anomaly", usual=False)
async def many_structs(x: Exchange) -> bool:
    """Row 108: more rows than anybody can have cached, invented beside the real ones."""
    status, envelope = x.honest()
    if envelope.get("data") and x.call.commandId is None:
        row, count = envelope["data"][0], x.chance.choice((60, _MANY))
        more = (
            {**row, "commandId": str(8 * 10**18 + x.call.number * 10**5 + n)} for n in range(count)
        )
        envelope["data"] += more
    return await x.say(status, envelope)


@fault("search")
async def total_wrong(x: Exchange) -> bool:
    status, envelope = x.honest()
    if "pagination" in envelope:
        total = envelope["pagination"]["totalSize"]
        envelope["pagination"]["totalSize"] = x.chance.choice((total + 1, total + 60, "x", None))
    return await x.say(status, envelope)


@fault("search")
async def state_wrong(x: Exchange) -> bool:
    """Rows in another state than asked."""
    status, envelope = x.honest()
    for row in envelope.get("data") or ():
        row["state"] = 5
    return await x.say(status, envelope)


@fault("search", lies=True)
async def search_another_device(x: Exchange) -> bool:
    status, envelope = x.honest()
    for row in envelope.get("data") or ():
        row |= {"assetId": "another", "productKey": "another", "deviceKey": "another_one"}
    return await x.say(status, envelope)


@fault("search")
async def search_denied(x: Exchange) -> bool:
    return await x.say(*x.chance.choice(((403, {"message": "no"}), (200, _code(x, 99403)))))


# ---------------------------------------------------------------- at the proxy


class AtProxy(NamedTuple):
    """A connection to the proxy that goes wrong before anything is sent on."""

    connection: Connection
    chance: Random


@fault("tunnel forward", stops="no_token")
async def proxy_407(x: AtProxy) -> None:
    await x.connection.read()
    await _page(x.connection, 407, "Proxy-Authenticate: Basic realm=x")


@fault("tunnel forward")
async def proxy_5xx(x: AtProxy) -> None:
    await x.connection.read()
    await _page(x.connection, x.chance.choice((500, 502, 503, 504)))


@fault("tunnel forward")
async def proxy_reset(x: AtProxy) -> None:
    x.connection.reset()


@fault("tunnel forward")
async def proxy_closed(x: AtProxy) -> None:
    await x.connection.read()


@fault("tunnel forward")
async def proxy_hangs(x: AtProxy) -> None:
    await x.connection.until_closed()


@fault("tunnel forward")
async def proxy_garbage(x: AtProxy) -> None:
    await x.connection.read()
    await x.connection.write(b"220 smtp.example.com\r\n")


@fault("tunnel")
async def tunnel_closed(x: AtProxy) -> None:
    """The tunnel stands, and is gone."""
    await x.connection.read()
    await x.connection.write(b"HTTP/1.1 200 Connection established\r\n\r\n")


async def _page(connection: Connection, status: int, *headers: str) -> None:
    page = b"<html>proxy</html>"
    lines = [f"HTTP/1.1 {status} No", *headers, "Content-Type: text/html", "Connection: close"]
    head = "\r\n".join([*lines, f"Content-Length: {len(page)}"]).encode()
    await connection.write(head + b"\r\n\r\n" + page)


# ---------------------------------------------------------------- parts

_PAIR = ("productKey", "deviceKey")


def _chunked(body: bytes) -> bytes:
    half = len(body) // 2
    parts = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:half], body[half:]) if p)
    return parts + b"0\r\n\r\n"


def _code(x: Exchange, code: int) -> dict[str, Any]:
    return x.gateway.envelope(code, f"code {code}")


async def _wait(x: Exchange, status: int) -> bool:
    """A wait of seconds, sometimes as a date by the gateway's own clock."""
    said = str(_WAIT)
    shift = x.gateway.laws.date_shift
    if shift is not None and x.chance.random() < 0.3:
        said = formatdate(time.time() + shift + _WAIT + 1, usegmt=True)
    await x.say(status, {"message": "later"}, f"Retry-After: {said}")
    now = time.time()
    if x.call.kind != "token":  # the token service's waits are its own
        x.gateway.pauses.append((x.call.start, now, now + _WAIT))
    return True
