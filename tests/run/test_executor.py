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
    REDIRECT,
    STALE_TOKEN,
    TLS,
    WRONG_PATH,
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
from worker.ledger.entry import ClaimedTarget
from worker.model import Outcome, OutcomeKind, Refused, Stop
from worker.run.reconcile import LookupRules
from worker.run.retry import RetryRules

K = OutcomeKind
D = device()
DENIED = Fate(executed=False, said=Refused(403, 99403, "forbidden"))
SPENT = RetryRules(budget=0.0, budget_reserve=0)


async def ended(rig: Rig, *fates: Fate, ids: tuple[str, ...] = ()) -> Outcome:
    """What a target came to under these fates: cancel-all, or a call for each of the ids."""
    rig.gateway.cancels[D] = list(fates)
    outcome = await rig.run(listed(*ids) if ids else whole())
    assert outcome is not None
    return outcome


def told(outcome: Outcome) -> tuple[OutcomeKind, str | None, list[str], str | None]:
    """Kind, cause, cancelled ids, evidence."""
    ids = sorted(c.command.commandId for c in outcome.commands if c.result == "cancelled")
    return outcome.kind, outcome.cause, ids, outcome.evidence


def results(outcome: Outcome) -> list[tuple[str, str]]:
    return [(c.command.commandId, c.result) for c in outcome.commands]


def seeded(*ids: str, **options: object) -> Rig:
    rig = Rig(**options)  # type: ignore[arg-type]
    rig.gateway.seed(D, *ids)
    return rig


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
    """A 401 is no attempt, so that four of them leave all four (row 19)."""
    rig = seeded("1")
    fates = [STALE_TOKEN, unsent(), STALE_TOKEN, unsent(), STALE_TOKEN, unsent()]
    outcome = await ended(rig, *fates)
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


# ---------------------------------------------------------------- ambiguous: the look-up


@pytest.mark.parametrize(
    "fate", [lost(), lost("request_timeout"), lost("truncated"), unavailable(executed=True)]
)
async def test_executed_and_reply_lost(fate: Fate) -> None:
    """Looked up: found in state 2, cancelled with evidence search, never sent again (5, 24, 41)."""
    rig = seeded("1", "2")
    outcome = await ended(rig, fate)
    assert told(outcome)[0::2] == (K.CANCELLED, ["1", "2"])
    assert (outcome.evidence, outcome.tainted, outcome.attempts) == ("search", True, 1)
    assert len(rig.gateway.sent("cancel")) == 1


async def test_lost_where_nothing_was() -> None:
    """Nothing cached and nothing newly cancelled: nothing_cached, by search (row 41)."""
    rig = Rig()
    assert told(await ended(rig, lost())) == (K.NOTHING_CACHED, "disconnected", [], "search")


async def test_order_and_delay_of_the_searches() -> None:
    """State 1 first, then state 2, `lookup.wait` after the reply was lost."""
    rig = Rig(lookup=LookupRules(wait=2.0))
    await ended(rig, lost())
    searches = [(s.state, round(s.at, 6)) for s in rig.gateway.sent("search")]
    assert searches == [(1, 2.0 + LATENCY), (2, 2.0 + 2 * LATENCY)]


async def test_not_executed_is_repeated() -> None:
    """Still cached at the last try: not executed, sent again; the answer is looked up too (77)."""
    rig = seeded("1")
    outcome = await ended(rig, swallowed())
    assert told(outcome)[0] is K.CANCELLED
    assert (outcome.commands[0].evidence, outcome.attempts) == ("response", 2)
    assert [s.kind for s in rig.gateway.log] == [
        "cancel",
        "search",
        "search",
        "search",
        "search",
        "cancel",
        "search",
        "search",
    ]


async def test_still_cached_is_concluded_from_the_last_try_only() -> None:
    """A search that lags shows the command as cached at first: the second try has the word."""
    rig = Rig(gateway=FakeGateway(clock := VirtualClock(), lag=2.5), clock=clock)
    rig.gateway.seed(D, "1")
    outcome = await ended(rig, lost())
    assert told(outcome)[::2] == (K.CANCELLED, ["1"])
    assert len(rig.gateway.sent("cancel")) == 1


async def test_all_four_swallowed() -> None:
    """Looked up as not executed until attempts are spent: failed, not unknown (row 5)."""
    rig = seeded("1")
    outcome = await ended(rig, *[swallowed()] * 4)
    assert told(outcome) == (K.FAILED, "disconnected", [], "search")
    assert outcome.attempts == 4
    assert len(rig.gateway.sent("search")) == 4 * 2 * 2
    assert not rig.switch.stop


