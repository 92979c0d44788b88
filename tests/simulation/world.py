"""One world from its first process to its last, and the trace of all that happened in it."""

from __future__ import annotations

import asyncio
import atexit
import gc
import sys
from collections.abc import Coroutine
from hashlib import blake2b
from itertools import count
from random import Random
from typing import Any

from tests.simulation import acts, fleet, invariants, ledgers
from tests.simulation.fake import FakeTransport
from tests.simulation.gateway import Gateway
from tests.simulation.ledgers import Ledger, Listing
from tests.simulation.memory import reach
from tests.simulation.process import Process, Start, terms
from tests.simulation.seeded import CrashError, EndlessError, SeededLoop, silence
from tests.simulation.setup import draw
from tests.simulation.span import Span, WorldClock
from tests.simulation.truth import Exchange, Key
from tests.simulation.witness import Witness
from worker.errors import UsageError
from worker.gateway.exchange import Transport, TransportSettings
from worker.model import Outcome

_MOST_EVENTS = 60_000
_UNSURE = {"unknown", "cancelled_incomplete", "anomalous"}


class World:
    """Everything of one seed; `live` makes it happen, the rest is read afterwards."""

    def __init__(self, seed: int, transport: str = "fake", *, backwards: bool = False) -> None:
        """backwards: the same world, its list in the opposite order."""
        self.seed = seed
        self.transport = transport
        self.setup = draw(seed, transport)
        self._backwards = backwards
        self.trace: list[tuple[Any, ...]] = []
        self._dead = False  # what the buried say is not heard
        self.violations: list[tuple[int, str]] = []  # invariant (0: the protocol), what
        self.span = Span()
        self.span.shift_ms = self.setup.wall_off
        self.starts: list[Start] = []
        plan = self._plan()
        self.listing = ledgers.listing_of(plan)
        self.things = fleet.things(self.setup, Random(f"{seed} things"))
        self.gateway = Gateway(self.setup, self.span, self.things, Random(f"{seed} gateway"))
        self.gateway.note = self.note
        self.gateway.wrong = self.wrong
        self.gateway.arrived = self._arrived
        self.gateway.answered = self._answered
        self.gateway.begun = self._begun
        fleet.start_others(self.gateway, self.setup, Random(f"{seed} others"))
        made = [Ledger(n, ledgers.planned(plan)) for n in range(1 + (self.setup.kind == "two"))]
        self.ledgers = made if len(made) > 1 else made * 2  # by worker: two may share one
        for ledger in made:
            ledgers.settle_terms(ledger, "run-1", terms(self.setup))
            ledger.fail_at, ledger.fail_after = self.setup.fail_at, self.setup.fail_after
            if not ledger.fail_at:
                ledger.fail_after = False
        self.witness = Witness(self)
        self._fatal = self.setup.dies_with  # outcomes with commands until a crash
        self._now_running: dict[int, Start] = {}
        self._together: list[Start] = []  # that run at the same time
        self.loop_chance = Random(f"{seed} loop")

    def _plan(self) -> ledgers.Plan:
        setup = self.setup
        twin = setup.devices > 1 and setup.variant == 2
        return (setup.scope, setup.devices, setup.variant, twin, self._backwards, setup.odd)

    # ---------------------------------------------------------------- the story

    def live(self) -> World:
        """Let it happen and check it."""
        acts.play(self)
        self.gateway.advance()
        invariants.check(self)
        return self

    def hash(self) -> str:
        return blake2b(repr(self.trace).encode(), digest_size=12).hexdigest()

    def chance(self, name: object) -> Random:
        """A stream of chance of its own for whoever asks."""
        return Random(f"{self.seed} {name}")

    def twins(self, listing: Listing) -> bool:
        """Whether one device stands in the list in two spellings."""
        by_key = self.gateway.by_key
        return len({by_key[key].index for key in listing.keys}) < len(listing.keys)

    def note(self, *said: Any) -> None:
        if not self._dead:
            self.trace.append((round(self.span.now(), 6), *said))

    def wrong(self, invariant: int, said: str) -> None:
        self.violations.append((invariant, said))
        self.note("VIOLATION", invariant, said)

    # ---------------------------------------------------------------- what a story is made of

    def plan(self, listing: Listing, run_id: str) -> bool:
        """Plan one more run; False when the ledger fails."""
        ledger = self.ledgers[0]
        try:
            ledgers.freeze(ledger.open(), listing, run_id)
        except UsageError as refused:
            self.note("not planned", str(refused))
            return False
        ledgers.settle_terms(ledger, run_id, terms(self.setup))
        return True

    def pause(self) -> None:
        """Time between two processes."""
        self.span.at += self.loop_chance.choice((0.0, 0.1, 5.0, 100.0))
        self.gateway.advance()

    def begin(
        self, worker: int, run_id: str, listing: Listing | None = None, limit: int | None = None
    ) -> Start:
        """A process that will work on a planned run; limit: of a resume."""
        number = len(self.starts)
        ledger = self.ledgers[worker]
        [(run,)] = ledger.raw.execute("SELECT run FROM run WHERE run_id = ?", (run_id,))
        run += 100 * self.ledgers.index(ledger)
        if not any(start.run == run for start in self.starts):
            limit = self.setup.limit
        listing = self.listing if listing is None else listing
        start = Start(number, worker, run_id, run, self.span.now(), listing, limit, settled=[])
        if self.setup.until is not None and not number:
            start.until_ms = self.span.wall_ms() + int(self.setup.until * 1000)
        self.starts.append(start)
        return start

    def process(self, starts: list[Start], crash: int | None = None, kinds: Any = ()) -> None:
        """Run processes side by side until they end or die, and check what a crash leaves."""
        self._process(starts, crash, kinds)
        for start in starts:
            if start.crashed:
                invariants.after_crash(self, start)

    def _process(self, starts: list[Start], crash: int | None, kinds: Any) -> None:
        """Run processes side by side in one loop until they end or die."""
        loop = SeededLoop(
            Random(f"{self.seed} ready {starts[0].number}"), self.span.at, _MOST_EVENTS
        )
        loop.crash_at = crash
        self._together = starts
        loop.on_trouble = lambda said: self.wrong(0, f"unhandled: {said}")
        self.span.loop = loop
        self._schedule(loop, first=starts[0].number == 0)
        zero = self.loop_chance.choice((0.0, 1e6, -loop.now))
        jobs = [self._job(loop, start, zero, kinds) for start in starts]
        try:
            loop.run_until_complete(_all(jobs))
        except CrashError:
            self._crash(starts, loop)
        except EndlessError as endless:
            self.wrong(10, str(endless))
            loop.bury()
        except RuntimeError as broken:  # DeadlockError is one
            self.wrong(10, f"{type(broken).__name__}: {broken}")
            loop.bury()
        finally:
            self.span.at, self.span.loop = loop.now, None
            loop.on_trouble = lambda _: None
            asyncio.set_event_loop(None)
            loop.close()
        for start in starts:
            self._now_running.pop(start.worker, None)
            ledger = self.ledgers[start.worker]
            ledger.open()
            found = invariants.recorded(self, start)
            start.tally = found.tally()
            start.work_left = any(
                found.outcomes[n] == "not_attempted" or n in found.put_off for n in start.asked
            )
            self.note("ended", start.number, start.code)

    def recorded(self, start: Start, key: tuple[str, ...]) -> set[str]:
        """Ids that the ledger has for a target of this run."""
        rows = self.ledgers[start.worker].raw.execute(
            "SELECT commandId FROM command WHERE run = ? AND ordinal = ? AND result = 'cancelled'",
            (start.run % 100, start.listing.ordinals[key]),
        )
        return {row[0] for row in rows}

    def _crash(self, starts: list[Start], loop: SeededLoop) -> None:
        self.note("CRASH")
        for start in starts:
            start.crashed = True
        for exchange in list(self.gateway.open_ones):
            self.gateway.abandon(exchange)
            self.gateway.over(exchange, "AM" if exchange.fate else "NS", "crash")
        self._now_running.clear()
        self._dead = True
        settled = [list(start.settled) for start in starts]
        loop.bury()
        for start, until_then in zip(starts, settled, strict=True):
            start.settled = until_then
        self._dead = False
        self.span.at = loop.now
        for start in starts:
            self.witness.in_doubt(start, self._claimed(start), self.span.now())
            self.witness.rests.crashed(start.worker)

    def _claimed(self, start: Start) -> list[Key]:
        """The devices that a run has in doubt."""
        claimed = self.ledgers[start.worker].claimed(start.run % 100)
        return [key for key, ordinal in start.listing.ordinals.items() if ordinal in claimed]

    def _look_back(self, start: Start) -> None:
        """What is in doubt when a process begins: of its own run, and of others on the ledger."""
        ledger, mine = self.ledgers[start.worker], start.listing.ordinals
        earlier = [s for s in self.starts[: start.number] if self.ledgers[s.worker] is ledger]
        if any(s.run == start.run for s in earlier):
            left = invariants.recorded(self, start).outcomes
            self.witness.resumed(start.run, {key for key, n in mine.items() if left[n] in _UNSURE})
        beside = {s.run for s in self._together}  # may settle theirs before this one asks
        others = {s.run: s for s in earlier if s.run not in beside}
        doubts = {key for other in others.values() for key in self._claimed(other)}
        spelled = doubts | ledger.other_spellings(doubts)
        start.respelled = len(spelled & mine.keys() - doubts)
        spelled -= {start.listing.keys[ordinal] for ordinal in start.terminal}
        self.witness.in_doubt(start, [key for key in mine if key in spelled], self.span.now())

    def _job(
        self, loop: SeededLoop, start: Start, zero: float, kinds: Any
    ) -> Coroutine[Any, Any, None]:
        clock = WorldClock(self.span, loop, Random(f"{self.seed} chance {start.number}"), zero)
        ledger = self.ledgers[start.worker]
        ledger.open()
        start.terminal, start.asked = invariants.open_before(ledger, start, kinds)
        self._now_running[start.worker] = start
        self.witness.rests.process_begins(start)
        disk = Random(f"{self.seed} disk {start.number}")

        def connect(settings: TransportSettings, _: Any) -> Transport:
            return self._transport(loop, clock, start, settings)

        process = Process(
            self.setup,
            ledger,
            clock,
            connect,
            lambda: ledgers.submit(disk, self.setup.slow_disk),
            lambda: (self.span.now(), loop.now),
            self.note,
            lambda outcome: self._perhaps_die(loop, outcome),
        )

        async def job() -> None:
            if start.late:
                await asyncio.sleep(start.late)
            self._look_back(start)
            await process.run(start, kinds)

        return job()

    def _perhaps_die(self, loop: SeededLoop, outcome: Outcome) -> None:
        """A crash between an outcome and its commit."""
        if self._dead or not outcome.commands:
            return
        self._fatal -= 1
        if self._fatal == 0:
            loop.crash_at = loop.events + 1 + self.chance("dies with").randrange(12)

    def _transport(
        self, loop: SeededLoop, clock: WorldClock, start: Start, settings: TransportSettings
    ) -> Transport:
        who = (start.worker, start.run)
        if self.transport == "aiohttp":
            return reach(self, loop, clock, settings, who)
        chance = Random(f"{self.seed} net {start.number}")
        return FakeTransport(self.gateway, self.span, loop, clock, chance, *who)

    def _schedule(self, loop: SeededLoop, *, first: bool) -> None:
        """What happens to the machine."""
        if not first:
            if self.loop_chance.random() < 0.2:
                at = loop.now + self.loop_chance.uniform(0.0, 4.0)
                loop.call_at(at, self._signal, loop, 15)
            return
        for at, number in self.setup.signals:
            loop.call_at(at, self._signal, loop, number)
        for at, ms in self.setup.jumps:
            loop.call_at(at, self.set_clock, ms)
        for at, seconds in self.setup.sleeps:
            loop.call_at(at, self._sleep, seconds)

    def _signal(self, loop: SeededLoop, number: int) -> None:
        self.note("signal", number, loop.kill(number))

    def set_clock(self, ms: int) -> None:
        self.span.shift_ms += ms
        self.note("clock set", ms)

    def _sleep(self, seconds: float) -> None:
        self.note("asleep", seconds)
        self.span.slept += seconds

    # ---------------------------------------------------------------- what the gateway tells

    def _begun(self, exchange: Exchange) -> None:
        start = self._now_running.get(exchange.worker)
        asked = (exchange.kind, *exchange.key, exchange.commandId, exchange.state)
        self.note("request", exchange.number, *asked)
        if start is not None:
            self.witness.begins(start, exchange)

    def _arrived(self, exchange: Exchange) -> None:
        """Checked at the instant of arrival, against what is durable then."""
        start = self._now_running.get(exchange.worker)
        self.note("arrived", exchange.number)
        if start is not None:
            self.witness.arrives(start, exchange)

    def _answered(
        self, exchange: Exchange, status: int, headers: dict[str, str], fault: str | None
    ) -> None:
        start = self._now_running.get(exchange.worker)
        self.note("reply", exchange.number, status, fault, exchange.fault, exchange.delivered)
        if start is not None:
            self.witness.ends(start, exchange, status, headers)


async def _all(jobs: list[Coroutine[Any, Any, None]]) -> None:
    if len(jobs) == 1:
        await jobs[0]
    else:
        await asyncio.gather(*jobs)


def play(seed: int, transport: str = "fake") -> World:
    """The world of a seed, lived and checked.

    The collector has a rhythm of its own, and what it finds may wake a loop: it waits.
    """
    gc.disable()
    try:
        return World(seed, transport).live()
    finally:
        _tidy_up()


_played = count(1)


def _farewell() -> None:
    """What crashes left is let go of in silence."""
    sys.unraisablehook = lambda _: None
    gc.collect()


def _tidy_up() -> None:
    number = next(_played)
    if number == 1:
        gc.freeze()
    if number % 25 == 0:
        with silence():
            gc.collect()
    gc.enable()


atexit.register(_farewell)
