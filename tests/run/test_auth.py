"""What a 401 means for the call, and for the run (row 101)."""

from __future__ import annotations

import pytest

from tests.run.fake_gateway import (
    LATENCY,
    OK,
    STALE_TOKEN,
    Fate,
    fresh_token,
    lost,
    swallowed,
    unsent,
)
from tests.run.rig import Rig, device, listed, whole
from tests.run.stage import Stage, rules, seed_some
from worker.errors import RefusedError
from worker.model import Device, OutcomeKind, Refused, Requests, Verified
from worker.run.auth import AuthRule
from worker.run.retry import RetryRules
from worker.run.session import Leg

K = OutcomeKind
FEW = RetryRules(attempts=3, budget=0.0, budget_reserve=100)
TIGHT = RetryRules(attempts=3, budget=0.0, budget_reserve=0, passes=1)


# ---------------------------------------------------------------- the run


def refused(in_a_row: int, requestId: str | None = None) -> Refused:
    return Refused(401, None, "token", True, None, "no", requestId, in_a_row)


def judged(
    rule: AuthRule, *told: tuple[int, Device | None], worked: bool = True
) -> list[tuple[int, int] | None]:
    """Count and `of` of the stop that each refusal is a reason for."""
    rule.has_worked = worked
    stops = [rule.judge(refused(in_a_row), of) for in_a_row, of in told]
    return [None if stop is None else (stop.count, stop.of) for stop in stops]


def test_before_any_success_one_is_enough() -> None:
    """Keys that never worked, or a wrong clock: at once."""
    assert judged(AuthRule(lambda: None), (1, device()), worked=False) == [(1, 1)]


def test_later_five_targets() -> None:
    """Five different ones, one after another, and no success between."""
    fleet = [device(number) for number in range(6)]
    several = [(1, fleet[0]), (2, fleet[0]), (3, fleet[1]), (4, fleet[2]), (5, fleet[3])]
    stops = judged(AuthRule(lambda: None), *several, (6, fleet[4]), (7, fleet[5]))
    assert stops == [None] * 5 + [(5, 5), (6, 5)]


def test_a_success_between_begins_anew() -> None:
    """The next token that is turned down is the first of its row."""
    told = [(1, device(0)), (2, device(1)), (3, device(2)), (4, device(3)), (1, device(4))]
    assert judged(AuthRule(lambda: None), *told, (2, device(5))) == [None] * 6


@pytest.mark.parametrize("still_open", [1, 2, 4])
def test_fewer_when_no_more_are_open(still_open: int) -> None:
    """At the end of a list nobody is left to ask."""
    told = [(n, device(n)) for n in range(1, still_open + 1)]
    stops = judged(AuthRule(lambda: still_open), *told)
    assert stops == [None] * (still_open - 1) + [(still_open, still_open)]


def test_searches_never_count() -> None:
    """Neither as a target nor before a success; that they are in between changes nothing."""
    told: list[tuple[int, Device | None]] = [(n, None) for n in range(1, 9)]
    assert judged(AuthRule(lambda: 1), *told, worked=False) == [None] * 8
    mixed = [(1, None), (2, device(1)), (3, None), (4, device(2))]
    assert judged(AuthRule(lambda: 2), *mixed) == [None, None, None, (2, 2)]


def test_what_says_nothing_of_a_fresh_token_is_no_reason() -> None:
    """A 401 for an old token, or for one that works for others."""
    assert judged(AuthRule(lambda: 1), (0, device()), worked=False) == [None]


def test_the_message_names_how_many_and_the_requests() -> None:
    """Rule, count, of how many, request ids, what to check and what the gateway said."""
    rule = AuthRule(lambda: 2)
    rule.has_worked = True
    rule.judge(refused(1, "r1"), device(1))
    stop = rule.judge(refused(2, "r2"), device(2))
    assert stop is not None
    assert (stop.rule, stop.count, stop.of, stop.request_ids) == ("auth", 2, 2, ("r1", "r2"))
    assert stop.message == (
        "the gateway turned down 2 tokens in a row that it had just given, at cancels of 2 "
        "targets: are the keys for this gateway, is this machine's clock right?; no"
    )


# ---------------------------------------------------------------- the call


