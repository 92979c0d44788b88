"""What the gateway writes: envelopes, searches, tokens, and every way in which they go wrong."""

from __future__ import annotations

import json
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

from tests.simulation.names import written
from tests.simulation.truth import Exchange, Thing, struct_of

if TYPE_CHECKING:
    from tests.simulation.fates import Fate
    from tests.simulation.gateway import Gateway

PAGE = 50
_JSON = "application/json; charset=utf-8"
_HTML = b"<html><head><title>Sign in</title></head><body>please sign in</body></html>"
_NO_DATA = ("null", "{}", '"none"', None)


class Writer:
    """Turns an exchange and its fate into status, headers and body."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def write(
        self, exchange: Exchange, fate: Fate, now: float
    ) -> tuple[int, dict[str, str], bytes]:
        gateway = self._gateway
        headers = {"date": imf_date(gateway.date_ms(now) // 1000), "content-type": _JSON}
        if fate.wait is not None:
            headers["retry-after"] = self._retry_after(fate, now)
        if fate.status // 100 == 3:
            headers["location"] = "http://elsewhere.example/steal"
        requestId = f"r{exchange.number}"
        if fate.body == "html":
            headers["content-type"] = "text/html"
            return fate.status, headers, _HTML
        if fate.body == "empty":
            return fate.status, headers, b""
        if fate.body == "garbage":
            return fate.status, headers, b'\xef\xbb\xbf{"code":0,"data":[]}\xff'
        if fate.body == "limit":
            return fate.status, headers, b'{"message":"no"}'
        if fate.body == "error":
            code = fate.code if fate.code is not None else 99500
            if exchange.kind == "token":
                return fate.status, headers, b'{"status":1005,"msg":"internal"}'
            told = f'{{"code":{code},"msg":"no","requestId":"{requestId}","data":null}}'
            return fate.status, headers, told.encode()
        if exchange.kind == "token":
            return 200, headers, b""
        if exchange.kind == "search":
            return 200, headers, self._search(exchange, requestId, now)
        return 200, headers, self._cancelled(exchange, fate, requestId)

    def _retry_after(self, fate: Fate, now: float) -> str:
        gateway = self._gateway
        if fate.wait == "junk":
            return ("soon", "-1", "0", "1.5", "\uff11\uff12")[int(now * 1000) % 5]
        if fate.wait == "huge":
            return "999999999999"
        seconds = 1 + int(now * 1000) % 12
        if fate.wait == "date":
            return imf_date(gateway.date_ms(now) // 1000 + seconds)
        return str(seconds)

    def _cancelled(self, exchange: Exchange, fate: Fate, requestId: str) -> bytes:
        thing = exchange.thing
        if fate.body == "null":
            data = _NO_DATA[exchange.number % 4]
            rest = "" if data is None else f',"data":{data}'
            return f'{{"code":0,"msg":"OK","requestId":"{requestId}"{rest}}}'.encode()
        structs: list[str] = []
        if thing is not None:
            whole = [c for c in thing.commands if c.commandId in exchange.executed]
            named, names = fate.body != "nameless", written(exchange.names)
            if exchange.about is not None and whole:
                thing, whole = exchange.about, exchange.about.commands
            structs = [thing.struct(c, 1, named=named, names=names) for c in whole]
            exchange.rows = len(structs)
            structs += self._oddities(exchange, fate, thing, structs)
            if fate.body == "numeric":
                structs = [_numeric(text, c.commandId) for text, c in zip(structs, whole)]  # noqa: B905
        told = f'{{"code":0,"msg":"OK","submsg":null,"requestId":"{requestId}","data":['
        return (told + ",".join(structs) + "]}").encode()

    def _oddities(
        self, exchange: Exchange, fate: Fate, thing: Thing, structs: list[str]
    ) -> list[str]:
        made = 8_000_000_000_000_000_000 + exchange.number
        if fate.body == "repeated":
            return structs[:1]
        if fate.body == "foreign":
            other = Thing(999, "p9", "stranger", "a-stranger")
            return [struct_of(other, str(made), 1_794_999_999_000, 1)]
        if fate.body == "other" and exchange.commandId is not None:
            return [struct_of(thing, str(made), 1_794_999_999_000, 1)]
        if fate.body == "bad_id":
            return [struct_of(thing, f"x{made}", 1_794_999_999_000, 1)]
        return []

    def _search(self, exchange: Exchange, requestId: str, now: float) -> bytes:
        thing = exchange.about or exchange.thing
        found = thing.shown(exchange.state, now) if thing else []
        if exchange.about is not None and not found:  # nothing of the stranger's to show
            exchange.names, thing = ("", "", ""), exchange.thing
            found = thing.shown(exchange.state, now) if thing else []
        found.sort(key=lambda c: (-c.created, c.commandId))
        lo = (exchange.page - 1) * PAGE
        names = written(exchange.names)
        shown = found[lo : lo + PAGE] if thing else []
        page = [thing.struct(c, exchange.state, names=names) for c in shown] if thing else []
        exchange.rows = len(page)
        return (
            f'{{"code":0,"msg":"OK","requestId":"{requestId}","data":[{",".join(page)}],'
            f'"pagination":{{"pageNo":{exchange.page},"pageSize":{PAGE},"totalSize":{len(found)}}}}}'
        ).encode()


def token_body(data: dict[str, object]) -> bytes:
    return json.dumps({"status": 0, "msg": "SUCCESS", "data": data}).encode()


@lru_cache(4096)
def imf_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def _numeric(struct: str, commandId: str) -> str:
    return struct.replace(f'"commandId":"{commandId}"', f'"commandId":{commandId}')
