"""One request and what its reply means for everybody."""

from __future__ import annotations

import asyncio
import math

import anyio
import pytest

from tests.run.fake_gateway import (
    BAD_REQUEST,
    FORBIDDEN,
    LATENCY,
    OK,
    REDIRECT,
    STALE_TOKEN,
    TLS,
    TOKEN_GONE,
    Fate,
    foreign,
    fresh_token,
    lost,
    refused,
    slow,
    throttled,
    unavailable,
    unsent,
)
from tests.run.rig import ORG, Rig, device
from tests.simulation.clock import VirtualClock
from worker.model import (
    Ambiguous,
    Answered,
    CancelAll,
    CancelOne,
    Evidence,
    NotSent,
    Page,
    Refused,
    Requests,
    Stop,
)
from worker.run.retry import RetryRules
from worker.run.wire import Halted

ALL = CancelAll(device(), ORG)
ONE = CancelOne(device(), ORG, "1")
CHECK = "are the keys for this gateway, is this machine's clock right?"


def _nothing() -> None:
    return None


async def cancel(rig: Rig, *fates: Fate, call: CancelAll | CancelOne = ALL) -> Evidence:
    rig.gateway.cancels[call.device] = list(fates)
    return await rig.wire.cancel(call, again=False, departs=_nothing)


async def test_an_answer_passes_as_it_is() -> None:
    """Evidence reaches the caller unchanged, and one cancel is counted."""
    rig = Rig()
    assert await cancel(rig, OK) == Answered((), "r1")
    assert rig.wire.requests == Requests(cancel=1)
    assert rig.switch.stop is None


async def test_searches_and_repetitions_are_counted_apart() -> None:
    """requests: {cancel, search, retried} (interface: -o json)."""
    rig = Rig()
    assert isinstance(await rig.wire.search(device(), ORG, 1, 1), Page)
    await rig.wire.cancel(ALL, again=True, departs=_nothing)
    assert rig.wire.requests == Requests(cancel=1, search=1, retried=1)


async def test_departure_is_told_when_it_happens() -> None:
    """departs is called when the request goes out, not when it begins to wait for that."""
    rig = Rig()
    rig.pace.pause(30.0)
    left: list[float] = []
    await rig.wire.cancel(ALL, again=False, departs=lambda: left.append(rig.clock.monotonic()))
    assert left == [30.0]


# ---------------------------------------------------------------- tokens


async def test_a_stale_token_is_handed_on_as_it_is() -> None:
    """A 401 is one request; whether it is sent again is the call's to decide (rows 19, 101)."""
    rig = Rig()
    assert await cancel(rig, STALE_TOKEN, OK) == STALE_TOKEN.said
    assert rig.wire.requests == Requests(cancel=1)
    assert rig.switch.stop is None


async def test_token_taken_away_while_waiting() -> None:
    """Somebody's 401 took the token between authorize and sending: nothing went out, go on."""
    rig = Rig()
    assert await cancel(rig, TOKEN_GONE, TOKEN_GONE, OK) == Answered((), "r3")
    assert rig.wire.requests == Requests(cancel=1)


async def test_a_fresh_token_refused_before_any_success_stops_the_run() -> None:
    """Rule auth at once, and the call was not attempted (row 101)."""
    rig = Rig()
    with pytest.raises(Halted):
        await cancel(rig, fresh_token(1))
    message = "the gateway turned down a token that it had just given: " + CHECK + "; no"
    assert rig.switch.stop == Stop("auth", message, count=1, of=1)
    assert rig.pace.in_flight == 0


async def test_a_token_refused_while_the_run_stops_leaves_the_call_open() -> None:
    """What is proven not executed and may go again is not attempted, whatever stopped the run."""
    rig = Rig()
    asyncio.get_running_loop().call_later(0.01, rig.switch.throw, Stop("signal", "SIGTERM"))
    with pytest.raises(Halted):
        await cancel(rig, STALE_TOKEN)


async def test_no_search_stops_the_run_for_its_token() -> None:
    """Searches never count for the rule auth, not even before the first success (row 101)."""
    rig = Rig()
    rig.gateway.searches[device()] = [fresh_token(n) for n in range(1, 9)]
    for _ in range(8):
        assert isinstance(await rig.wire.search(device(), ORG, 1, 1), Refused)
    assert rig.switch.stop is None