async def after(rig: Rig, *fates: Fate) -> tuple[str, str | None, int]:
    """How the target of device 0 ends that meets these."""
    rig.gateway.cancels[device()] = list(fates)
    await rig.crew([whole()])
    outcome = rig.book.outcomes[0]
    return outcome.kind.value, outcome.cause, outcome.attempts


async def test_the_first_401_of_a_call_is_free() -> None:
    """One fetch, signed again at once: no attempt, no repetition, no budget (row 19)."""
    rig = Rig(retry=TIGHT)
    assert await after(rig, STALE_TOKEN, OK) == ("nothing_cached", None, 1)
    assert rig.wire.requests == Requests(cancel=2)
    assert rig.gateway.fetched == 1
    assert rig.clock.monotonic() == pytest.approx(3 * LATENCY)


async def test_each_further_401_is_an_attempt() -> None:
    """With its wait; spent, the target is rejected for its token."""
    rig = Rig(retry=FEW)
    assert await after(rig, *[STALE_TOKEN] * 9) == ("rejected", "token", 3)
    assert rig.wire.requests == Requests(cancel=4, retried=2)
    assert len(rig.book.retries) == 2
    assert rig.book.put_offs == []


async def test_other_trouble_between_makes_no_401_free() -> None:
    """It is free once a call, however often something else comes between."""
    rig = Rig(retry=RetryRules(attempts=4, budget_reserve=9))
    trouble = [STALE_TOKEN, unsent(), STALE_TOKEN, unsent(), STALE_TOKEN]
    assert await after(rig, *trouble) == ("rejected", "token", 4)


async def test_a_call_in_doubt_is_looked_up_before_it_is_rejected() -> None:
    """A tainted target is never rejected blindly."""
    rig = Rig(retry=FEW)
    rig.gateway.seed(device(), "1")
    assert (await after(rig, swallowed(), *[STALE_TOKEN] * 9))[:2] == ("rejected", "token")


async def test_what_the_budget_denies_waits_for_a_later_pass() -> None:
    """Rejected is what attempts proved; a budget that is spent proves nothing."""
    rig = Rig(retry=TIGHT)
    assert await after(rig, STALE_TOKEN, STALE_TOKEN, OK) == ("nothing_cached", None, 1)
    assert rig.book.put_offs == [(0, "token")]
    rig = Rig(retry=TIGHT)
    assert (await after(rig, *[STALE_TOKEN] * 9))[:2] == ("rejected", "token")
    assert rig.book.put_offs == [(0, "token")]


async def test_each_call_of_a_target_has_one_free() -> None:
    """By id every command is a call of its own."""
    rig = Rig(retry=TIGHT)
    rig.gateway.seed(device(), "1", "2")
    rig.gateway.cancels[device()] = [STALE_TOKEN, OK, STALE_TOKEN, OK]
    await rig.crew([listed("1", "2")])
    assert rig.book.outcomes[0].kind is K.CANCELLED
    assert rig.wire.requests == Requests(cancel=4)


async def test_a_launched_call_alike() -> None:
    """Whoever launched it, the second 401 of a call is its first attempt."""
    for concurrency in (1, 8):
        rig = Rig(retry=FEW, concurrency=concurrency)
        rig.gateway.cancels = {device(n): [STALE_TOKEN] * 9 for n in range(4)}
        await rig.crew([whole(n) for n in range(8)])
        told = [rig.book.outcomes[n].kind.value for n in range(8)]
        assert told == ["rejected"] * 4 + ["nothing_cached"] * 4
        assert {rig.book.outcomes[n].attempts for n in range(4)} == {3}


async def test_five_targets_stop_a_run_that_worked() -> None:
    """From there on nothing is sent, and what was turned down is not attempted."""
    rig = Rig(concurrency=1)
    in_a_row = 0

    def fate() -> Fate:
        nonlocal in_a_row
        in_a_row += 1
        return OK if in_a_row == 1 else fresh_token(in_a_row - 1)

    rig.gateway.every_cancel = fate
    stop = await rig.crew([whole(n) for n in range(30)])
    assert stop is not None
    assert (stop.rule, stop.count, stop.of) == ("auth", 5, 5)
    assert set(rig.book.outcomes) == {0}


async def test_the_last_open_target_is_enough() -> None:
    """Nobody else is left who could have a success."""
    rig = Rig(concurrency=2)
    rig.gateway.cancels[device(1)] = [STALE_TOKEN, fresh_token(1)]
    stop = await rig.crew([whole(0), whole(1)])
    assert stop is not None
    assert (stop.rule, stop.count, stop.of) == ("auth", 1, 1)


