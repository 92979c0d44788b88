"""What 401s must lead to, and what they must not: rows 19 and 101, derived from the table alone.

Sees the replies of a world in their order and keeps, for each process, which tokens it fetched,
which of them had a success, and which calls were turned down before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from tests.simulation.process import Start
    from tests.simulation.truth import Exchange, Key
    from tests.simulation.world import World

_ENOUGH = 5  # targets whose 401s for fresh tokens stop a run
_UNKNOWN_LIFE = 300.0  # s
EPS = 1e-6


class Fetch(Struct, eq=False):
    """One token as it was fetched; two of the same text are two."""

    at: float  # loop time
    text: str
    renewed: float  # loop time from which it may be replaced though it is good
    fresh: bool  # in the place of one that was turned down
    row: frozenset[Key]  # targets turned down with fresh tokens before it, no success between
    succeeded: bool = False


class Held(Struct, eq=False):
    """What one process knows of its tokens."""

    fetches: list[Fetch] = []
    dropped: bool = True  # there is none to sign with
    ever: bool = False  # any success
    signed: dict[int, Fetch] = {}  # by number of the exchange
    refusals: dict[tuple[object, ...], int] = {}  # by call, in this pass
    blurred: bool = False  # a call by id was perhaps made anew: what is free is not known
    may_stop: bool = False


class Distrust:
    """Watches the tokens of every process of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._held: dict[int, Held] = {}

    def begins(self, start: Start, exchange: Exchange) -> None:
        """A request goes out, signed when it was asked for."""
        held = self._of(start)
        if exchange.kind == "token":
            self._fetch_begins(held, exchange)
            return
        asked = exchange.begun_loop + EPS
        fitting = [f for f in held.fetches if f.at <= asked and f.text == exchange.token]
        if fitting:
            held.signed[exchange.number] = fitting[-1]

    def ends(self, start: Start, exchange: Exchange) -> None:
        """The client has its reply."""
        held = self._of(start)
        if exchange.kind == "token":
            if exchange.proof == "OK":
                self._fetched(held, exchange)
            return
        call = self._call(start, exchange)
        token = held.signed.get(exchange.number)
        if exchange.proof == "TK":
            held.refusals[call] = held.refusals.get(call, 0) + 1
            if token is not None:
                self._refused(start, held, exchange, token, first=held.refusals[call] == 1)
            if held.refusals[call] > self._world.setup.retry.attempts + 1:
                number = exchange.number
                self._world.wrong(9, f"request {number} is one 401 more than attempts allow")
            elif exchange.kind == "search" and self._spent(held, call):
                del held.refusals[call]  # the next one begins anew
            return
        if exchange.proof == "OK":
            held.ever = True
            if token is not None:
                token.succeeded = True
        if exchange.kind == "search":
            held.refusals.pop(call, None)
        elif exchange.proof == "OK" and self._world.setup.by_id and call in held.refusals:
            held.blurred = True

    def explains(self, start: Start) -> bool:
        """Whether the stop `auth` of this process has its reason."""
        held = self._held.get(start.number)
        return held is not None and (held.may_stop or held.blurred)

    def _of(self, start: Start) -> Held:
        if start.number not in self._held:
            self._held[start.number] = Held(fetches=[], signed={}, refusals={})
        return self._held[start.number]

    def _call(self, start: Start, exchange: Exchange) -> tuple[object, ...]:
        if exchange.kind == "search":
            return ("search", exchange.key, exchange.state, exchange.page)
        ledger = self._world.ledgers[start.worker]
        ordinal = start.listing.ordinals.get(exchange.key, 0)
        pass_no = exchange.pass_no or ledger.claimed(start.run % 100).get(ordinal, 0)
        return ("cancel", exchange.key, exchange.commandId, pass_no)

    def _spent(self, held: Held, call: tuple[object, ...]) -> bool:
        return held.refusals[call] == self._world.setup.retry.attempts + 1

    def _fetch_begins(self, held: Held, exchange: Exchange) -> None:
        setup = self._world.setup
        if held.dropped or held.blurred or setup.sleeps or setup.jumps:
            return
        token = held.fetches[-1]
        if exchange.begun_loop < token.renewed - EPS:
            said = f"token request {exchange.number} replaces a token that was not turned down"
            self._world.wrong(9, said)

    def _fetched(self, held: Held, exchange: Exchange) -> None:
        before = held.fetches[-1] if held.fetches else None
        unproven = before is not None and not before.succeeded
        loop = self._world.span.loop
        now = loop.now if loop else 0.0
        life = max(exchange.life or _UNKNOWN_LIFE, now - exchange.begun_loop + 1.0)
        held.fetches.append(
            Fetch(
                now,
                exchange.token,
                exchange.begun_loop + 0.8 * life,
                fresh=before is not None and (held.dropped or (before.fresh and unproven)),
                row=before.row if before is not None and unproven else frozenset(),
            )
        )
        held.dropped = False

    def _refused(
        self, start: Start, held: Held, exchange: Exchange, token: Fetch, *, first: bool
    ) -> None:
        if held.dropped or token is not held.fetches[-1]:
            return  # replaced already
        if not first and token.succeeded:
            return  # the device's affair
        held.dropped = True
        if not token.fresh or token.succeeded or exchange.kind == "search":
            return
        token.row |= {exchange.key}
        begun = max(1, len(start.opened - start.closed))
        held.may_stop |= not held.ever or len(token.row) >= min(_ENOUGH, begun)
        # Fewer are enough once the worker knows that no target is left, which nobody else can see.
        if not held.blurred and (not held.ever or len(token.row) >= _ENOUGH):
            self._world.witness.must_stop_now(start, "auth")
