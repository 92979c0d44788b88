"""Repetitions: how many, how long, how soon, and what a run may afford."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulation.clock import VirtualClock
from worker.model import Stop
from worker.run.retry import Budget, RetryPolicy, RetryRules, TokenPatience
from worker.run.stop import Bounds, Switch

RICH = Budget(RetryRules(budget=1.0, budget_reserve=1000))


class Chance(VirtualClock):
    """A clock whose chance is what a test says."""

    drawn = 0.5

    def chance(self) -> float:
        return self.drawn


async def test_attempts_are_counted_with_the_first() -> None:
    """Four attempts are three repetitions (Retry)."""
    policy = RetryPolicy(RetryRules(attempts=4), Chance())
    given_up = [policy.delay(attempt, 0.0, RICH) is None for attempt in range(1, 6)]
    assert given_up == [False, False, False, True, True]


async def test_wait_doubles_up_to_its_ceiling() -> None:
    """wait_initial doubles at each attempt and never passes wait_max; half of it is drawn here."""
    policy = RetryPolicy(RetryRules(wait_initial=0.5, wait_max=20.0), Chance())
    waits = [policy.backoff(attempt) for attempt in (1, 2, 3, 6, 7, 100, 10_000)]
    assert waits == [0.25, 0.5, 1.0, 8.0, 10.0, 10.0, 10.0]


@given(st.integers(1, 200), st.integers(0, 2**32))
def test_jitter_is_full(attempt: int, seed: int) -> None:
    """A wait lies in [0, ceiling): never negative, never the whole ceiling (row 25)."""
    policy = RetryPolicy(RetryRules(), VirtualClock(seed))
    ceiling = min(20.0, 0.5 * 2.0 ** min(attempt - 1, 30))
    assert 0.0 <= policy.backoff(attempt) < ceiling


async def test_elapsed_ends_repetitions() -> None:
    """A repetition that would start after `elapsed` is not made, and costs no budget."""
    clock = Chance()
    policy = RetryPolicy(RetryRules(elapsed=10.0, wait_initial=2.0), clock)
    budget = Budget(RetryRules(budget=0.0, budget_reserve=1))
    await anyio.sleep(9.5)
    assert policy.delay(1, 0.0, budget) is None
    await anyio.sleep(0.0)
    assert policy.delay(1, 0.5, budget) == 1.0
    assert policy.delay(1, 0.5, budget) is None, "the reserve is spent"


async def test_cancel_all_repeats_inside_its_window_only() -> None:
    """60 s after the first send is the last moment; one never sent is free (Retry)."""
    policy = RetryPolicy(RetryRules(ambiguous_window=60.0), Chance())
    await anyio.sleep(100.0)
    allowed = [policy.may_repeat_cancel_all(at) for at in (None, 100.0, 40.0, 39.9)]
    assert allowed == [True, True, True, False]


def test_budget_is_a_share_of_the_calls_and_one_reserve() -> None:
    """100 calls afford 10 repetitions and the reserve 10 more (row 28)."""
    budget = Budget(RetryRules(budget=0.10, budget_reserve=10))
    for _ in range(100):
        budget.called()
    assert [budget.take() for _ in range(21)] == [True] * 20 + [False]


def test_reserve_serves_a_run_once() -> None:
    """A later pass earns its own share, but the reserve is not filled again."""
    budget = Budget(RetryRules(budget=0.5, budget_reserve=3))
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    budget.next_pass()
    assert not budget.take()
    budget.called()
    budget.called()
    assert [budget.take() for _ in range(2)] == [True, False]


def test_a_pass_does_not_pay_for_the_next() -> None:
    """What a pass earned and did not use is gone with it (invariant 9)."""
    budget = Budget(RetryRules(budget=1.0, budget_reserve=0))
    for _ in range(5):
        budget.called()
    budget.next_pass()
    assert not budget.take()


@given(st.lists(st.sampled_from("ctp"), max_size=300), st.integers(0, 5))
def test_repetitions_never_pass_the_budget(steps: list[str], reserve: int) -> None:
    """Of any run, repetitions <= share x calls + reserve (invariant 9)."""
    budget = Budget(RetryRules(budget=0.1, budget_reserve=reserve))
    taken = calls = 0
    for step in steps:
        if step == "c":
            calls += 1
            budget.called()
        elif step == "t":
            taken += budget.take()
        else:
            budget.next_pass()
        assert taken <= 0.1 * calls + reserve + 1e-9


async def test_token_patience_follows_the_same_rules() -> None:
    """A token is asked for `attempts` times, so there is one wait fewer (row 21)."""
    clock = Chance()
    policy = RetryPolicy(RetryRules(attempts=3, wait_initial=1.0), clock)
    assert list(TokenPatience(policy, clock, Switch(), Bounds(clock)).delays()) == [0.5, 1.0]


async def test_token_patience_ends_with_elapsed() -> None:
    """No try begins after `elapsed`, however many attempts are left (row 21)."""
    clock = Chance()
    rules = RetryRules(attempts=50, wait_initial=8.0, wait_max=8.0, elapsed=10.0)
    patience = TokenPatience(RetryPolicy(rules, clock), clock, Switch(), Bounds(clock))
    waits = []
    for delay in patience.delays():
        waits.append(delay)
        assert await patience.wait(delay)
    assert waits == [4.0, 4.0]


async def test_token_patience_ends_with_the_run() -> None:
    """A stop wakes who waits for the next try: no token is fetched for a run that ends."""
    clock, switch = Chance(), Switch()
    patience = TokenPatience(RetryPolicy(RetryRules(), clock), clock, switch, Bounds(clock))
    async with anyio.create_task_group() as group:

        async def waiter() -> None:
            assert await patience.wait(1000.0) is False

        group.start_soon(waiter)
        await anyio.sleep(1.0)
        switch.throw(Stop("signal", "SIGTERM"))
    assert clock.monotonic() == pytest.approx(1.0)


async def test_token_patience_ends_with_the_deadline() -> None:
    """No try begins once the deadline has passed, noticed before or not: it is noticed here."""
    clock, switch = Chance(), Switch()
    bounds = Bounds(clock, deadline=clock.monotonic() + 1.0)
    patience = TokenPatience(RetryPolicy(RetryRules(), clock), clock, switch, bounds)
    assert await patience.wait(0.0)
    assert not await patience.wait(1.0)
    assert switch.stop is not None
    assert switch.stop.rule == "deadline"