async def test_what_is_put_off_is_open() -> None:
    """A target that waits for a later pass may still have a success."""
    rig = Rig(concurrency=1, retry=TIGHT)
    rig.gateway.cancels = {device(0): [unsent()], device(2): [STALE_TOKEN, fresh_token(1), OK]}
    assert await rig.crew([whole(0), whole(1), whole(2)]) is None
    assert {outcome.kind for outcome in rig.book.outcomes.values()} == {K.NOTHING_CACHED}


async def test_what_is_put_off_counts() -> None:
    """All that are left were turned down, whether they wait for a later pass or not."""
    rig = Rig(concurrency=1, retry=TIGHT)
    rig.gateway.cancels = {
        device(1): [STALE_TOKEN, fresh_token(1)],
        device(2): [STALE_TOKEN, fresh_token(2)],
    }
    stop = await rig.crew([whole(0), whole(1), whole(2)])
    assert stop is not None
    assert (stop.rule, stop.count, stop.of) == ("auth", 2, 2)
    assert rig.book.put_offs[0] == (1, "token")


# ---------------------------------------------------------------- a search


async def test_a_search_is_asked_again_as_a_cancel_is() -> None:
    """The first 401 at once, each further one after a wait; spent, searching is denied."""
    rig = Rig(retry=FEW)
    rig.gateway.seed(device(), "1")
    rig.gateway.searches[device()] = [STALE_TOKEN] * 9
    assert (await after(rig, lost()))[:2] == ("unknown", "search_denied")
    assert rig.wire.requests == Requests(cancel=1, search=4)
    assert rig.switch.stop is None


async def test_a_search_that_is_let_in_at_last() -> None:
    """What a look-up needs may take its attempts."""
    rig = Rig(retry=FEW)
    rig.gateway.seed(device(), "1")
    rig.gateway.searches[device()] = [STALE_TOKEN] * 3
    assert (await after(rig, lost()))[:2] == ("cancelled", "disconnected")


# ---------------------------------------------------------------- a whole run


async def test_searches_that_are_turned_down_refuse_a_run_that_needs_them() -> None:
    """Before its first cancel (7), after as many attempts as any search has; never rule auth."""
    stage = Stage(3, rules=rules(retry=RetryRules(attempts=3)))
    stage.gateway.every_search = lambda: fresh_token(len(stage.gateway.log))
    with pytest.raises(RefusedError, match=r"401: no; .*Are the keys for"):
        await stage.run(probe=whole())
    assert [sent.kind for sent in stage.gateway.log] == ["search"] * 4
    assert stage.switch.stop is None


async def test_a_verification_that_is_let_in_at_last() -> None:
    """Its searches are asked again as others are; it waits for that on its own."""
    stage = Stage(3)
    seed_some(stage, 3, every=1)
    stage.gateway.searches = {device(n): [STALE_TOKEN] * 3 for n in range(3)}
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(3, 0, 0)
    assert ending.requests == Requests(cancel=3, search=12)


async def test_a_verification_that_is_turned_down() -> None:
    """Not verified, and the run is none the worse for it."""
    stage = Stage(3)
    seed_some(stage, 3, every=1)
    stage.gateway.every_search = lambda: fresh_token(1)
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(0, 0, 0, unsearched=3)
    assert ending.findings.why == "searches were refused (HTTP 401: no)"
    assert ending.stop is None


async def test_legs_that_are_still_to_come_are_open() -> None:
    """What was in doubt comes first: one of it that is turned down stops nothing."""
    stage = Stage(4)
    stage.gateway.cancels[device(0)] = [STALE_TOKEN, fresh_token(1), OK]
    legs = (Leg(1, limit=1), Leg(1))
    stage.gateway.cancels[device(1)] = [OK]
    await stage.run(legs)
    assert stage.switch.stop is not None  # nothing had worked
    stage = Stage(4)
    stage.gateway.cancels[device(1)] = [STALE_TOKEN, fresh_token(1), OK]
    await stage.run((Leg(1, limit=2), Leg(1)))
    assert stage.switch.stop is None
    assert stage.counts() == {"nothing_cached": 4}