async def test_budget_denied_target_is_looked_up_and_settles() -> None:
    """No budget for a repetition: failed by what the look-up proved, after one attempt (28)."""
    rig = seeded("1", retry=SPENT)
    outcome = await ended(rig, swallowed())
    assert told(outcome) == (K.FAILED, "disconnected", [], "search")
    assert outcome.attempts == 1
    rig = seeded("1", retry=SPENT)
    assert told(await ended(rig, lost()))[::2] == (K.CANCELLED, ["1"])


async def test_empty_answer_after_doubt_is_looked_up() -> None:
    """200 [] after an ambiguous attempt proves nothing by itself (row 76)."""
    rig = Rig(gateway=FakeGateway(clock := VirtualClock(), lag=6.0), clock=clock)
    rig.gateway.seed(D, "1")
    outcome = await ended(rig, lost(), OK)  # both tries lag: sent again, and there is nothing left
    assert told(outcome)[::2] == (K.CANCELLED, ["1"])
    assert outcome.commands[0].evidence == "search"
    assert outcome.attempts == 2


async def test_empty_answer_after_doubt_and_no_search_is_unknown() -> None:
    """200 [] after an ambiguous attempt and no usable search: unknown (row 76)."""
    rig = Rig()
    rig.gateway.seed(D, "1")
    rig.gateway.searches[D] = [OK] * 4
    rig.gateway.every_search = unsent
    outcome = await ended(rig, swallowed(), Fate(executed=False))
    assert told(outcome) == (K.UNKNOWN, "search_failed", [], None)


async def test_ids_after_doubt_are_recorded_and_looked_up() -> None:
    """200 with ids after an ambiguous attempt, not settled by search: incomplete (row 77)."""
    rig = seeded("1")
    rig.gateway.searches[D] = [OK] * 4
    rig.gateway.every_search = unsent
    outcome = await ended(rig, swallowed())
    assert told(outcome) == (K.CANCELLED_INCOMPLETE, "search_failed", ["1"], "response")


async def test_partial_reply() -> None:
    """Ids of a reply that broke off keep `response`, the others are found by search (row 10)."""
    rig = seeded("1", "2", "3")
    outcome = await ended(rig, partial(1))
    assert told(outcome) == (K.CANCELLED, "partial_reply", ["1", "2", "3"], "search")
    proofs = {c.command.commandId: c.evidence for c in outcome.commands}
    assert proofs == {"1": "response", "2": "search", "3": "search"}


async def test_partial_reply_and_no_search() -> None:
    """Some ids certain, the rest not: cancelled_incomplete (row 10)."""
    rig = seeded("1", "2")
    rig.gateway.every_search = unsent
    outcome = await ended(rig, partial(1))
    assert told(outcome) == (K.CANCELLED_INCOMPLETE, "search_failed", ["1"], "response")


async def test_partial_reply_of_nothing_is_as_lost() -> None:
    """A reply that broke off before its first id is looked up like any other (row 10)."""
    assert told(await ended(seeded("1"), partial(0)))[::2] == (K.CANCELLED, ["1"])


async def test_some_of_each_is_repeated() -> None:
    """Something cancelled and something older still cached: retry, look up again, cancelled."""
    rig = seeded("1", "2")
    rig.gateway.devices[D][0].cancelled_at = -10.0  # by somebody, and not on record
    outcome = await ended(rig, swallowed())
    assert told(outcome)[::2] == (K.CANCELLED, ["1", "2"])
    assert outcome.attempts == 2


async def test_some_of_each_and_spent() -> None:
    """Some of each and no repetition left: cancelled_incomplete."""
    rig = seeded("1", "2", retry=SPENT)
    rig.gateway.devices[D][0].cancelled_at = -10.0
    outcome = await ended(rig, swallowed())
    assert told(outcome)[::2] == (K.CANCELLED_INCOMPLETE, ["1"])


async def test_on_record_elsewhere_is_not_ours() -> None:
    """What an earlier run or another target has on record is not newly cancelled."""
    rig = Rig(elsewhere=["1"])
    rig.gateway.seed(D, "1")
    rig.gateway.devices[D][0].cancelled_at = -10.0
    assert told(await ended(rig, lost())) == (K.NOTHING_CACHED, "disconnected", [], "search")


