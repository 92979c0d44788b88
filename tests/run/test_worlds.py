"""Small random worlds, checked against the gateway's own truth.

Each seed first draws which faults are on and how often, then a job, its limits and a gateway; the
real crew works it off. Faults leave the last look-up able to see every effect: an index lags less
than `lookup.wait`. A failing seed is named: `world(seed)` replays it.
"""

from __future__ import annotations

import random

import anyio
import pytest

from tests.run.fake_gateway import (
    BAD_REQUEST,
    BUG,
    FORBIDDEN,
    NOT_FOUND,
    OK,
    STALE_TOKEN,
    FakeGateway,
    Fate,
    foreign,
    lost,
    partial,
    refused,
    slow,
    swallowed,
    throttled,
    unavailable,
    unsent,
)
from tests.run.rig import Rig, device, listed, whole
from tests.simulation.clock import VirtualClock
from tests.simulation.loop import VirtualLoop
from worker.model import AllCached, Listed, Outcome, OutcomeKind, Stop, Target
from worker.run.reconcile import LookupRules
from worker.run.retry import RetryRules
from worker.run.safety import AbortRules

K = OutcomeKind
UNCERTAIN = {K.UNKNOWN, K.CANCELLED_INCOMPLETE, K.ANOMALOUS}
NOTHING = {K.NOTHING_CACHED, K.NOTHING_MATCHED, K.TOO_LATE}
UNTOUCHED = {K.FAILED, K.REJECTED, K.NOT_FOUND, K.NOT_ATTEMPTED}
BLOCKS, PER_BLOCK = 8, 120

CANCEL_FAULTS = [
    lost(), lost(takes=3.0), lost("request_timeout", takes=30.0), swallowed(),
    swallowed("request_timeout", takes=30.0), unavailable(), unavailable(executed=True),
    unavailable(retry_after=7.0), unsent(), unsent("connect_timeout"), throttled(),
    throttled(20.0), STALE_TOKEN, partial(0), partial(1), partial(2), partial(0, executed=False),
    FORBIDDEN, NOT_FOUND, BAD_REQUEST, BUG, foreign(), slow(12.0),
    refused(503, 777, "code_777", transient=True),
]  # fmt: skip
SEARCH_FAULTS = [
    unsent(), lost(), unavailable(), throttled(3.0), STALE_TOKEN, slow(9.0), BUG,
    Fate(executed=False, said=FORBIDDEN.said),
]  # fmt: skip


