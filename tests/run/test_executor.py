"""The course of one target against a gateway that keeps the truth, fault by fault."""

from __future__ import annotations

import anyio
import pytest

from tests.run.fake_gateway import (
    BAD_REQUEST,
    BUG,
    FORBIDDEN,
    LATENCY,
    NOT_FOUND,
    OK,
    STALE_TOKEN,
    TLS,
    WRONG_PATH,
    Fate,
    lost,
    partial,
    refused,
    swallowed,
    throttled,
    unsent,
)
from tests.run.one_target import D, ended, results, seeded, told
from tests.run.rig import Rig, listed, whole
from worker.ledger.entry import ClaimedTarget
from worker.model import OutcomeKind, Stop
from worker.run.retry import RetryRules

K = OutcomeKind


pytestmark = pytest.mark.usefixtures("both_ways")


# ---------------------------------------------------------------- answered


async def test_answered() -> None:
    """200 with commands: cancelled, with the reply as evidence; no search is made."""
    rig = seeded("1", "2")
    outcome = await ended(rig)
    assert told(outcome) == (K.CANCELLED, None, ["1", "2"], "response")
    assert (outcome.attempts, outcome.tainted, outcome.http_status) == (1, False, 200)
    assert rig.gateway.sent("search") == []


async def test_nothing_cached() -> None:
    """200 with an empty list and no doubt before: nothing_cached (row 75)."""
    rig = Rig()
    assert told(await ended(rig)) == (K.NOTHING_CACHED, None, [], "response")
    assert rig.gateway.sent("search") == []


async def test_listed_sends_one_call_an_id_in_order() -> None:
    """A listed target sends its ids one after another and never a cancel-all (invariant 1)."""
    rig = seeded("1", "2", "3")
    outcome = await ended(rig, ids=("3", "1"))
    assert told(outcome) == (K.CANCELLED, None, ["1", "3"], "response")
    assert [s.commandId for s in rig.gateway.sent("cancel")] == ["3", "1"]
    assert rig.gateway.cancelled(D) == {"1", "3"}


async def test_listed_too_late() -> None:
    """An id that is not cached any more: too_late, the command not_cached (row 79)."""
    rig = seeded("2")
    outcome = await ended(rig, ids=("1",))
    assert told(outcome) == (K.TOO_LATE, None, [], "response")
    assert results(outcome) == [("1", "not_cached")]


async def test_listed_partly_gone_is_cancelled() -> None:
    """One id cancelled, one gone: cancelled, and commands[] says which (row 79)."""
    outcome = await ended(seeded("2"), ids=("1", "2"))
    assert outcome.kind is K.CANCELLED
    assert results(outcome) == [("2", "cancelled"), ("1", "not_cached")]


async def test_identity_and_ids_are_kept_once() -> None:
    """An id that a reply lists twice counts once (row 73)."""
    rig = seeded("1")
    rig.gateway.devices[D].append(rig.gateway.devices[D][0])
    outcome = await ended(rig)
    assert told(outcome)[2] == ["1"]


# ---------------------------------------------------------------- not sent, refused


async def test_connection_refused_then_answered() -> None:
    """Not sent is repeated freely, without a look-up (row 1)."""
    rig = seeded("1")
    outcome = await ended(rig, unsent(), unsent())
    assert told(outcome) == (K.CANCELLED, None, ["1"], "response")
    assert (outcome.attempts, outcome.tainted) == (3, False)
    assert len(rig.book.retries) == 2
    assert rig.wire.requests.retried == 2


async def test_connection_refused_for_good() -> None:
    """Attempts spent: failed, proven not executed, and a later pass may try again (row 1)."""
    rig = seeded("1")
    outcome = await ended(rig, *[unsent()] * 9)
    assert told(outcome) == (K.FAILED, "refused", [], None)
    assert outcome.attempts == 4
    assert rig.gateway.cancelled(D) == set()


async def test_tls_failure_is_not_repeated() -> None:
    """TLS: the target failed, once; the run stops (row 37)."""
    rig = seeded("1")
    assert told(await ended(rig, TLS)) == (K.FAILED, "tls", [], None)
    assert len(rig.gateway.sent("cancel")) == 1


@pytest.mark.parametrize(
    ("fate", "kind", "cause"),
    [
        (FORBIDDEN, K.REJECTED, "forbidden"),
        (BAD_REQUEST, K.REJECTED, "bad_request"),
        (WRONG_PATH, K.REJECTED, "wrong_path"),
        (NOT_FOUND, K.NOT_FOUND, "not_found"),
    ],
)
async def test_refused_for_good(fate: Fate, kind: OutcomeKind, cause: str) -> None:
    """A permanent refusal is not repeated and not looked up (rows 22, 23, 30)."""
    rig = seeded("1")
    outcome = await ended(rig, fate)
    assert told(outcome) == (kind, cause, [], "response")
    assert (outcome.message, outcome.requestId, len(rig.gateway.log)) == ("no", "r-no", 1)


async def test_listed_stops_at_not_found() -> None:
    """A device that does not exist is not asked for its other commands (row 23)."""
    rig = Rig()
    outcome = await ended(rig, NOT_FOUND, ids=("1", "2"))
    assert outcome.kind is K.NOT_FOUND
    assert len(rig.gateway.log) == 1


async def test_listed_goes_on_behind_a_refusal() -> None:
    """One id refused, the next cancelled: cancelled_incomplete, each with its own result."""
    outcome = await ended(seeded("1", "2"), BAD_REQUEST, ids=("1", "2"))
    assert told(outcome) == (K.CANCELLED_INCOMPLETE, "bad_request", ["2"], "response")
    assert results(outcome) == [("2", "cancelled"), ("1", "rejected")]