async def test_younger_commands_never_block() -> None:
    """A command cached after the send leaves the target settled, and itself cached (row 81)."""
    rig = seeded("1")
    rig.gateway.cache_later(D, "9", 1.0)
    outcome = await ended(rig, lost())
    assert told(outcome)[::2] == (K.CANCELLED, ["1"])
    assert rig.gateway.cancelled(D) == {"1"}


async def test_cached_while_the_reply_is_awaited_is_younger() -> None:
    """Older and younger are told by when the request went out, not by when its timeout came."""
    rig = Rig()
    rig.gateway.cache_later(D, "9", 20.0)
    outcome = await ended(rig, lost("request_timeout", takes=30.0))
    assert told(outcome) == (K.NOTHING_CACHED, "request_timeout", [], "search")
    assert rig.gateway.cancelled(D) == set()


async def test_cached_while_waiting_to_be_sent_is_older() -> None:
    """A request that waited in a pause went out after it: what came before is older."""
    rig = Rig()
    rig.pace.pause(30.0)
    rig.gateway.cache_later(D, "9", 20.0)
    outcome = await ended(rig, swallowed())
    assert told(outcome)[::2] == (K.CANCELLED, ["9"])


@pytest.mark.parametrize("skew_ms", [-600_000, 600_000])
async def test_ages_are_compared_by_the_gateways_clock(skew_ms: int) -> None:
    """A command cached 5 min ago is older though the gateway's clock is 10 min off (look-up)."""
    rig = Rig(gateway=FakeGateway(clock := VirtualClock(), skew_ms=skew_ms), clock=clock)
    rig.gateway.seed(D, "1", age=300.0)
    outcome = await ended(rig, swallowed())
    assert told(outcome)[::2] == (K.CANCELLED, ["1"])


async def test_ambiguous_window_bounds_a_cancel_all() -> None:
    """Later than 60 s after the first send a cancel-all is not repeated: failed (row 81)."""
    rig = seeded("1")
    outcome = await ended(
        rig, swallowed("request_timeout", takes=30.0), swallowed("request_timeout", takes=30.0)
    )
    assert (outcome.kind, outcome.attempts) == (K.FAILED, 2)
    assert rig.gateway.cancelled(D) == set()


async def test_window_begins_with_the_first_send() -> None:
    """Waiting at the gate before the first send does not use the window up."""
    rig = seeded("1")
    rig.pace.pause(100.0)
    outcome = await ended(rig, swallowed())
    assert (outcome.kind, outcome.attempts) == (K.CANCELLED, 2)


async def test_ambiguous_window_does_not_bound_a_call_by_id() -> None:
    """A call by id may be repeated later: what it takes cannot grow."""
    rig = seeded("1")
    fates = [swallowed("request_timeout", takes=30.0)] * 2
    outcome = await ended(rig, *fates, ids=("1",))
    assert told(outcome)[::2] == (K.CANCELLED, ["1"])
    assert outcome.attempts == 3


async def test_by_id_is_looked_up_for_its_id_only() -> None:
    """What else is cached or cancelled at the device neither settles nor blocks a call by id."""
    rig = seeded("1", "2", "3")
    rig.gateway.devices[D][1].cancelled_at = -5.0
    outcome = await ended(rig, lost(), ids=("1",))
    assert told(outcome) == (K.CANCELLED, "disconnected", ["1"], "search")


async def test_by_id_lost_and_gone_is_too_late_with_its_state() -> None:
    """Looked up and neither cached nor cancelled: too_late; the state where one was told."""
    rig = seeded("1", elsewhere=["1"])
    rig.gateway.devices[D][0].cancelled_at = -5.0
    outcome = await ended(rig, lost(), ids=("1",))
    assert told(outcome) == (K.TOO_LATE, "disconnected", [], "search")
    assert [(c.result, c.command.state, c.evidence) for c in outcome.commands] == [
        ("not_cached", 2, "search")
    ]


async def test_denied_search_is_unknown_at_once() -> None:
    """A refused search is not repeated: unknown, cause search_denied."""
    rig = seeded("1")
    rig.gateway.every_search = lambda: DENIED
    assert told(await ended(rig, lost())) == (K.UNKNOWN, "search_denied", [], None)
    assert len(rig.gateway.sent("search")) == 1
    assert rig.switch.stop is None