async def test_no_token_stops_the_run() -> None:
    """No token after all tries: rule no_token, and nothing was sent (row 21)."""
    rig = Rig()
    rig.gateway.tokens = [NotSent("no_token", rule="no_token", message="503 from /token/get")]
    with pytest.raises(Halted):
        await cancel(rig, OK)
    assert rig.switch.stop == Stop("no_token", "503 from /token/get", count=1, of=1)
    assert rig.gateway.log == []


async def test_no_token_because_the_run_stops() -> None:
    """A wait for a token that the stop ended is no second reason."""
    rig = Rig()
    rig.gateway.tokens = [NotSent("stopping", retryable=False)]
    with pytest.raises(Halted):
        await cancel(rig, OK)
    assert rig.switch.stop is None


# ---------------------------------------------------------------- pauses


async def test_429_makes_everybody_wait() -> None:
    """Without Retry-After the whole client backs off, from wait_initial with full jitter."""
    rig = Rig()
    evidence = await cancel(rig, throttled())
    assert isinstance(evidence, Refused)
    ((seconds, status),) = rig.book.pauses
    assert status == 429
    assert 0.0 <= seconds < 0.5
    assert rig.pace.paused_until == pytest.approx(LATENCY + seconds)


async def test_429s_in_a_row_wait_longer() -> None:
    """The ceiling doubles with each 429 in a row; any other reply starts anew (row 25)."""

    async def longest(*before: Fate) -> float:
        most = 0.0
        for seed in range(60):
            rig = Rig(clock=VirtualClock(seed))
            for fate in before:
                await cancel(rig, fate)
            most = max(most, rig.book.pauses[-1][0])
        return most

    assert 0.4 < await longest(throttled()) < 0.5
    assert 0.8 < await longest(throttled(), throttled()) < 1.0
    assert 1.6 < await longest(throttled(), throttled(), throttled()) < 2.0
    assert 0.4 < await longest(throttled(), throttled(), OK, throttled()) < 0.5


@pytest.mark.parametrize("fate", [throttled(30.0), unavailable(retry_after=30.0)])
async def test_retry_after_is_kept_to_by_all(fate: Fate) -> None:
    """No cancel and no search before a Retry-After has passed, of 429 or 503 (row 26)."""
    rig = Rig()
    await cancel(rig, fate)
    async with anyio.create_task_group() as group:
        for number in range(1, 4):
            group.start_soon(rig.wire.search, device(number), ORG, 1, 1)
        await cancel(rig, OK)
    assert [s.at for s in rig.gateway.log[1:]] == [pytest.approx(30.0 + LATENCY)] * 4
    assert rig.book.pauses == [(30.0, 429 if fate == throttled(30.0) else 503)]


async def test_503_without_retry_after_pauses_nobody() -> None:
    """A bare 503 is looked up, not waited for; it only takes places away (row 24, 29)."""
    rig = Rig(concurrency=8)
    await cancel(rig, unavailable())
    assert rig.book.pauses == []
    assert rig.pace.window == 4


@pytest.mark.parametrize("seconds", [300.1, math.inf])
async def test_retry_after_too_long_stops(seconds: float) -> None:
    """Above retry_after_max: stop (5), never a sleep of years (row 27)."""
    rig = Rig(deadline=60.0)
    await cancel(rig, throttled(seconds))
    assert rig.switch.stop is not None
    assert rig.switch.stop.rule == "retry_after"
    assert "inf" not in rig.switch.stop.message


async def test_retry_after_at_its_bound_is_waited_for() -> None:
    """Exactly retry_after_max is waited for."""
    rig = Rig(retry=RetryRules(retry_after_max=300.0))
    await cancel(rig, throttled(300.0))
    assert rig.switch.stop is None
    assert rig.pace.paused_until == pytest.approx(300.0 + LATENCY)


async def test_retry_after_past_the_deadline() -> None:
    """One that only passes the deadline ends the run as the deadline would (8, row 27)."""
    rig = Rig(deadline=60.0)
    await cancel(rig, throttled(59.0))
    assert rig.switch.stop is None
    await anyio.sleep(0.0)
    rig = Rig(deadline=60.0)
    await cancel(rig, throttled(60.0))
    assert rig.switch.stop is not None
    assert rig.switch.stop.rule == "deadline"


async def test_nothing_starts_after_the_deadline() -> None:
    """A request that comes through the gate after the deadline is not sent (invariant 10)."""
    rig = Rig(deadline=60.0)
    rig.pace.pause(61.0)
    with pytest.raises(Halted):
        await cancel(rig, OK)
    assert rig.gateway.log == []
    assert rig.pace.in_flight == 0
    assert rig.switch.stop is not None
    assert rig.switch.stop.rule == "deadline"


