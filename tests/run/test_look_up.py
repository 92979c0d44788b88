"""What may have been executed: looked up, repeated by what that shows, settled."""

from __future__ import annotations

from itertools import count

import pytest

from tests.run.fake_gateway import (
    BAD_REQUEST,
    FORBIDDEN,
    LATENCY,
    OK,
    REDIRECT,
    FakeGateway,
    Fate,
    foreign,
    lost,
    partial,
    slow,
    swallowed,
    throttled,
    unavailable,
    unsent,
)
from tests.run.one_target import DENIED, SPENT, D, doubtful, ended, results, seeded, told
from tests.run.rig import Rig, listed
from tests.simulation.clock import VirtualClock
from worker.model import AGREE_MS, Ambiguous, Command, CommandResult, Identity, OutcomeKind
from worker.run.reconcile import LookupRules

K = OutcomeKind

pytestmark = pytest.mark.usefixtures("both_ways")


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


async def test_a_partial_reply_of_one_listed_command_is_looked_up() -> None:
    """Row 10: its id is on record, and still the call is in doubt until it was searched for."""
    rig = seeded("1")
    outcome = await ended(rig, partial(1), ids=("1",))
    assert told(outcome) == (K.CANCELLED, "partial_reply", ["1"], "response")
    assert len(rig.gateway.sent("search")) == 2


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
    rig = seeded("1", lookup=LookupRules(wait=5.0))
    rig.gateway.cache_later(D, "9", 3.0)
    outcome = await ended(rig, lost())
    assert told(outcome)[::2] == (K.CANCELLED, ["1"])
    assert rig.gateway.cancelled(D) == {"1"}


async def test_clocks_may_be_two_seconds_apart() -> None:
    """Cached 1 s after the last send is not certainly younger: it is called again (row 96)."""
    rig = seeded("1")
    rig.gateway.cache_later(D, "9", 1.0)
    outcome = await ended(rig, lost())
    assert told(outcome)[::2] == (K.CANCELLED, ["1", "9"])


async def test_nothing_is_new_once_clocks_differ() -> None:
    """Row 96: what was cached since counts as still cached; repeated, and never nothing_cached."""
    rig = Rig(lookup=LookupRules(wait=5.0), retry=SPENT)
    rig.gateway.apart_ms = 3_000
    rig.gateway.cache_later(D, "9", 3.0)
    assert told(await ended(rig, lost())) == (K.FAILED, "disconnected", [], "search")
    rig = Rig(lookup=LookupRules(wait=5.0))
    rig.gateway.apart_ms = 3_000
    rig.gateway.cache_later(D, "9", 3.0)
    assert told(await ended(rig, lost()))[::2] == (K.CANCELLED, ["9"])


async def test_a_search_reaches_back_by_the_difference_of_the_clocks() -> None:
    """Row 96: cancelled by us, cached 50 h ago by a clock that is 2 h behind: found."""
    for apart_ms, kind in ((2 * 3_600_000, K.CANCELLED), (AGREE_MS, K.NOTHING_CACHED)):
        rig = Rig()
        rig.gateway.apart_ms = apart_ms
        rig.gateway.seed(D, "1", age=50 * 3600.0)
        rig.gateway.devices[D][0].cancelled_at = 0.0
        assert (await ended(rig, lost())).kind is kind


async def test_rows_in_the_other_spelling_settle_nothing() -> None:
    """Row 95: such a page is no look-up, so that the target is unknown."""
    rig = seeded("1")
    rig.gateway.every_search = lambda: Fate(said=Ambiguous("other_spelling", 200))
    assert told(await ended(rig, lost())) == (K.UNKNOWN, "other_spelling", [], None)


async def test_a_look_up_that_names_another_device() -> None:
    """Row 94: two replies name a target in two ways: anomalous, and the run stops."""
    rig = seeded("1")
    rig.gateway.names[D] = [Identity(assetId="a1"), Identity(assetId="a2")]
    outcome = await ended(rig, partial(1))
    assert told(outcome)[:3] == (K.ANOMALOUS, "other_names", ["1"])
    assert outcome.told == Identity(assetId="a1")
    assert rig.switch.stop is not None
    assert rig.switch.stop.rule == "anomaly"


async def test_one_reply_that_names_two_devices() -> None:
    """Row 94, within one reply."""
    rig = seeded("1", "2")
    rig.gateway.names[D] = [Identity(assetId="a1"), Identity(assetId="a2")]
    outcome = await ended(rig)
    assert told(outcome)[:3] == (K.ANOMALOUS, "other_names", ["1", "2"])
    assert rig.switch.stop is not None


async def test_cached_while_the_reply_is_awaited_is_younger() -> None:
    """Older and younger are told by when the request went out, not by when its timeout came."""
    rig = Rig()
    rig.gateway.cache_later(D, "9", 20.0)
    outcome = await ended(rig, lost("request_timeout", takes=30.0))
    assert told(outcome) == (K.NOTHING_CACHED, "newer_cached", [], "search")
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


async def test_rows_that_move_up_between_two_pages() -> None:
    """What is cancelled behind the first page moves the rest up: all is read again."""
    rig = seeded(*[str(number) for number in range(100)])
    searches = count(1)

    def meanwhile() -> Fate:
        if next(searches) == 2:  # the second page of what is cached
            for command in rig.gateway.devices[D][50:]:
                command.cancelled_at = 0.0
        return OK

    rig.gateway.every_search = meanwhile
    outcome = await ended(rig, swallowed())
    assert told(outcome)[0] is K.CANCELLED
    assert len(told(outcome)[2]) == len(rig.gateway.cancelled(D)) == 100
    assert [s.state for s in rig.gateway.sent("search")][:4] == [1, 1, 1, 2]


async def test_search_that_does_not_end_settles_nothing() -> None:
    """A gateway that shows page after page is not believed for ever: unknown."""
    rig = Rig(lookup=LookupRules(tries=1))
    rig.gateway.seed(D, *[str(number) for number in range(10_050)])
    assert told(await ended(rig, lost()))[:2] == (K.UNKNOWN, "search_failed")
    assert len(rig.gateway.sent("search")) == 1 + 200


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


async def test_what_did_not_go_well_before_is_sent_again() -> None:
    """Only a command on record as cancelled is done: one that was unknown is asked for (row 85)."""
    rig = seeded("1")
    known = CommandResult(Command("1"), "unknown", None, None, 1)
    outcome = await rig.run(listed("1"), known)
    assert outcome is not None
    assert told(outcome) == (K.CANCELLED, None, ["1"], "response")