@pytest.mark.parametrize("fate", [unsent(), lost(), throttled(), unavailable()])
async def test_failing_search_is_unknown_after_its_tries(fate: Fate) -> None:
    """A search that fails settles nothing: unknown (row 41)."""
    rig = seeded("1")
    rig.gateway.every_search = lambda: fate
    assert told(await ended(rig, lost())) == (K.UNKNOWN, "search_failed", [], None)
    assert len(rig.gateway.sent("search")) == 2


async def test_second_search_of_a_try_may_fail() -> None:
    """State 1 alone settles nothing; the next try may."""
    rig = seeded("1")
    rig.gateway.searches[D] = [OK, unsent()]
    assert told(await ended(rig, lost()))[::2] == (K.CANCELLED, ["1"])
    assert len(rig.gateway.sent("search")) == 4


async def test_not_executed_needs_the_last_try() -> None:
    """Still cached at the first try and no search at the last: unknown, not failed."""
    rig = seeded("1")
    rig.gateway.searches[D] = [OK, OK, unsent()]
    assert told(await ended(rig, swallowed())) == (K.UNKNOWN, "search_failed", [], None)


async def test_doubt_is_lifted_by_a_look_up_after_the_last_attempt_only() -> None:
    """Looked up, then sent in vain: looked up again before it is called failed."""
    rig = seeded("1")
    outcome = await ended(rig, swallowed(), unsent(), unsent(), unsent())
    assert told(outcome) == (K.FAILED, "refused", [], "search")
    assert [s.kind for s in rig.gateway.log].count("search") == 8


async def test_refused_after_doubt_is_looked_up() -> None:
    """A permanent refusal says nothing of the attempt before it: look up, then rejected."""
    rig = seeded("1")
    outcome = await ended(rig, swallowed(), FORBIDDEN)
    assert told(outcome) == (K.REJECTED, "forbidden", [], "search")
    rig = seeded("1")
    rig.gateway.searches[D] = [OK] * 4
    rig.gateway.every_search = unsent
    assert (await ended(rig, swallowed(), FORBIDDEN)).kind is K.UNKNOWN


async def test_search_reads_all_pages() -> None:
    """More than a page of cancelled commands is read to its end, each once (paged)."""
    rig = seeded(*[str(number) for number in range(120)])
    outcome = await ended(rig, lost())
    assert len(told(outcome)[2]) == 120
    assert [s.state for s in rig.gateway.sent("search")] == [1, 2, 2, 2]


async def test_search_ends_at_48_hours() -> None:
    """Pages older than any command can be are not read."""
    rig = Rig()
    rig.gateway.seed(D, *[str(number) for number in range(200)], age=49 * 3600.0)
    for command in rig.gateway.devices[D]:
        command.cancelled_at = -1.0
    assert told(await ended(rig, lost()))[0] is K.NOTHING_CACHED
    assert [s.state for s in rig.gateway.sent("search")] == [1, 2]


async def test_redirect_is_unknown() -> None:
    """A redirect stops the run; this target may have been executed (row 18)."""
    rig = seeded("1")
    assert told(await ended(rig, REDIRECT)) == (K.UNKNOWN, "redirect", [], None)


@pytest.mark.parametrize("anomaly", ["other_device", "other_command", "malformed_id"])
async def test_anomalous(anomaly: str) -> None:
    """A broken contract: recorded as received, anomalous, nothing more is sent (71, 78, 80)."""
    rig = seeded("1", "2")
    outcome = await ended(rig, foreign(anomaly), ids=("1", "2"))
    assert told(outcome) == (K.ANOMALOUS, anomaly, ["1"], "response")
    assert len(rig.gateway.log) == 1


async def test_slow_but_well() -> None:
    """A slow answer is an answer (row 29)."""
    outcome = await ended(seeded("1"), slow(25.0))
    assert told(outcome) == (K.CANCELLED, None, ["1"], "response")
    assert outcome.duration_ms == 25_000


async def test_listed_settles_once_in_the_right_order() -> None:
    """Lost, refused, answered, gone: one outcome for the target, a result for each call."""
    rig = seeded("1", "2", "3")
    outcome = await ended(rig, lost(), BAD_REQUEST, OK, OK, ids=("1", "2", "3", "4"))
    assert told(outcome) == (K.CANCELLED_INCOMPLETE, "bad_request", ["1", "3"], "search")
    assert results(outcome) == [
        ("1", "cancelled"),
        ("3", "cancelled"),
        ("2", "rejected"),
        ("4", "not_cached"),
    ]