async def test_nothing_starts_after_a_stop() -> None:
    """Halted instead of a request once the run is stopping."""
    rig = Rig()
    rig.switch.throw(Stop("signal", "SIGTERM"))
    with pytest.raises(Halted):
        await cancel(rig, OK)
    assert rig.gateway.log == []


# ---------------------------------------------------------------- what stops a run


@pytest.mark.parametrize("anomaly", ["other_device", "other_command", "malformed_id"])
async def test_an_anomaly_stops_the_run(anomaly: str) -> None:
    """A broken contract ends the run with the requestId at hand (rows 71, 78, 80)."""
    rig = Rig()
    await cancel(rig, foreign(anomaly))
    assert rig.switch.stop is not None
    assert (rig.switch.stop.rule, rig.switch.stop.request_ids) == ("anomaly", ("r1",))


@pytest.mark.parametrize(("fate", "rule"), [(REDIRECT, "redirect"), (TLS, "tls")])
async def test_rules_of_the_way_stop_the_run(fate: Fate, rule: str) -> None:
    """Any redirect and any TLS failure end the run (rows 17, 18, 37)."""
    rig = Rig()
    evidence = await cancel(rig, fate)
    assert evidence == fate.said
    assert rig.switch.stop is not None
    assert rig.switch.stop.rule == rule


async def test_first_cancel_all_refused_as_bad_request() -> None:
    """99400 to the first cancel-all: is orgId right? Only then a gateway that wants a commandId."""
    rig = Rig()
    said = Refused(200, 99400, "bad_request", message="no \x1borgId", requestId="r-no")
    await cancel(rig, Fate(executed=False, said=said))
    assert rig.switch.stop == Stop(
        "cancel_all_refused",
        "the gateway refused the first cancel-all (HTTP 200, code 99400: no \\x1borgId): is orgId "
        "o1 right? Only if it is, and this gateway requires a commandId, set "
        "gateway.cancel_all: by_id",
        count=1,
        of=1,
        request_ids=("r-no",),
    )


@pytest.mark.parametrize("before", [OK, FORBIDDEN, refused(200, 99404, "not_found")])
async def test_a_later_99400_is_one_devices_trouble(before: Fate) -> None:
    """Once a cancel-all was answered, 99400 refuses one device only."""
    rig = Rig()
    await cancel(rig, before)
    await cancel(rig, BAD_REQUEST)
    assert rig.switch.stop is None


@pytest.mark.parametrize(
    "before", [lost(), unsent(), unavailable(), throttled(), refused(503, 7, "x", transient=True)]
)
async def test_what_is_no_answer_leaves_the_first_open(before: Fate) -> None:
    """Lost, unsent and refused-for-now do not answer the question whether cancel-all works."""
    rig = Rig()
    await cancel(rig, before)
    await cancel(rig, BAD_REQUEST)
    assert rig.switch.stop is not None


async def test_99400_to_a_call_by_id_stops_nothing() -> None:
    """Only a cancel-all can be the wrong kind of call."""
    rig = Rig()
    await cancel(rig, BAD_REQUEST, call=ONE)
    assert rig.switch.stop is None


# ---------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("fate", "window"),
    [
        (OK, 8),
        (slow(29.0), 8),
        (unavailable(), 4),
        (refused(503, 7, "code_7", transient=True), 4),
        (throttled(), 4),
        (lost("request_timeout"), 4),
        (unsent("connect_timeout"), 4),
        (unsent("no_descriptors"), 4),
        (unsent("refused"), 8),
        (lost("disconnected"), 8),
    ],
)
async def test_what_takes_places_away(fate: Fate, window: int) -> None:
    """429, 503, timeouts and missing descriptors halve what may be in flight (rows 29, 54)."""
    rig = Rig(concurrency=8)
    await cancel(rig, fate)
    assert rig.pace.window == window


async def test_a_bug_gives_its_place_back() -> None:
    """Whatever is raised while a request is out, its place is free again (row 55)."""
    rig = Rig(concurrency=1)
    with pytest.raises(RuntimeError):
        await cancel(rig, Fate(bug=True))
    assert rig.pace.in_flight == 0
    assert isinstance(await cancel(rig, OK), Answered)


async def test_ambiguous_is_handed_on_whole() -> None:
    """The wire draws consequences and changes nothing of the evidence."""
    rig = Rig()
    assert await cancel(rig, lost("truncated")) == Ambiguous("truncated")
