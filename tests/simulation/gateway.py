"""The gateway of a world: it keeps the truth, and answers as the weather lets it.

It is asked in steps by whatever carries requests: `open` reads one, `arrive` lets it in, `reply`
says what comes back, `abandon` hears that the client gave up. Effects, and what other people do,
wait in a heap and happen, in order of time, before anything is looked at.
"""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Callable
from hashlib import sha256
from itertools import count
from math import inf
from random import Random
from typing import Any
from urllib.parse import parse_qsl

from tests.simulation import fates
from tests.simulation.answers import Writer
from tests.simulation.clock import WALL_MS
from tests.simulation.fates import Fate
from tests.simulation.names import Names, strangers
from tests.simulation.setup import Setup
from tests.simulation.span import Span
from tests.simulation.truth import CACHED, CANCELLED, RELEASED, Cached, Exchange, Key, Thing
from tests.simulation.unrest import Unrest

ACCESS_KEY, SECRET_KEY = "ak-canary-", "sk-canary-5b1e"
TOKEN = "tok-canary-"
PAGE = 50


class Gateway:
    """The other side; one for a world."""

    def __init__(self, setup: Setup, span: Span, things: list[Thing], chance: Random) -> None:
        self._setup = setup
        self._span = span
        self._chance = chance
        self.things = things
        others = strangers(setup)
        known = (*things, *others)
        self.by_key = {key: thing for thing in known for key in (thing.by_keys, thing.by_asset)}
        self._names = Names(setup, others, Random(f"{setup.seed} names of replies"))
        self._later: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._numbers = count(1)
        self._tokens: dict[int, tuple[str, float]] = {}
        self._known: dict[str, tuple[int, float]] = {}  # token -> worker, issued at
        self._given: dict[int, str] = {}  # worker -> text of its last token
        self._stamps: set[str] = set()
        self._signatures: set[str] = set()
        self._recent: list[float] = []
        self.exchanges: list[Exchange] = []
        self.open_ones: list[Exchange] = []
        self.taken: dict[tuple[int, Key], set[str]] = defaultdict(set)  # by run and spelled device
        self.arrived: Callable[[Exchange], None] = lambda exchange: None
        self.answered: Callable[..., None] = lambda *said: None
        self.begun: Callable[[Exchange], None] = lambda exchange: None
        self.note: Callable[..., None] = lambda *said: None
        self.wrong: Callable[[int, str], None] = lambda number, said: None
        self._writer = Writer(self)
        self._unrest = setup.unrest or Unrest()
        self._delays = Random(f"{setup.seed} tokens late")
        for at in (*setup.token_revoked, *self._unrest.deaths):
            self.later(at, self._revoke)

    # ---------------------------------------------------------------- time

    def later(self, at: float, what: Callable[[float], None]) -> None:
        """Something that happens at a moment of true time."""
        heapq.heappush(self._later, (at, next(self._order), what))

    def advance(self) -> float:
        """Let everything happen that is due; the moment it is now."""
        now = self._span.now()
        while self._later and self._later[0][0] <= now:
            at, _, what = heapq.heappop(self._later)
            what(at)
        return now

    def now_ms(self, at: float) -> int:
        """The gateway's clock, which signatures are held against."""
        return WALL_MS + self._setup.skew_ms + int(at * 1000)

    def date_ms(self, at: float) -> int:
        """The clock that writes the Date of a reply."""
        return self.now_ms(at) + self._setup.date_off

    def created_ms(self, at: float) -> int:
        """The clock that writes createTime."""
        return self.now_ms(at) + self._setup.created_off

    def lag(self) -> float:
        return self._setup.lag * self._chance.random()

    # ---------------------------------------------------------------- one request

    def open(
        self,
        worker: int,
        run: int,
        target: str,
        headers: Any,
        body: bytes,
        started: float | None = None,
    ) -> Exchange:
        """Read a request; nothing happens yet. started: when it was asked for, loop time."""
        now = self.advance()
        path, _, query = target.partition("#")[0].partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        said = dict(pairs)
        kind = said.get("action", "token") if path.startswith("/connect") else "token"
        exchange = Exchange(next(self._numbers), worker, run, kind, begun=now, executed=[])
        if kind != "token":
            key: Key = (
                (said["assetId"],)
                if "assetId" in said
                else (said.get("productKey", ""), said.get("deviceKey", ""))
            )
            exchange.key, exchange.thing = key, self.by_key.get(key)
            exchange.commandId = said.get("commandId")
            if kind == "search":
                asked = json.loads(body)
                exchange.state = int(asked["expression"].rpartition("=")[2])
                exchange.page = int(asked["pagination"]["pageNo"])
            exchange.token = self._signed(pairs, headers, body, exchange)
        exchange.begun_loop = now - self._span.slept if started is None else started
        self.exchanges.append(exchange)
        self.open_ones.append(exchange)
        self.begun(exchange)
        return exchange

    def fate(self, exchange: Exchange, *, connected: bool = False) -> Fate:
        """What will become of it, if it gets as far as that; connected: it has a way already."""
        setup, now = self._setup, exchange.begun
        if setup.tls_from is not None and now >= setup.tls_from and not connected:
            return fates.TLS
        table = exchange.kind
        fate = setup.weather.draw(table, self._chance)
        outage = setup.outage
        struck = table == "cancel" or (table == "search" and outage is not None and outage[3])
        if outage and struck and outage[0] <= now < outage[1]:
            fate = fates.WIRE[outage[2]]
        thing = exchange.thing
        cursed = table == "cancel" and thing is not None and fate.before is None
        if cursed and thing and thing.curse and self._chance.random() < 0.9:
            fate = fates.CURSES[thing.curse]
        if fate.before and connected:
            return fates.OK
        return fate

    def begin(self, exchange: Exchange, fate: Fate, deadline: float) -> None:
        """Fix the moments of an exchange whose way is clear; deadline in true time."""
        exchange.fate = fate
        chance, now = self._chance, self._span.now()
        exchange.arrives = now + chance.uniform(0.001, 0.02)
        takes = chance.uniform(0.005, 0.1) if chance.random() < 0.8 else chance.uniform(0.1, 1.5)
        if fate.name == "slow":
            takes = chance.uniform(0.5, 4.0)
        if exchange.kind == "cancel" and self._delays.random() < self._unrest.late:
            takes += self._delays.uniform(0.1, 4.0)
        exchange.replies = exchange.arrives + takes
        if fate.ending in ("hang", "drip"):
            exchange.replies = inf
        self._name(exchange, fate)
        if exchange.kind != "cancel" or chance.random() >= fate.executes:
            return
        known = min(exchange.replies, deadline)  # when the client will know, or give up
        latest = known if fate.proof == "OK" else known + self._setup.late
        if fate.ending in ("truncate", "drip"):
            latest = min(exchange.arrives + takes, deadline)  # what was told had been done
        exchange.effect = chance.uniform(exchange.arrives, latest)
        exchange.limit = known + self._setup.lookup.wait * self._setup.lookup.tries
        if fate.proof != "OK" and exchange.commandId is None and chance.random() < 0.1:
            exchange.portion = 0.5

    def arrive(self, exchange: Exchange, fate: Fate) -> Fate:
        """It is read by the gateway, which may turn it down at the door."""
        now = self.advance()
        exchange.arrived = True
        self.arrived(exchange)
        if exchange.kind == "token":
            return fate
        door = self._door(exchange, now)
        if door is not None:
            fate, exchange.effect = door, None
            exchange.replies = min(exchange.replies, now + 0.02)
            self._name(exchange, fate)
        if exchange.effect is not None:
            self._plan(exchange, max(exchange.effect, now))
        return fate

    def reply(self, exchange: Exchange, fate: Fate) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and whole body, as they are now."""
        now = self.advance()
        if fate.anomaly:
            exchange.anomaly = True
        if fate.body == "answer" and exchange.kind != "token":
            self._names.choose(exchange)
        status, headers, body = self._writer.write(exchange, fate, now)
        if exchange.rows and exchange.proof == "OK" and self._names.without(exchange):
            self._name(exchange, fates.OTHER_SPELLING)
        self.sharp(exchange)
        return status, headers, body

    def abandon(self, exchange: Exchange) -> None:
        """The client gave up, or died: what is not done yet is done soon, or never."""
        now = self.advance()
        exchange.ended = now
        if not exchange.arrived and exchange.fate is not None and self._chance.random() < 0.5:
            self.arrive(exchange, exchange.fate)
        if not exchange.arrived:
            exchange.effect = None
        if exchange.effect is not None:
            latest = now + self._setup.late
            if exchange.effect > latest:
                wanted = self._chance.random() < 0.5
                exchange.effect = None
                if wanted:
                    self._plan(exchange, self._chance.uniform(now, latest))
        exchange.limit = now + self._setup.lookup.wait * self._setup.lookup.tries

    def over(self, exchange: Exchange, proof: str, fault: str | None = None) -> None:
        """The client has what it gets."""
        exchange.ended, exchange.proof = self._span.now(), proof
        exchange.fault = fault or exchange.fault
        self.open_ones.remove(exchange)

    # ---------------------------------------------------------------- what happens

    def _plan(self, exchange: Exchange, at: float) -> None:
        """It is executed at that moment, unless another one is planned until then."""
        exchange.effect = at

        def due(now: float) -> None:
            if exchange.effect == at:
                self._execute(exchange, now)

        self.later(at, due)

    def _execute(self, exchange: Exchange, at: float) -> None:
        """Cancel; only what the device had when the request was sent, if the client gave up."""
        exchange.effect = None
        thing = exchange.thing
        if thing is None:
            return
        chosen = thing.cached()
        if exchange.commandId is not None:
            chosen = [c for c in chosen if c.commandId == exchange.commandId]
        if exchange.ended is not None and at > exchange.ended:
            chosen = [c for c in chosen if c.created <= exchange.begun]
        if exchange.portion < 1.0:
            if self._setup.hoard:  # the first page of a search, if it is seen meanwhile
                chosen.sort(key=lambda command: -command.created)
            chosen = chosen[: (len(chosen) + 1) // 2]
        for command in chosen:
            command.change(CANCELLED, at, self.lag())
            exchange.executed.append(command.commandId)
        ids = tuple(exchange.executed)
        self.taken[exchange.run, exchange.key].update(ids)
        self.note("executed", exchange.number, ids)

    def _perhaps_released(self, thing: Thing) -> None:
        if self._chance.random() < 0.5:
            for _ in range(len(thing.cached())):
                self.take_away(thing, self._span.now(), RELEASED)

    def sharp(self, search: Exchange) -> None:
        """The worst moment for a look-up: what was pending happens right behind a search."""
        thing = search.thing
        if search.state == CANCELLED and thing is not None and self._seen_undone(search):
            self._perhaps_released(thing)  # and before it is called again
        if search.kind != "search" or self._chance.random() >= 0.3:
            return
        now = self._span.now()
        for exchange in self.exchanges:
            planned = exchange.effect
            if planned is None or exchange.thing is not search.thing or planned <= now:
                continue
            if exchange.ended is None or not exchange.arrived:
                continue
            if search.state == CACHED or now < exchange.limit - 0.001:
                self._execute(exchange, now)
                for command in search.thing.commands if search.thing else ():
                    if command.commandId in exchange.executed:
                        command.visible = max(now, command.shown)

    def _seen_undone(self, search: Exchange) -> bool:
        """Whether this is the last try of a look-up that shows a call not executed."""
        now = self._span.now()
        return any(
            e.thing is search.thing and e.kind == "cancel" and e.limit <= now and not e.executed
            for e in self.exchanges[-60:]
            if e.ended is not None and e.proof == "AM"
        )

    def cache(self, thing: Thing, commandId: str, at: float) -> None:
        """Somebody caches a command, unless the device's cache is full."""
        if len(thing.cached()) < PAGE:
            created = Cached(commandId, at, self.created_ms(at), at + self.lag())
            thing.commands.append(created)
            self.note("cached", thing.index, commandId)

    def take_away(self, thing: Thing, at: float, state: int) -> None:
        """Somebody else cancels the oldest command, or it is sent to the device."""
        for command in thing.cached()[:1]:
            command.change(state, at, self.lag())
            said = "cancelled by others" if state == CANCELLED else "gone"
            self.note(said, thing.index, command.commandId)

    # ---------------------------------------------------------------- at the door

    def _revoke(self, _: float) -> None:
        """Every token is void."""
        self._tokens.clear()
        self._known.clear()

    def _signed(self, pairs: Any, headers: Any, body: bytes, exchange: Exchange) -> str:
        """Check the signature on our own; a wrong or repeated one is a defect of the worker."""
        token, stamp = headers["apim-accesstoken"], headers["apim-timestamp"]
        joined = "".join(name + value for name, value in sorted(pairs))
        said = f"{token}{joined}".encode() + body + f"{stamp}{SECRET_KEY}".encode()
        signature = sha256(said).hexdigest()
        if signature != headers["apim-signature"]:
            self.wrong(0, f"request {exchange.number} carries a wrong signature")
        if signature in self._signatures:
            self.wrong(0, f"request {exchange.number} repeats a signature")
        self._signatures.add(signature)
        exchange.stamp = int(stamp)
        return str(token)

    def _door(self, exchange: Exchange, now: float) -> Fate | None:
        setup = self._setup
        if setup.auth_from is not None and now >= setup.auth_from:
            return fates.REVOKED
        known = self._known.get(exchange.token)
        if known is None:
            return fates.REVOKED
        if self._tokens.get(known[0], ("", 0.0))[0] != exchange.token or now >= known[1]:
            return fates.EXPIRED
        if self._unrest.bars(exchange, now):
            return fates.BARRED_CODE if self._unrest.as_code else fates.BARRED
        apart = abs(exchange.stamp - self.now_ms(now))
        if setup.tolerance_ms is not None and apart > setup.tolerance_ms:
            return fates.SKEWED
        if setup.limit_per_second is not None:
            self._recent = [at for at in self._recent if at > now - 1.0]
            if len(self._recent) >= setup.limit_per_second:
                return fates.LIMITED
            self._recent.append(now)
        return None

    def token(self, exchange: Exchange, body: bytes) -> dict[str, object]:
        """The token service's answer."""
        asked = json.loads(body)
        now, stamp = self._span.now(), asked["timestamp"]
        proof = sha256(f"{asked['appKey']}{stamp}{SECRET_KEY}".encode()).hexdigest()
        if proof != asked["encryption"]:
            self.wrong(0, f"token request {exchange.number} carries a wrong proof")
        if proof in self._stamps:
            self.wrong(0, f"token request {exchange.number} repeats its timestamp")
        self._stamps.add(proof)
        text, ends = self._tokens.get(exchange.worker, ("", -1.0))
        if now >= ends - 1.0 or text not in self._known:
            again = self._given.get(exchange.worker) if self._unrest.same_text else None
            text, ends = again or f"{TOKEN}{exchange.number}", now + self._setup.token_life
            self._given[exchange.worker] = text
            self._tokens[exchange.worker] = (text, ends)
            self._known[text] = (exchange.worker, ends)
        exchange.token, exchange.life = text, int(ends - now)
        return {"accessToken": text, "expire": exchange.life}

    @staticmethod
    def _name(exchange: Exchange, fate: Fate) -> None:
        exchange.fault, exchange.row, exchange.proof = fate.name, fate.row, fate.proof