# ---------------------------------------------------------------- doubt from before


def doubtful(rig: Rig) -> None:
    """An earlier run left every device in doubt."""

    def since(claimed: ClaimedTarget) -> tuple[int, int]:
        now = rig.gateway.gateway_ms()
        return now - 60_000, now

    rig.runner._doubts = since


@pytest.mark.parametrize("ids", [(), ("1",)])
async def test_doubt_of_an_earlier_run_is_looked_up_first(ids: tuple[str, ...]) -> None:
    """In doubt: looked up, never blindly sent again; found cancelled is enough (row 85)."""
    rig = seeded("1")
    rig.gateway.devices[D][0].cancelled_at = -30.0
    doubtful(rig)
    outcome = await ended(rig, ids=ids)
    assert told(outcome) == (K.CANCELLED, None, ["1"], "search")
    assert rig.gateway.sent("cancel") == []


@pytest.mark.parametrize("ids", [(), ("1",)])
async def test_doubt_of_an_earlier_run_not_executed(ids: tuple[str, ...]) -> None:
    """Looked up as not executed: sent, and looked up again since it stays tainted (row 85)."""
    rig = seeded("1")
    doubtful(rig)
    outcome = await ended(rig, ids=ids)
    assert told(outcome)[::2] == (K.CANCELLED, ["1"])
    kinds = [s.kind for s in rig.gateway.log]
    assert kinds == ["search"] * 4 + ["cancel"] + ["search"] * 2


async def test_doubt_of_an_earlier_run_and_no_search() -> None:
    """No look-up, no call: unknown (row 85)."""
    rig = seeded("1")
    rig.gateway.every_search = unsent
    doubtful(rig)
    assert told(await ended(rig))[:2] == (K.UNKNOWN, "search_failed")
    assert rig.gateway.sent("cancel") == []


async def test_what_is_on_record_is_not_sent_again() -> None:
    """Ids that this run has recorded are not asked for again (row 85)."""
    rig = seeded("1", "2")
    first = await rig.run(listed("1"))
    assert first is not None
    rig.gateway.log.clear()
    outcome = await rig.run(listed("1", "2"), *first.commands)
    assert outcome is not None
    assert told(outcome) == (K.CANCELLED, None, ["1", "2"], "response")
    assert [s.commandId for s in rig.gateway.log] == ["2"]


# ---------------------------------------------------------------- all_cached by id


async def test_by_id_searches_and_cancels_oldest_first() -> None:
    """by_id: search, one cancel an id, oldest first, search again until none is left."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "9", "8", "7")
    outcome = await ended(rig)
    assert told(outcome) == (K.CANCELLED, None, ["7", "8", "9"], "response")
    assert [s.commandId for s in rig.gateway.sent("cancel")] == ["9", "8", "7"]
    assert [s.kind for s in rig.gateway.log] == ["search", *["cancel"] * 3, "search"]


async def test_by_id_empty_first_search() -> None:
    """Nothing to cancel: nothing_matched, and no cancel call."""
    rig = Rig(by_id=True)
    assert told(await ended(rig)) == (K.NOTHING_MATCHED, None, [], "search")
    assert len(rig.gateway.log) == 1


async def test_by_id_all_gone_meanwhile() -> None:
    """Found by search but gone when called: nothing_matched, each id not_cached (row 79)."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "1")
    rig.gateway.devices[D][0].gone_at = 0.06
    outcome = await ended(rig)
    assert outcome.kind is K.NOTHING_MATCHED
    assert results(outcome) == [("1", "not_cached")]


async def test_by_id_leaves_what_came_after_the_first_search() -> None:
    """Nothing younger than the first search is cancelled (row 81)."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "1")
    rig.gateway.cache_later(D, "9", 0.07)
    outcome = await ended(rig)
    assert told(outcome)[::2] == (K.CANCELLED, ["1"])
    assert rig.gateway.cancelled(D) == {"1"}


@pytest.mark.parametrize("skew_ms", [-600_000, 600_000])
async def test_by_id_tells_ages_by_the_gateways_clock(skew_ms: int) -> None:
    """A clock that is off hides no command from the first search."""
    rig = Rig(
        by_id=True, gateway=FakeGateway(clock := VirtualClock(), skew_ms=skew_ms), clock=clock
    )
    rig.gateway.seed(D, "1", age=300.0)
    assert told(await ended(rig))[::2] == (K.CANCELLED, ["1"])


@pytest.mark.parametrize(
    ("cancelled", "kind"), [(True, K.CANCELLED_INCOMPLETE), (False, K.UNKNOWN)]
)
async def test_by_id_something_still_left(cancelled: bool, kind: OutcomeKind) -> None:
    """Still cached at the last of `lookup.tries` more searches: incomplete, or unknown."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, *(["1", "2"] if cancelled else ["2"]))
    rig.gateway.cancels[D] = []
    empty = Fate(executed=False)  # the gateway says [], and goes on showing the command
    rig.gateway.every_cancel = lambda: empty
    fates = [OK] if cancelled else []
    outcome = await ended(rig, *fates)
    assert outcome.kind is kind
    assert outcome.cause == "still_cached"
    assert len(rig.gateway.sent("search")) == 3


