"""A gateway of the harness's own: what a request means, whether it is allowed, what it does.

Written from the protocol's text and sharing no code with the worker: its reading of queries and
its check of signatures are a second opinion. It keeps a book of every request with what it really
executed. Nothing is executed by arriving: whoever answers decides that (faults.py).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from random import Random
from typing import Any
from urllib.parse import unquote_plus

from msgspec import Struct

from tests.system.stories.fleet import Command, Device, Effect, Fleet, Spelling

SECRET = "canary-story-secret-key"
TOKEN = "canary-story-token"
INPUT = "canary-story-input"  # in inputData: for the ledger and the restore report only
ORG = "o15541858646501"
_COMMANDS = "/connect-service/v2.1/commands"
_TOKEN_PATH = "/apim-token-service/v2.0/token/get"
_TOLERANCE = 300.0  # s that a timestamp may be from the gateway's clock


class Laws(Struct, frozen=True):
    """How this gateway is, faults aside."""

    date_shift: float | None = 0.0  # s that `Date` is ahead; None: no such header
    create_shift: float = 0.0  # s that createTime is ahead
    strict_time: bool = False  # timestamps are compared with the clock of `Date`
    token_life: float = 7200.0  # s
    life_as_text: bool = False
    same_token: bool = True  # a get within the life gives the same token again
    names: str = "all"  # all, asked, none, other, wrong, changing: what rows say of their device
    foreign_rows: bool = False  # searches by asset show another device's rows, named by pair only
    newcomers: float = 0.0  # share of arrivals with which somebody caches one more command
    others: float = 0.0  # … with which somebody else cancels one
    page_most: int = 100


class Call(Struct, eq=False):
    """A request as it was understood, and what became of it."""

    number: int
    kind: str  # token, cancel, search, other
    at: float  # when it was read
    start: int | None = None  # which start of the worker sent it; None: no valid token
    spelling: Spelling | None = None
    commandId: str | None = None
    orgId: str = ""
    stamp: float = 0.0  # s: the worker's clock when it signed
    problem: str | None = None
    denied: tuple[int, dict[str, Any]] | None = None  # the reply to a call that is not allowed
    effects: list[Effect] = []
    fault: str | None = None
    nth: int = 0  # of the calls of its kind for this device
    head: str = ""  # the request line

    @property
    def taken(self) -> set[str]:
        return {one for effect in self.effects for one in effect.taken}


class Request(Struct, frozen=True):
    """The bytes of one request, split."""

    method: str
    target: str  # path and query
    headers: dict[str, str]  # names in lower case
    body: bytes


class Token(Struct, eq=False):
    """A token that was given."""

    text: str
    start: int
    until: float
    valid: bool = True


class Gateway:
    """The gateway of one story."""

    def __init__(self, seed: int, fleet: Fleet, laws: Laws) -> None:
        self.fleet = fleet
        self.laws = laws
        self.calls: list[Call] = []
        self.counts: Counter[tuple[int | None, str]] = Counter()  # by start and kind
        self.wrong: list[str] = []  # what no gateway should ever see
        self.heard: Callable[[Call], None] = lambda call: None
        self.pauses: list[tuple[int | None, float, float]] = []  # whom, asked at, until
        self.refused_devices: set[Spelling] = set()  # 401 for these, always
        self._chance = Random(f"{seed} life")
        self._seed = seed
        self._tokens: dict[str, Token] = {}
        self._encryptions: set[str] = set()
        self._signatures: set[str] = set()
        self._seen: Counter[tuple[str, Spelling | None]] = Counter()
        self._made = 0

    @property
    def tokens(self) -> list[str]:
        return list(self._tokens)

    def forget_tokens(self) -> None:
        """Every token given so far is void."""
        for token in self._tokens.values():
            token.valid = False

    # ------------------------------------------------------------ a request arrives

    def arrive(self, request: Request, *, longest: float) -> Call:
        """Read it into the book. What is older than `longest` s is denied: nobody waits for it."""
        now = time.time()
        self.fleet.settle(now)
        call = self._read(request, now)
        self._seen[call.kind, call.spelling] += 1
        call.nth = self._seen[call.kind, call.spelling]
        self.calls.append(call)
        if call.kind in ("cancel", "search"):
            call.denied = self._check(request, call, now, longest)
        self.counts[call.start, call.kind] += 1
        self._live(call, now)
        self.heard(call)
        return call

    def _read(self, request: Request, now: float) -> Call:
        path, _, query = request.target.partition("?")
        call = Call(len(self.calls), "other", now, head=f"{request.method} {request.target}")
        if request.method != "POST":
            call.problem = "not a POST"
            return call
        if path == _TOKEN_PATH and not query:
            call.kind = "token"
            call.start = _start_of(request.body)
            return call
        pairs = _pairs(query)
        given = dict(pairs)
        kind = given.get("action", "")
        if path != _COMMANDS or kind not in ("cancel", "search"):
            call.problem = "no such route"
            return call
        call.kind = kind
        call.orgId = given.get("orgId", "")
        call.commandId = given.get("commandId")
        call.spelling = _spelling(given)
        known = {"action", "orgId", "assetId", "productKey", "deviceKey"}
        known |= {"commandId"} if kind == "cancel" else set()
        if len(given) != len(pairs) or not all(given.values()) or given.keys() - known:
            call.problem = "doubled, empty or unknown parameters"
        elif call.spelling is None or not call.orgId:
            call.problem = "no device or no organization"
        return call

    def _check(
        self, request: Request, call: Call, now: float, longest: float
    ) -> tuple[int, dict[str, Any]] | None:
        """Token, signature, age, parameters, device: the first that does not hold."""
        headers = request.headers
        token = self._tokens.get(headers.get("apim-accesstoken", ""))
        stamp = headers.get("apim-timestamp", "")
        if token is not None:
            call.start = token.start
        call.stamp = int(stamp) / 1000 if stamp.isascii() and stamp.isdigit() else 0.0
        signature = headers.get("apim-signature", "")
        if signature in self._signatures:
            self.wrong.append(f"a signature was used twice: {call.head}")
        self._signatures.add(signature)
        if token is not None and signature != _signature(request, token.text, stamp):
            self.wrong.append(f"a signature does not fit: {call.head}")
            return 401, self.envelope(401, "signature")
        if token is None or not token.valid or token.until < now:
            return 401, self.envelope(401, "token expired or invalid")
        if call.spelling in self.refused_devices:
            return 401, self.envelope(401, "not with this token")
        ahead = self.laws.date_shift or 0.0
        if self.laws.strict_time and abs(now + ahead - call.stamp) > _TOLERANCE:
            return 401, self.envelope(401, "timestamp")
        if now - call.stamp > longest:
            call.problem = "late"  # never executed: its sender has given up
            return 408, self.envelope(408, "late")
        if call.problem is not None:
            self.wrong.append(f"{call.problem}: {call.head}")
            return 200, self.envelope(99400, call.problem)
        if call.orgId != ORG:
            self.wrong.append(f"another organization: {call.head}")
            return 200, self.envelope(99400, "orgId")
        assert call.spelling is not None
        if self.fleet.find(call.spelling) is None:
            code = 99404 if call.number % 2 else 11404
            return 200, self.envelope(code, "no such device")
        return None

    def _live(self, call: Call, now: float) -> None:
        """What others do meanwhile."""
        device = self.fleet.find(call.spelling) if call.spelling else None
        if device is None:
            return
        cached = self.fleet.cached(device)
        if self._chance.random() < self.laws.newcomers and len(cached) < 45:
            self._made += 1
            commandId = str(7_000_000_000_000_000_000 + self._seed % 10**6 * 10**6 + self._made)
            states = [(now, 1)]
            self.fleet.cache(device, Command(commandId, now, 3600, {"v": INPUT}, states))
        if cached and self._chance.random() < self.laws.others:
            self._chance.choice(cached).states.append((now, 2))

    # ------------------------------------------------------------ what it does

    def execute(self, call: Call, *, after: float = 0.0, share: float = 1.0) -> list[Command]:
        """Do what a cancel asks, now or `after` s; the commands that it took, as they were."""
        device = self.fleet.find(call.spelling) if call.spelling else None
        if call.kind != "cancel" or call.denied is not None or device is None:
            return []
        now = time.time()
        effect = Effect(now + after, now, device, call.commandId, share, [])
        call.effects.append(effect)
        self.fleet.happen(effect)
        self.fleet.settle(time.time())
        return [c for c in device.commands if c.commandId in effect.taken]

    def reply(self, call: Call, request: Request) -> tuple[int, dict[str, Any]]:
        """Execute the call; status and envelope of the honest reply."""
        if call.kind == "token":
            return self._token(request)
        if call.denied is not None:
            return call.denied
        if call.kind == "cancel":
            return 200, self.cancelled(call, self.execute(call))
        if call.kind == "search":
            return self._search(call, request)
        return 404, self.envelope(404, "no such route")

    def cancelled(self, call: Call, commands: list[Command]) -> dict[str, Any]:
        """The reply to a cancel that took these."""
        return self.envelope(0, "Success") | {"data": [self.show(c, call, 1) for c in commands]}

    def _search(self, call: Call, request: Request) -> tuple[int, dict[str, Any]]:
        device = self.fleet.find(call.spelling) if call.spelling else None
        asked = _asked(request.body)
        if asked is None or device is None:
            self.wrong.append(f"a search that cannot be read: {request.body[:200]!r}")
            return 200, self.envelope(99400, "expression")
        state, page, size = asked
        size = min(size, self.laws.page_most)
        if self.laws.foreign_rows and call.spelling and call.spelling.assetId:
            device = self.fleet.devices[(device.number + 1) % len(self.fleet.devices)]
        found = self.fleet.search(device, state, time.time())
        found.sort(key=lambda c: (-c.cached_at, c.commandId))
        rows = found[(page - 1) * size : page * size]
        envelope = self.envelope(0, "OK")
        envelope["data"] = [self.show(c, call, state) for c in rows]
        envelope["pagination"] = {"pageNo": page, "pageSize": size, "totalSize": len(found)}
        return 200, envelope

    def show(self, command: Command, call: Call, state: int) -> dict[str, Any]:
        """A command as replies describe it."""
        device = self.fleet.owner(command.commandId)
        assert device is not None
        chance = Random(f"{self._seed} {command.commandId}")
        created = round((command.cached_at + self.laws.create_shift) * 1000)
        shown: dict[str, Any] = {"commandId": command.commandId, "orgId": ORG}
        shown |= self._names(device, call)
        shown |= {
            "createTime": created if chance.random() < 0.8 else str(created),
            "createLocalTime": created,
            "commandType": chance.randint(1, 2),
            "commandName": {"defaultValue": "reboot", "i18nValue": {"en_US": "reboot"}},
            "timeout": 30,
            "pendingTtl": command.ttl,
            "state": state,
            "tslIdentifier": chance.choice(("reboot", "Int_value", "设置")),
            "inputData": command.input,
        }
        return shown

    def _names(self, device: Device, call: Call) -> dict[str, str]:
        asset = {"assetId": device.assetId}
        pair = {"productKey": device.productKey, "deviceKey": device.deviceKey}
        by_asset = call.spelling is not None and bool(call.spelling.assetId)
        if self.laws.foreign_rows and call.kind == "search" and by_asset:
            return pair
        match self.laws.names:
            case "asked":
                return asset if by_asset else pair
            case "none":
                return {}
            case "other":
                return pair if by_asset else asset
            case "wrong" | "changing" if by_asset:
                step = 1 + (call.number if self.laws.names == "changing" else 0)
                wrong = self.fleet.devices[(device.number + step) % len(self.fleet.devices)]
                return asset | {"productKey": wrong.productKey, "deviceKey": wrong.deviceKey}
        return asset | pair

    def _token(self, request: Request) -> tuple[int, dict[str, Any]]:
        try:
            asked = json.loads(request.body)
            key, stamp, encryption = asked["appKey"], asked["timestamp"], asked["encryption"]
        except (ValueError, KeyError, TypeError):
            self.wrong.append(f"a token request that cannot be read: {request.body[:80]!r}")
            return 200, {"status": 1004, "msg": "parameter", "data": None}
        if encryption in self._encryptions:
            self.wrong.append("an encryption was used twice")
            return 200, {"status": 1001, "msg": "repeated", "data": None}
        self._encryptions.add(encryption)
        if encryption != hashlib.sha256(f"{key}{stamp}{SECRET}".encode()).hexdigest():
            self.wrong.append("an encryption does not fit")
            return 200, {"status": 1003, "msg": "encryption", "data": None}
        token = self._given(int(str(key).rpartition("-")[2]))
        expire: Any = max(1, int(token.until - time.time() + 0.5))
        data = {
            "accessToken": token.text,
            "expire": str(expire) if self.laws.life_as_text else expire,
        }
        return 200, {"status": 0, "msg": "SUCCESS", "business": "1", "data": data}

    def _given(self, start: int) -> Token:
        now = time.time()
        for token in reversed(list(self._tokens.values())):
            good = token.start == start and token.valid and token.until > now + 0.5
            if good and self.laws.same_token:
                return token
        text = f"{TOKEN}-{self._seed}-{start}-{len(self._tokens)}"
        self._tokens[text] = Token(text, start, now + self.laws.token_life)
        return self._tokens[text]

    # ------------------------------------------------------------ what replies are made of

    def envelope(self, code: int, msg: str) -> dict[str, Any]:
        number = f"req-{self._seed}-{len(self.calls)}"
        return {"code": code, "msg": msg, "submsg": None, "requestId": number, "data": None}

    def date(self) -> list[str]:
        """The Date header, if this gateway has one."""
        if self.laws.date_shift is None:
            return []
        return [f"Date: {formatdate(time.time() + self.laws.date_shift, usegmt=True)}"]


def _start_of(body: bytes) -> int | None:
    """Each start of the worker has an access key of its own, so that its tokens are its own."""
    found = re.search(rb'"appKey"\s*:\s*"story-([0-9]+)"', body)
    return int(found[1]) if found else None


def _pairs(query: str) -> list[tuple[str, str]]:
    pairs = [part.partition("=") for part in query.split("&") if part]
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]


def _spelling(given: dict[str, str]) -> Spelling | None:
    names = {name for name in ("assetId", "productKey", "deviceKey") if name in given}
    if names in ({"assetId"}, {"productKey", "deviceKey"}):
        return Spelling(*(given.get(name, "") for name in Spelling._fields))
    return None


def _signature(request: Request, token: str, stamp: str) -> str:
    pairs = sorted(_pairs(request.target.partition("?")[2]))
    joined = "".join(name + value for name, value in pairs)
    signed = token.encode() + joined.encode() + request.body + (stamp + SECRET).encode()
    return hashlib.sha256(signed).hexdigest()


def _asked(body: bytes) -> tuple[int, int, int] | None:
    """State, page and size of a search."""
    try:
        asked = json.loads(body)
        state = re.fullmatch(r"state = ([0-9])", asked["expression"])
        page, size = asked["pagination"]["pageNo"], asked["pagination"]["pageSize"]
    except (ValueError, KeyError, TypeError):
        return None
    return (int(state[1]), int(page), int(size)) if state else None
