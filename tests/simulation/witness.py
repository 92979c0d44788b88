"""What is checked while it happens: each request against what is durable, allowed and due then."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from math import ceil
from typing import TYPE_CHECKING, Any

from tests.simulation.distrust import Distrust
from tests.simulation.rests import Rests
from tests.simulation.truth import CACHED, Exchange, Key

if TYPE_CHECKING:
    from tests.simulation.process import Start
    from tests.simulation.world import World

EPS = 1e-6


class Witness:
    """Sees every request of a world; one for all its processes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.paused_until: dict[int, tuple[float, float]] = {}  # by start: heard, until; loop time
        self.must_stop: list[tuple[int, float, str]] = []  # start, loop time, rule
        # Calls in doubt, each since when, and look-ups, by run and device as spelled.
        self.doubtful: dict[tuple[int, Key], dict[str | None, float]] = defaultdict(dict)
        self._seen_cached: dict[tuple[int, Key], float] = {}
        self.looked_up: dict[tuple[int, Key], float] = {}  # a whole look-up, begun then
        self.attempts: Counter[tuple[int, int, Key, str | None]] = Counter()  # start, pass, call
        self._turned_down: set[tuple[int, int, Key, str | None]] = set()
        self.look_ups: Counter[tuple[int, Key]] = Counter()
        self.unsure: Counter[tuple[int, Key]] = Counter()  # attempts that need a look-up
        self.inherited: Counter[Key] = Counter()  # doubts from earlier processes
        self.calls: Counter[int] = Counter()  # cancels by start, repeats of a token included
        self.rows: Counter[int] = Counter()  # of the matrix, how often each occurred
        self.distrust = Distrust(world)  # of tokens
        self.rests = Rests(world)  # between processes
        self.begun: dict[int, list[float]] = defaultdict(list)  # by start, loop time

    # ---------------------------------------------------------------- a request begins

    def begins(self, start: Start, exchange: Exchange) -> None:
        world, wrong = self._world, self._world.wrong
        now = exchange.begun_loop
        name = f"request {exchange.number} ({exchange.kind})"
        goes_out = world.span.now() - world.span.slept  # a connection may have to be made first
        if start.stopped_loop is not None and goes_out > start.stopped_loop + EPS:
            wrong(10, f"{name} begins after the stop")
        if start.deadline_loop is not None and now >= start.deadline_loop - 1e-9:
            wrong(10, f"{name} begins after the deadline")
        self.distrust.begins(start, exchange)
        self.rests.begins(start, exchange)
        if exchange.kind == "token":
            return
        dialled_ms = ceil((goes_out - now) * 1000 - EPS)  # asked for so long ago
        if start.until_ms is not None and world.span.wall_ms() - dialled_ms >= start.until_ms:
            wrong(10, f"{name} begins outside the window")
        heard, until = self.paused_until.get(start.number, (0.0, 0.0))
        if heard < now < until - EPS:
            wrong(10, f"{name} begins before Retry-After has passed")
        self.begun[start.number].append(now)
        mine = [e for e in world.gateway.open_ones if e.worker == start.worker]
        flying = [e for e in mine if e.kind != "token"]
        if len(flying) > world.setup.concurrency:
            wrong(9, f"{len(flying)} requests are in flight")
        if sum(e.key == exchange.key for e in flying) > 1:
            wrong(9, f"two requests are in flight for {exchange.key}")
        if exchange.kind == "search" and self._verified_at_once(start, exchange, flying):
            wrong(9, f"{name} is in flight beside one for the device's other spelling")
        if exchange.key not in start.listing.ordinals:
            wrong(1, f"{name} is for {exchange.key}, which is not in the job")
        if exchange.kind == "search":
            return
        self._cancel_begins(start, exchange, name)

    def _verified_at_once(self, start: Start, search: Exchange, flying: list[Exchange]) -> bool:
        """Whether a verification searches two spellings of a device that replies named in full."""
        ordinals, settled = start.listing.ordinals, {o.target.ordinal for o in start.settled}
        named = self._world.setup.names == "" and any(
            e.thing is search.thing and e.run == start.run and e.begun >= start.began
            for e in self._world.gateway.exchanges
            if e.kind == "cancel" and e.proof == "OK" and e.delivered and e.fault != "nameless"
        )
        return named and any(
            e.thing is search.thing
            and e.key != search.key
            and {ordinals.get(e.key), ordinals.get(search.key)} <= settled
            for e in flying
        )

    def _cancel_begins(self, start: Start, exchange: Exchange, name: str) -> None:
        world, wrong, place = self._world, self._world.wrong, (start.run, exchange.key)
        ordinal = start.listing.ordinals.get(exchange.key)
        self._stray(start, exchange, name)
        start.opened.add(ordinal or 0)
        if ordinal not in start.asked:
            wrong(1, f"{name} is for target {ordinal}, which was not asked for")
        few = max(20, world.setup.concurrency)
        if not start.succeeded and len(start.opened - start.closed) > few:
            wrong(9, f"{name} begins one more target before the first success")
        if ordinal in start.terminal:
            wrong(12, f"{name} is for target {ordinal}, which was done before")
        since = self.doubtful[place].get(exchange.commandId)
        if since is not None and self.looked_up.get(place, -1.0) < since:
            wrong(12, f"{name} is sent blindly: target {ordinal} is in doubt")
        ledger = world.ledgers[start.worker]
        exchange.pass_no = ledger.claimed(start.run % 100).get(ordinal or 0, 0)
        self.calls[start.number] += 1

    def _stray(self, start: Start, exchange: Exchange, name: str) -> None:
        wrong, setup, listing = self._world.wrong, self._world.setup, start.listing
        if exchange.key not in listing.ordinals or exchange.thing is None:
            return
        if listing.scope == "listed":
            if exchange.commandId not in listing.calls(exchange.key):
                wrong(1, f"{name} is for command {exchange.commandId}, which is not listed")
        elif setup.by_id:
            found = exchange.commandId and exchange.thing.find(exchange.commandId)
            if not found:
                wrong(1, f"{name} is for command {exchange.commandId}, which no search showed")
        elif exchange.commandId is not None:
            wrong(1, f"{name} names a command in a job that names none")

    # ---------------------------------------------------------------- it arrives

    def arrives(self, start: Start, exchange: Exchange) -> None:
        """The intent must be durable now."""
        if exchange.kind != "cancel":
            return
        world = self._world
        ordinal = start.listing.ordinals.get(exchange.key)
        claimed = world.ledgers[start.worker].claimed(start.run % 100)
        if ordinal not in claimed:
            world.wrong(6, f"request {exchange.number} arrives, its intent is not durable")

    # ---------------------------------------------------------------- it ends

    def ends(self, start: Start, exchange: Exchange, status: int, headers: dict[str, str]) -> None:
        """The client has all of the reply that it gets; status 0: none."""
        now, place = self._world.span.now(), (start.run, exchange.key)
        limit = start.stopped_loop
        loop = self._world.span.loop
        if limit is not None and loop and loop.now > limit + self._world.setup.drain + EPS:
            self._world.wrong(10, f"request {exchange.number} outlives the drain")
        if exchange.row:
            self.rows[exchange.row] += 1
        self.distrust.ends(start, exchange)
        if exchange.kind == "token":
            return
        if exchange.fate is not None and exchange.fate.stops and exchange.proof != "TK":
            self._stops(start, exchange)
        if status in (429, 503):
            self._pauses(start, headers)
        if exchange.kind == "search":
            if exchange.proof != "TK" and exchange.state != CACHED and exchange.page == 1:
                self.look_ups[start.number, exchange.key] += 1
            if exchange.proof == "OK" and exchange.page == 1:
                if exchange.state == CACHED:
                    self._seen_cached[place] = exchange.begun
                elif place in self._seen_cached:
                    self.looked_up[place] = self._seen_cached.pop(place)
            return
        self._cancel_ends(start, exchange, now)

    def _cancel_ends(self, start: Start, exchange: Exchange, now: float) -> None:
        place = (start.run, exchange.key)
        call = (start.number, exchange.pass_no, exchange.key, exchange.commandId)
        if exchange.proof == "TK":
            if call in self._turned_down:  # the first one of a call is no attempt
                self.attempts[call] += 1
            self._turned_down.add(call)
            return
        self.attempts[call] += 1
        since = self.doubtful[place].get(exchange.commandId)
        tainted = since is not None
        if since is not None and self._world.setup.by_id:  # a call that is made anew is not
            tainted = self.looked_up.get(place, -1.0) < since
        if exchange.proof == "AM" or (tainted and exchange.proof == "OK"):
            if exchange.proof == "OK":
                self.rows[77 if exchange.executed else 76] += 1
            self.doubtful[place][exchange.commandId] = now
            self.unsure[start.number, exchange.key] += 1
        elif exchange.proof == "OK" and not exchange.executed:
            self.rows[75 if exchange.commandId is None else 79] += 1

    def resumed(self, run: int, keys: set[Key]) -> None:
        """A run goes on: of what it did before, only these devices are in doubt."""
        for place in list(self.doubtful):
            if place[0] == run and place[1] not in keys:
                del self.doubtful[place]

    def in_doubt(self, start: Start, keys: Iterable[Key], now: float) -> None:
        """A crash of this run, or another run, left these in doubt."""
        for key in keys:
            place = (start.run, key)
            recorded = self._world.recorded(start, key)
            for commandId in start.listing.calls(key):
                if commandId not in recorded:
                    self.doubtful[place][commandId] = now
            self.inherited[key] += 1
            for commandId in list(self.doubtful[place]):
                self.doubtful[place][commandId] = now

    # ---------------------------------------------------------------- what it means for all

    def _stops(self, start: Start, exchange: Exchange) -> None:
        rule = exchange.fate.stops if exchange.fate else None
        if exchange.fault == "other_command" and exchange.commandId is None:
            return
        if exchange.fault == "request_timeout":
            return  # the reply that was drawn came too late to be read
        if rule is not None and exchange.proof in ("OK", "AM", "NS"):
            self.must_stop_now(start, rule)

    def _pauses(self, start: Start, headers: dict[str, str]) -> None:
        seconds = retry_after(headers)
        loop, world = self._world.span.loop, self._world
        if seconds is None or loop is None:
            return
        self.rests.heard(start, seconds)
        until = start.until_ms
        passes = start.deadline_loop is not None and loop.now + seconds >= start.deadline_loop
        passes |= until is not None and world.span.wall_ms() + seconds * 1000 >= until
        if seconds > world.setup.retry.retry_after_max:
            self.must_stop_now(start, "retry_after")
            self.rows[27] += 1
        elif passes:
            self.must_stop_now(start, "deadline or window")
        else:
            _, paused = self.paused_until.get(start.number, (0.0, 0.0))
            if loop.now + seconds > paused:
                self.paused_until[start.number] = (loop.now, loop.now + seconds)

    def must_stop_now(self, start: Start, rule: str) -> None:
        """The reply at hand must end the run, for this rule."""
        loop = self._world.span.loop
        self.must_stop.append((start.number, loop.now if loop else 0.0, rule))


def retry_after(headers: dict[str, Any]) -> float | None:
    """What a Retry-After of this world asks for, read in the plainest way."""
    said = headers.get("retry-after", "")
    if said.endswith("GMT"):
        wait = parsedate_to_datetime(said) - parsedate_to_datetime(headers["date"])
        return wait.total_seconds() or None
    if said.isascii() and said.isdigit() and int(said):
        return float("inf") if len(said) > 9 else float(said)
    return None