async def test_by_id_lost_is_looked_up() -> None:
    """A call by id in doubt is looked up before the next one (row 5)."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "1", "2")
    outcome = await ended(rig, lost())
    assert told(outcome)[::2] == (K.CANCELLED, ["1", "2"])
    assert [s.commandId for s in rig.gateway.sent("cancel")] == ["1", "2"]


@pytest.mark.parametrize(
    ("fate", "kind", "cause"),
    [
        (FORBIDDEN, K.REJECTED, "forbidden"),
        (BAD_REQUEST, K.REJECTED, "bad_request"),
        (NOT_FOUND, K.NOT_FOUND, "not_found"),
        (foreign(), K.ANOMALOUS, "other_device"),
    ],
)
async def test_by_id_refused_settles_as_refused(fate: Fate, kind: OutcomeKind, cause: str) -> None:
    """What refuses a call by id is the target's outcome; searching again would change nothing."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "1")
    outcome = await ended(rig, fate)
    assert (outcome.kind, outcome.cause) == (kind, cause)
    assert len(rig.gateway.sent("search")) == 1


async def test_by_id_search_fails_for_a_while() -> None:
    """The first search is repeated like a call: it executes nothing."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "1")
    rig.gateway.searches[D] = [unsent(), lost(), unavailable()]
    assert told(await ended(rig))[::2] == (K.CANCELLED, ["1"])


@pytest.mark.parametrize(
    ("fate", "cause", "searches"), [(unsent(), "search_failed", 4), (DENIED, "search_denied", 1)]
)
async def test_by_id_without_its_first_search(fate: Fate, cause: str, searches: int) -> None:
    """No search, no call: failed, nothing executed; denied is not asked again."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "1")
    rig.gateway.every_search = lambda: fate
    assert told(await ended(rig)) == (K.FAILED, cause, [], "search")
    assert (len(rig.gateway.sent("search")), rig.gateway.sent("cancel")) == (searches, [])


@pytest.mark.parametrize(("gone", "kind"), [(False, K.CANCELLED_INCOMPLETE), (True, K.UNKNOWN)])
async def test_by_id_without_its_last_search(gone: bool, kind: OutcomeKind) -> None:
    """What was cancelled is certain, that nothing is left is not."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "1")
    rig.gateway.devices[D][0].gone_at = 0.06 if gone else None
    rig.gateway.searches[D] = [OK]
    rig.gateway.every_search = unsent
    assert told(await ended(rig))[:2] == (kind, "search_failed")


@pytest.mark.parametrize(
    ("state", "fates", "kind", "cancels"),
    [
        ("cancelled", [], K.CANCELLED, 0),
        ("cached", [], K.CANCELLED, 1),
        ("none", [], K.NOTHING_MATCHED, 0),
        ("cached", [unsent()] * 9, K.UNKNOWN, 0),
    ],
)
async def test_by_id_doubt_of_an_earlier_run(
    state: str, fates: list[Fate], kind: OutcomeKind, cancels: int
) -> None:
    """by_id looks an earlier doubt up as well, before it searches for itself (row 85)."""
    rig = Rig(by_id=True)
    if state != "none":
        rig.gateway.seed(D, "1")
        rig.gateway.devices[D][0].cancelled_at = -5.0 if state == "cancelled" else None
    rig.gateway.searches[D] = fates
    doubtful(rig)
    assert (await ended(rig)).kind is kind
    assert len(rig.gateway.sent("cancel")) == cancels


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
    rig.pace.acquire = _broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        await rig.drive(case)
    assert not case.calls[0].sending, "a bug before anything went out"


async def _broken() -> int | None:
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