async def test_throttled_until_spent() -> None:
    """429 four times: failed with cause throttled (row 25)."""
    rig = seeded("1")
    outcome = await ended(rig, *[throttled()] * 4)
    assert told(outcome) == (K.FAILED, "throttled", [], "response")


@pytest.mark.parametrize(
    "fates",
    [
        (unsent(), throttled(), throttled(), throttled()),
        (throttled(), throttled(), throttled(), unsent()),
        (swallowed(), throttled(), throttled(), throttled()),
    ],
)
async def test_not_only_throttled(fates: tuple[Fate, ...]) -> None:
    """Only who only ever got 429 is left out of the abort rules, so others say otherwise."""
    outcome = await ended(seeded("1"), *fates)
    assert outcome.kind is K.FAILED
    assert outcome.cause in ("refused", "disconnected")


async def test_throttled_then_answered() -> None:
    """After the pause that all keep, a 429 is repeated without a wait of its own (row 26)."""
    rig = seeded("1")
    outcome = await ended(rig, throttled(30.0))
    assert told(outcome) == (K.CANCELLED, None, ["1"], "response")
    assert [s.at for s in rig.gateway.sent("cancel")] == [0.0, pytest.approx(30.0 + LATENCY)]


async def test_stale_token_costs_no_attempt() -> None:
    """The first 401 of a call is no attempt, so that it leaves all four (row 19)."""
    rig = seeded("1")
    outcome = await ended(rig, STALE_TOKEN, unsent(), unsent(), unsent())
    assert (outcome.kind, outcome.attempts) == (K.CANCELLED, 4)


async def test_added_code_is_transient() -> None:
    """A refusal code that is known to come before execution is repeated, then failed."""
    rig = seeded("1")
    busy = refused(503, 777, "code_777", transient=True)
    assert told(await ended(rig, busy)) == (K.CANCELLED, None, ["1"], "response")
    rig = seeded("1")
    assert told(await ended(rig, *[busy] * 4)) == (K.FAILED, "code_777", [], "response")


async def test_elapsed_ends_a_target() -> None:
    """After `elapsed` nothing is repeated, whatever attempts are left."""
    rig = seeded("1", retry=RetryRules(attempts=50, elapsed=20.0, budget=1.0, budget_reserve=50))
    outcome = await ended(rig, *[Fate(executed=False, said=unsent().said, takes=8.0)] * 50)
    assert outcome.kind is K.FAILED
    assert outcome.attempts == 3
    assert rig.gateway.sent("cancel")[-1].at <= 20.0


# ---------------------------------------------------------------- stops and bugs


async def test_stop_while_a_look_up_waits() -> None:
    """What may have been executed is unknown when the run ends first (row 42)."""
    rig = seeded("1")
    rig.gateway.cancels[D] = [lost()]
    async with anyio.create_task_group() as group:

        async def stop() -> None:
            await anyio.sleep(1.0)
            rig.switch.throw(Stop("signal", "SIGTERM"))

        group.start_soon(stop)
        outcome = await rig.run(whole())
    assert outcome is not None
    assert told(outcome) == (K.UNKNOWN, "disconnected", [], None)


async def test_stop_while_a_retry_waits() -> None:
    """What is proven not executed and waits is not attempted."""
    rig = seeded("1", retry=RetryRules(wait_initial=60.0, wait_max=60.0))
    rig.gateway.cancels[D] = [unsent()]
    async with anyio.create_task_group() as group:

        async def stop() -> None:
            await anyio.sleep(0.2)
            rig.switch.throw(Stop("signal", "SIGTERM"))

        group.start_soon(stop)
        assert await rig.run(whole()) is None


async def test_a_bug_comes_out_of_the_course() -> None:
    """An exception of ours is not swallowed here; the case says that a request was out (55)."""
    rig = seeded("1")
    rig.gateway.cancels[D] = [BUG]
    case = rig.runner._open(ClaimedTarget(whole(), 0))
    with pytest.raises(RuntimeError):
        await rig.drive(case)
    assert case.calls[0].sending
    case = rig.runner._open(ClaimedTarget(whole(), 0))
    rig.pace.enter = _broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        await rig.drive(case)
    assert not case.calls[0].sending, "a bug before anything went out"


def _broken(now: float, *, waited: bool = False) -> int | None:
    raise RuntimeError("a bug of ours")


async def test_doubt_is_on_record_before_the_look_up() -> None:
    """An ambiguous target is handed to the ledger before anything waits (design 2)."""
    rig = seeded("1")
    rig.gateway.cancels[D] = [partial(1), OK]
    await rig.run(whole())
    entry = rig.book.entries[0]
    assert [c.command.commandId for c in entry.commands] == ["1"]
    (mark,) = rig.book.doubts
    sent_ms = rig.gateway.gateway_ms() - round(rig.clock.monotonic() * 1000)
    assert (mark.cause, mark.attempts) == ("partial_reply", 1)
    assert mark.first_sent_ms == mark.last_sent_ms == pytest.approx(sent_ms, abs=1)


async def test_each_call_is_on_record_before_the_next() -> None:
    """A listed target hands over what a call told before the next call goes out."""
    rig = seeded("1", "2", "3")
    await rig.run(listed("1", "2", "3"))
    told_ids = [[c.command.commandId for c in e.commands] for e in rig.book.entries]
    assert told_ids == [["1"], ["2"]]
