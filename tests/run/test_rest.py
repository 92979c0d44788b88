"""A Retry-After outlives its process: kept in the ledger, waited out by the next (row 107)."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sqlalchemy import event

from tests.run.fake_gateway import LATENCY, Fate, throttled, unavailable
from tests.run.rig import device
from tests.run.stage import GATEWAY, All, Stage, rules
from worker.model import NotSent, Requests, Stop, Verified
from worker.run.rest import rest_of

MAX = 300.0  # s, of retry.retry_after_max
SOON = 0.1  # s that the ledger takes


async def first_request(stage: Stage) -> float:
    """Seconds from the start of a run to its first request."""
    began = stage.clock.monotonic()
    await stage.run()
    return stage.gateway.log[0].at - began


def following(stage: Stage) -> Stage:
    """Another run on the same ledger, now, against a gateway that has recovered."""
    return Stage(1, clock=stage.clock, store=stage.store, run_id="r2", disk=0.001)


@pytest.mark.parametrize("fate", [throttled(100.0), unavailable(retry_after=100.0)])
async def test_the_next_process_waits_it_out(fate: Fate) -> None:
    """To the second, whatever ended the process that heard it; before it nothing is sent."""
    stage = Stage(3, rules=rules(concurrency=1))
    stage.gateway.cancels[device(0)] = [fate]
    await stage.run(stop_at=20.0)
    assert len(stage.gateway.log) == 1
    after = await first_request(following(stage))
    assert 80.0 + LATENCY <= after <= 81.0 + LATENCY + SOON


async def test_it_is_over_once_it_was_waited_for() -> None:
    """The run after that does not wait, and nothing is left in the ledger."""
    stage = Stage(2, rules=rules(concurrency=1))
    stage.gateway.cancels[device(0)] = [throttled(100.0)]
    await stage.run(stop_at=1.0)
    await following(stage).run()
    assert stage.store.pause(GATEWAY) is None
    other = Stage(2, clock=stage.clock, store=stage.store, run_id="r3")
    assert await first_request(other) < SOON


async def test_no_token_is_asked_for_before() -> None:
    """The rest holds every request, the first token included."""
    stage = Stage(1)
    stage.store.keep_pause(GATEWAY, stage.clock.wall_ms() + 60_000)
    stage.gateway.tokens = [NotSent("no_token", rule="no_token", message="none")]
    ending = await stage.run(stop_at=59.0)
    assert ending.stop == Stop("signal", "SIGTERM received")
    assert len(stage.gateway.tokens) == 1


@pytest.mark.parametrize("ahead", [301, 3600, 10**9])
async def test_never_longer_than_retry_after_max(ahead: int) -> None:
    """A clock that was set back, or a smaller retry_after_max: then it is forgotten."""
    stage = Stage(1)
    stage.store.keep_pause(GATEWAY, stage.clock.wall_ms() + ahead * 1000)
    assert MAX <= await first_request(stage) <= MAX + SOON
    assert stage.store.pause(GATEWAY) is None


@pytest.mark.parametrize("ago", [0, 1, 10**9])
async def test_one_that_has_passed_keeps_nobody(ago: int) -> None:
    """Nor is it kept any longer."""
    stage = Stage(1)
    stage.store.keep_pause(GATEWAY, stage.clock.wall_ms() - ago * 1000)
    assert await first_request(stage) < SOON
    assert stage.store.pause(GATEWAY) is None


async def test_one_that_another_process_makes_longer() -> None:
    """Who waits hears of it, and does not forget what is not over."""
    stage = Stage(1)
    until_ms = stage.clock.wall_ms() + 30_000
    stage.store.keep_pause(GATEWAY, until_ms)

    def longer(seconds: float) -> None:
        if len(stage.book.rested) == 1:
            stage.store.keep_pause(GATEWAY, until_ms + 30_000)

    stage.book.on_rest = longer
    assert 60.0 <= await first_request(stage) <= 60.0 + SOON
    assert [round(seconds) for seconds in stage.book.rested] == [30, 30]


@pytest.mark.parametrize(
    ("bound", "rule"), [({"deadline": 60.0}, "deadline"), ({"until": 60.0}, "window")]
)
async def test_one_that_passes_the_end_of_the_run(bound: dict[str, float], rule: str) -> None:
    """Not waited for: the run ends as it would then, at once, and the rest stays kept (8)."""
    stage = Stage(2)
    wall_ms = stage.clock.wall_ms()
    until_ms = wall_ms + round(bound["until"] * 1000) if "until" in bound else None
    stage = Stage(2, clock=stage.clock, deadline=bound.get("deadline"), until_ms=until_ms)
    stage.store.keep_pause(GATEWAY, wall_ms + 60_000)
    ending = await stage.run()
    assert ending.stop is not None
    assert (ending.stop.rule, stage.gateway.log, stage.book.rested) == (rule, [], [])
    assert stage.counts() == {"not_attempted": 2}
    assert stage.clock.monotonic() < SOON
    assert stage.store.pause(GATEWAY) == wall_ms + 60_000


async def test_one_that_this_run_may_not_wait_for_is_kept_too() -> None:
    """Too long, or past the deadline: the process that heard it stops, the next one waits."""
    for seconds, deadline in ((100.0, 50.0), (3600.0, None), (math.inf, None)):
        stage = Stage(2, rules=rules(concurrency=1), deadline=deadline)
        stage.gateway.cancels[device(0)] = [throttled(seconds)]
        ending = await stage.run()
        assert ending.stop is not None
        after = await first_request(following(stage))
        assert min(seconds, MAX) <= after + LATENCY + SOON <= min(seconds, MAX) + 1.0 + 2 * SOON


async def test_a_backoff_of_our_own_is_not_kept() -> None:
    """A 429 without Retry-After asks for nothing that another process could keep."""
    stage = Stage(2)
    stage.gateway.cancels[device(0)] = [throttled(), unavailable()]
    await stage.run()
    assert stage.store.pause(GATEWAY) is None


async def test_replies_of_one_second_are_written_once() -> None:
    """Sixteen in flight that all say so are one row and one write."""
    stage = Stage(16)
    for number in range(16):
        stage.gateway.cancels[device(number)] = [throttled(30.0)]
    written: list[str] = []

    def note(*said: Any) -> None:
        written.extend(["pause"] * said[2].startswith("INSERT INTO pause"))

    event.listen(stage.store._database.engine, "before_cursor_execute", note)
    await stage.run()
    assert written == ["pause"]


async def test_a_verification_waits_as_well() -> None:
    """`verify` and `plan --preview` only search, and keep to it, and keep what they hear."""
    stage = Stage(1)
    stage.store.keep_pause(GATEWAY, stage.clock.wall_ms() + 60_000)
    verifying = following(stage)
    verifying.gateway.searches[device(0)] = [throttled(100.0)] * 99
    began = stage.clock.monotonic()
    found = await verifying.session.look(All(verifying), None)
    assert found.verified() == Verified(0, 0, 0, unsearched=1)
    assert verifying.gateway.log[0].at - began >= 60.0
    assert stage.store.pause(GATEWAY) is not None


async def test_a_signal_ends_the_wait() -> None:
    """Nothing was sent, and nothing is forgotten."""
    stage = Stage(2)
    until_ms = stage.clock.wall_ms() + 60_000
    stage.store.keep_pause(GATEWAY, until_ms)
    ending = await stage.run(stop_at=10.0)
    assert (ending.stop, ending.requests) == (Stop("signal", "SIGTERM received"), Requests())
    assert stage.clock.monotonic() < 10.0 + SOON
    assert stage.store.pause(GATEWAY) == until_ms


async def test_the_clock_is_set_back_while_it_waits() -> None:
    """It waits no longer than retry_after_max from its start, by a clock that nobody sets."""
    stage = Stage(1)
    stage.store.keep_pause(GATEWAY, stage.clock.wall_ms() + 60_000)
    stage.book.on_rest = lambda seconds: stage.clock.jump(-3_600_000)
    assert MAX <= await first_request(stage) <= MAX + SOON


@pytest.mark.parametrize(
    ("kept", "until"), [(1000, None), (1001, 1001), (301_000, 301_000), (301_001, 301_000)]
)
def test_what_the_header_says(kept: int, until: int | None) -> None:
    """Until when a process that begins at 1000 ms waits."""
    assert rest_of(kept, 1000, MAX) == until