class World:
    """One seed's job and gateway."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        clock = VirtualClock(seed)
        wait = dice.choice([0.5, 2.0])
        self.gateway = FakeGateway(
            clock, lag=dice.choice([0.0, wait * 0.9]), skew_ms=dice.choice([0, 0, 90_000, -90_000])
        )
        self.by_id = dice.random() < 0.25
        self.attempts = dice.randint(1, 4)
        retry = RetryRules(
            attempts=self.attempts,
            ambiguous_window=dice.choice([5.0, 60.0]),
            budget=dice.choice([0.0, 0.1, 1.0]),
            budget_reserve=dice.choice([0, 3, 50]),
            passes=dice.randint(0, 2),
        )
        self.tries = dice.randint(1, 3)
        self.concurrency = dice.randint(1, 6)
        self.rig = Rig(
            clock=clock,
            gateway=self.gateway,
            retry=retry,
            lookup=LookupRules(wait, self.tries),
            abort=AbortRules(0.4, 4, 3) if dice.random() < 0.4 else None,
            concurrency=self.concurrency,
            rate=dice.choice([None, None, 5.0]),
            deadline=dice.choice([None, None, 40.0]),
            max_commands=dice.choice([None, None, None, 4]),
            by_id=self.by_id,
        )
        self.stale = 0
        faults = dice.sample(CANCEL_FAULTS, dice.randint(0, 5))
        troubles = dice.sample(SEARCH_FAULTS, dice.choice([0, 0, 1, 2]))
        how_often = dice.choice([0.1, 0.5, 0.9])
        self.gateway.every_cancel = lambda: self._fate(faults, how_often)
        self.gateway.every_search = lambda: self._fate(troubles, 0.3)
        self.targets = [self._target(number) for number in range(dice.randint(1, 14))]
        self.stop_at = dice.uniform(0.0, 30.0) if dice.random() < 0.3 else None
        self.stopped_at: float | None = None

    def _fate(self, faults: list[Fate], how_often: float) -> Fate:
        if not faults or self.dice.random() > how_often:
            return OK
        fate = self.dice.choice(faults)
        self.stale += fate is STALE_TOKEN
        return fate

    def _target(self, number: int) -> Target:
        ids = [f"{number}{index}" for index in range(self.dice.randint(0, 4))]
        self.gateway.seed(device(number), *ids)
        for command in self.gateway.devices[device(number)]:
            fate = self.dice.random()
            if fate < 0.1:
                command.cancelled_at = -self.dice.uniform(0.0, 9.0)  # by somebody
            elif fate < 0.2:
                command.gone_at = self.dice.uniform(0.0, 20.0)
        if ids and self.dice.random() < 0.5:
            return listed(*self.dice.sample(ids, self.dice.randint(1, len(ids))), number=number)
        return whole(number)

    async def run(self) -> None:
        for number in range(len(self.targets)):
            if self.dice.random() < 0.3:
                self.gateway.cache_later(device(number), f"{number}9", self.dice.uniform(0.0, 20.0))
        self.rig.switch.on_throw(lambda _: self._note_stop())
        async with anyio.create_task_group() as group:
            group.start_soon(self._stop)
            group.start_soon(self.rig.bounds.watch, self.rig.switch)
            await self.rig.crew(self.targets, batch=self.dice.randint(1, 4))
            assert self.rig.clock.monotonic() < 3600.0, "every run ends"
            group.cancel_scope.cancel()

    async def _stop(self) -> None:
        if self.stop_at is not None:
            await anyio.sleep(self.stop_at)
            self.rig.switch.throw(Stop("signal", "SIGTERM"))

    def _note_stop(self) -> None:
        self.stopped_at = self.rig.clock.monotonic()

    # ------------------------------------------------------------ the invariants

    def kind(self, target: Target) -> OutcomeKind:
        """As the ledger would derive it."""
        ordinal = target.ordinal
        if ordinal in self.rig.book.outcomes:
            return self.rig.book.outcomes[ordinal].kind
        told = self.rig.book.commands_of(ordinal)
        return K.CANCELLED_INCOMPLETE if told else K.NOT_ATTEMPTED

    def check(self) -> None:
        for target in self.targets:
            self.check_claims(target)
            self.check_strays(target)
        self.check_bounds()

    def check_claims(self, target: Target) -> None:
        """2 no silent loss, 3 no invention, 4 no false success, 5 no false failure."""
        kind, told = self.kind(target), self.rig.book.commands_of(target.ordinal)
        taken = self.gateway.taken(target.device)
        cancelled = self.gateway.cancelled(target.device)
        if kind not in UNCERTAIN:
            assert taken <= set(told), f"{target.ordinal} {kind}: lost {taken - set(told)}"
        for commandId, result in told.items():
            truth = taken if result.evidence == "response" else cancelled
            assert commandId in truth, f"{target.ordinal} {kind}: invented {commandId}"
        if kind is K.CANCELLED and {r.evidence for r in told.values()} == {"response"}:
            assert set(told) == taken
        if kind in NOTHING | UNTOUCHED:
            assert not taken, f"{target.ordinal} {kind}: {taken} were cancelled"
        if kind is K.CANCELLED:
            assert told

    def check_strays(self, target: Target) -> None:
        """1 no stray: only what the job names, and never a cancel-all for less."""
        sent = {s.commandId for s in self.gateway.sent("cancel", target.device)}
        if isinstance(target.scope, Listed):
            assert sent <= set(target.scope.commandIds)
        elif self.by_id:
            assert None not in sent
        else:
            assert isinstance(target.scope, AllCached)
            assert sent <= {None}

    def check_bounds(self) -> None:
        """7 one word a target, 9 bounded, 10 nothing after the stop."""
        book, gateway, rig = self.rig.book, self.gateway, self.rig
        ends = [e.ordinal for e in book.entries if isinstance(e.verdict, Outcome)]
        assert len(ends) == len(set(ends)), "a target settles once"
        assert {s.device for s in gateway.log} <= {t.device for t in self.targets}
        assert gateway.most_in_flight <= self.concurrency
        assert gateway.most_per_device <= 1
        passes = 1 + rig.retry.passes
        calls = {(s.device, s.commandId) for s in gateway.sent("cancel")}
        rounds = self.tries if self.by_id else 1
        assert len(gateway.sent("cancel")) <= (
            len(calls) * passes * self.attempts * rounds + self.stale
        )
        share = rig.retry.budget * rig.wire.requests.cancel
        assert rig.wire.requests.retried <= share + rig.retry.budget_reserve + self.stale
        if self.stopped_at is not None:
            assert all(s.at <= self.stopped_at for s in gateway.log)
        if not rig.switch.stop:
            assert set(book.outcomes) == {t.ordinal for t in self.targets}


def world(seed: int) -> World:
    """Play one seed and check it."""

    async def play() -> World:
        drawn = World(seed)
        await drawn.run()
        drawn.check()
        return drawn

    options = {"loop_factory": VirtualLoop}
    return anyio.run(play, backend="asyncio", backend_options=options)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_worlds_keep_the_invariants(block: int) -> None:
    """No stray, silent loss, invention, false success or false failure; bounded (1-5, 7, 9, 10)."""
    for seed in range(block * PER_BLOCK, (block + 1) * PER_BLOCK):
        try:
            world(seed)
        except AssertionError as broken:
            raise AssertionError(f"world({seed}): {broken}") from broken


def test_worlds_are_not_all_alike() -> None:
    """Every outcome and every way to end comes about: worlds without faults prove nothing."""
    kinds: set[OutcomeKind] = set()
    rules: set[str] = set()
    for seed in range(300):
        drawn = world(seed)
        kinds.update(drawn.kind(target) for target in drawn.targets)
        rules.add(drawn.rig.switch.stop.rule if drawn.rig.switch.stop else "end")
    assert kinds == set(OutcomeKind)
    assert rules >= {"end", "signal", "deadline", "anomaly", "max_commands", "cancel_all_refused"}
    assert rules & {"abort_consecutive", "abort_failed"}


def test_same_seed_same_trace() -> None:
    """A seed replays byte by byte (invariant 14)."""
    for seed in range(0, 60, 7):
        first, again = world(seed), world(seed)
        assert first.gateway.log == again.gateway.log
        assert first.rig.book.entries == again.rig.book.entries
