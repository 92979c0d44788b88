"""A whole list with the real crew: passes, gates, stops, bugs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import anyio
import pytest

from tests.run.fake_gateway import (
    BUG,
    FORBIDDEN,
    LATENCY,
    NOT_FOUND,
    OK,
    STALE_TOKEN,
    TLS,
    FakeGateway,
    Fate,
    foreign,
    lost,
    refused,
    slow,
    swallowed,
    throttled,
    unavailable,
    unsent,
)
from tests.run.rig import Book, Rig, device, listed, whole
from tests.simulation.clock import VirtualClock
from worker.errors import LedgerError
from worker.ledger.entry import ID_OF_OTHER_DEVICE, SAME_DEVICE, ClaimedTarget, Conflict
from worker.model import CancelCall, Evidence, Moment, Outcome, OutcomeKind, Requests, Stop, Target
from worker.run.case import Case
from worker.run.reconcile import LookupRules
from worker.run.record import Recorder
from worker.run.retry import RetryRules
from worker.run.safety import AbortRules
from worker.run.stop import Switch

K = OutcomeKind
DEFAULTS = RetryRules()


def fleet(count: int) -> list[Target]:
    return [whole(number) for number in range(count)]


def kinds(rig: Rig) -> Counter[str]:
    return Counter(outcome.kind.value for outcome in rig.book.outcomes.values())


async def test_every_target_settles_once() -> None:
    """A calm list: each target has one outcome, the bound on requests in flight is kept."""
    rig = Rig(concurrency=7)
    for number in range(0, 200, 3):
        rig.gateway.seed(device(number), f"{number}")
    assert await rig.crew(fleet(200), batch=16) is None
    assert kinds(rig) == {"cancelled": 67, "nothing_cached": 133}
    assert len(rig.book.entries) == 200
    assert rig.gateway.most_in_flight == 7
    assert rig.gateway.most_per_device == 1
    assert len(rig.gateway.log) == 200


async def test_waiting_look_ups_hold_no_worker() -> None:
    """One worker: while the first target waits for its look-up, the others are cancelled."""
    rig = Rig(concurrency=1)
    rig.safety.succeeded = True
    rig.gateway.cancels[device(0)] = [lost()]
    await rig.crew(fleet(10))
    devices = [s.device for s in rig.gateway.log if s.kind == "cancel"]
    assert devices == [device(number) for number in range(10)]
    assert rig.gateway.log[-1].kind == "search"
    assert rig.gateway.log[9].at == pytest.approx(9 * LATENCY)


# ---------------------------------------------------------------- later passes


async def test_put_off_to_a_later_pass() -> None:
    """Spent and proven unsent: put off, tried again after the cool-down, settled once (row 1)."""
    rig = Rig()
    rig.gateway.seed(device(0), "1")
    rig.gateway.cancels[device(0)] = [unsent()] * 4
    assert await rig.crew(fleet(3)) is None
    assert rig.book.put_offs == [(0, "refused")]
    assert kinds(rig) == {"cancelled": 1, "nothing_cached": 2}
    first, again = (s.at for s in (rig.gateway.sent("cancel", device(0))[i] for i in (3, 4)))
    assert again - first >= 10.0


async def test_passes_end() -> None:
    """After the last pass it is failed; attempts are counted anew in each (Retry)."""
    rig = Rig()
    rig.gateway.cancels[device(0)] = [unsent()] * 99
    await rig.crew(fleet(2))
    assert len(rig.gateway.sent("cancel", device(0))) == 3 * 4
    assert kinds(rig) == {"failed": 1, "nothing_cached": 1}
    assert rig.book.put_offs == [(0, "refused")] * 2


async def test_tainted_is_never_put_off() -> None:
    """What was ambiguous once goes to the look-up only: failed in its own pass (Retry)."""
    rig = Rig()
    rig.gateway.seed(device(0), "1")
    rig.gateway.cancels[device(0)] = [swallowed(), unsent(), unsent(), unsent()]
    await rig.crew(fleet(2))
    assert rig.book.put_offs == []
    assert rig.book.outcomes[0].kind is K.FAILED


async def test_put_off_in_part_goes_on_where_it_was() -> None:
    """A listed target that was put off after one id asks for the other one only."""
    rig = Rig()
    rig.gateway.seed(device(0), "1", "2")
    rig.gateway.cancels[device(0)] = [OK, *[unsent()] * 4]
    await rig.crew([listed("1", "2")])
    assert rig.book.outcomes[0].kind is K.CANCELLED
    assert sorted(rig.book.commands_of(0)) == ["1", "2"]
    assert [s.commandId for s in rig.gateway.sent("cancel")] == ["1", *["2"] * 5]


async def test_anomalous_is_never_put_off() -> None:
    """One call spent, the next answered about another device: anomalous, now (row 71)."""
    rig = Rig()
    rig.gateway.seed(device(0), "1", "2")
    rig.gateway.cancels[device(0)] = [*[unsent()] * 4, foreign()]
    stop = await rig.crew([listed("1", "2")])
    assert stop is not None
    assert stop.rule == "anomaly"
    assert rig.book.outcomes[0].kind is K.ANOMALOUS


# ---------------------------------------------------------------- figures


def lost_everywhere(gateway: FakeGateway) -> None:
    gateway.every_cancel = lost
    gateway.every_search = lost


def unavailable_everywhere(gateway: FakeGateway) -> None:
    gateway.every_cancel = lambda: unavailable(executed=True)
    gateway.every_search = unavailable


def nobody_there(gateway: FakeGateway) -> None:
    gateway.every_cancel = gateway.every_search = unsent


@pytest.mark.parametrize("outage", [lost_everywhere, unavailable_everywhere, nobody_there])
@pytest.mark.parametrize("concurrency", [1, 16, 100])
async def test_total_outage_from_the_start(outage: object, concurrency: int) -> None:
    """10,000 devices, nothing works: at most max(50, 4 x concurrency) cancel calls (row 28, 41)."""
    rig = Rig(abort=AbortRules(), retry=DEFAULTS, concurrency=concurrency)
    outage(rig.gateway)  # type: ignore[operator]
    stop = await rig.crew(fleet(10_000), batch=max(8, concurrency))
    assert stop is not None
    assert stop.rule == "abort_consecutive"
    assert rig.wire.requests.cancel <= max(50, 4 * concurrency)
    assert len(rig.gateway.sent("cancel")) == rig.wire.requests.cancel
    sent = {s.device for s in rig.gateway.sent("cancel")}
    if outage is nobody_there:
        assert kinds(rig) == {}
    else:
        assert kinds(rig) == {"unknown": len(sent)}


async def test_all_replies_lost_but_look_ups_work() -> None:
    """All responses lost, all executed: every target settles well, by search (row 41)."""
    rig = Rig(abort=AbortRules(), retry=DEFAULTS)
    rig.gateway.every_cancel = lost
    for number in range(0, 300, 2):
        rig.gateway.seed(device(number), f"{number}")
    assert await rig.crew(fleet(300), batch=16) is None
    assert kinds(rig) == {"cancelled": 150, "nothing_cached": 150}
    assert {o.evidence for o in rig.book.outcomes.values()} == {"search"}
    assert rig.wire.requests.cancel == 300


async def test_look_ups_fail_too_with_abort_off() -> None:
    """Nothing can be told and nothing stops it: every device unknown, never failed (row 41)."""
    rig = Rig(abort=None, retry=DEFAULTS)
    lost_everywhere(rig.gateway)
    assert await rig.crew(fleet(100), batch=16) is None
    assert kinds(rig) == {"unknown": 100}


async def test_steady_half_of_cancels_503() -> None:
    """Half of all cancels 503, abort off: at most 1.1 x devices + 100 calls in the first pass."""
    clock = VirtualClock(7)
    rig = Rig(clock=clock, abort=None, retry=DEFAULTS)
    rig.gateway.every_cancel = lambda: unavailable() if clock.chance() < 0.5 else OK
    for number in range(2000):
        rig.gateway.seed(device(number), f"{number}")
    await rig.leg(fleet(2000), 0, 16)
    assert rig.wire.requests.cancel <= 1.1 * 2000 + 100
    assert rig.wire.requests.retried > 150, "the budget is used"
    assert len(rig.book.outcomes) == 2000
    assert set(kinds(rig)) == {"cancelled", "failed"}


async def test_few_targets_until_the_first_success() -> None:
    """Until something worked only max(20, concurrency) targets are in the open (row 28)."""
    rig = Rig(concurrency=5, lookup=LookupRules(wait=10.0))
    rig.gateway.every_cancel = lambda: lost(takes=1.0)
    rig.gateway.every_search = lambda: slow(1.0)
    await rig.crew(fleet(200), batch=10)
    first_success = min(s.at for s in rig.gateway.log if s.kind == "search" and s.state == 2) + 1.0
    early = {s.device for s in rig.gateway.sent("cancel") if s.at < first_success}
    assert len(early) == 20
    assert kinds(rig) == {"nothing_cached": 200}


async def test_not_found_is_no_success() -> None:
    """The first 20 unknown devices stop the run; not_found opens no gate (row 23)."""
    rig = Rig(abort=AbortRules(), concurrency=16)
    rig.gateway.every_cancel = lambda: NOT_FOUND
    stop = await rig.crew(fleet(500), batch=16)
    assert stop is not None
    assert stop.rule == "not_found"
    assert len(rig.gateway.log) <= 20 + 16


async def test_forbidden_stops() -> None:
    """Twenty 403 in settle order, and the run ends; what was not begun is given back (row 22)."""
    rig = Rig(abort=None, concurrency=4)
    rig.gateway.every_cancel = lambda: FORBIDDEN
    stop = await rig.crew(fleet(100), batch=8)
    assert stop is not None
    assert stop.rule == "forbidden"
    assert 20 <= kinds(rig)["rejected"] <= 23


async def test_throttled_storm_never_aborts() -> None:
    """Only 429: targets are put off, then failed with cause throttled; no abort (row 25)."""
    rig = Rig(abort=AbortRules(), retry=RetryRules(passes=1), concurrency=2)
    rig.gateway.every_cancel = throttled
    assert await rig.crew(fleet(60), batch=8) is None
    assert kinds(rig) == {"failed": 60}
    assert {o.cause for o in rig.book.outcomes.values()} == {"throttled"}


# ---------------------------------------------------------------- stops


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_max_commands_stops_between_the_calls_of_a_target(concurrency: int) -> None:
    """max_commands is kept within a target of many calls too: no call after the one that met it."""
    rig = Rig(max_commands=5, concurrency=concurrency)
    ids = [str(number) for number in range(10)]
    rig.gateway.seed(device(), *ids)
    stop = await rig.crew([listed(*ids)])
    assert stop is not None
    assert (stop.rule, stop.count, stop.of) == ("max_commands", 5, 5)
    assert len(rig.gateway.sent("cancel")) == 5
    assert rig.book.outcomes[0].kind is K.CANCELLED_INCOMPLETE


async def test_max_commands_exactly_at_the_end_is_no_stop() -> None:
    """The last command of the list meets the limit and leaves nothing undone."""
    rig = Rig(max_commands=3)
    for number in range(3):
        rig.gateway.seed(device(number), f"{number}")
    assert await rig.crew(fleet(3)) is None
    assert kinds(rig) == {"cancelled": 3}


async def test_polite_stop() -> None:
    """After the stop nothing starts; in flight is recorded, unsure unknown, the rest given back."""
    rig = Rig(concurrency=3, retry=RetryRules(wait_initial=90.0, wait_max=90.0))
    rig.safety.succeeded = True
    rig.gateway.seed(device(2), "2")
    rig.gateway.cancels = {
        device(0): [lost()],
        device(1): [unsent()],
        device(2): [slow(3.0)],
        device(3): [lost(takes=4.0)],
        device(4): [slow(2.0)],
    }
    async with anyio.create_task_group() as group:

        async def stop() -> None:
            await anyio.sleep(1.0)
            rig.switch.throw(Stop("signal", "SIGTERM"))

        group.start_soon(stop)
        await rig.crew(fleet(9))
    assert {o: v.kind for o, v in rig.book.outcomes.items()} == {
        0: K.UNKNOWN,
        2: K.CANCELLED,
        3: K.UNKNOWN,
        4: K.NOTHING_CACHED,
    }
    assert rig.book.deferred == [1, 5, 6, 7, 8]
    assert {cause for _, cause in rig.book.put_offs} == {"signal"}
    assert max(s.at for s in rig.gateway.log) < 1.0
    assert rig.clock.monotonic() == pytest.approx(4.0 + LATENCY)


async def test_stop_does_not_wait_for_a_claim() -> None:
    """A writer that grants nothing more, since too much is open, cannot hold up the end."""
    rig = Rig(concurrency=2)
    for number in range(2):
        rig.gateway.cancels[device(number)] = [unsent()] * 9

    async def claims() -> AsyncIterator[list[ClaimedTarget]]:
        yield [ClaimedTarget(target, 0) for target in fleet(2)]
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:

        async def stop() -> None:
            await anyio.sleep(0.1)
            rig.switch.throw(Stop("signal", "SIGTERM"))

        group.start_soon(stop)
        with anyio.fail_after(60.0):
            await rig.runner.work_off(claims(), may_put_off=True)
    assert sorted(rig.book.deferred) == [0, 1]


async def test_a_claim_that_fails_stops_the_run() -> None:
    """The ledger gave up: rule record, what was claimed is finished as it stands (row 48)."""
    rig = Rig(concurrency=2)

    async def claims() -> AsyncIterator[list[ClaimedTarget]]:
        yield [ClaimedTarget(target, 0) for target in fleet(2)]
        raise LedgerError("disk full")

    await rig.runner.work_off(claims(), may_put_off=True)
    assert rig.switch.stop == Stop("record", "disk full")


async def test_a_question_that_fails_stops_the_run() -> None:
    """A look-up that cannot ask the ledger settles nothing: record, and unknown (row 48)."""
    rig = Rig(concurrency=2)
    rig.gateway.seed(device(0), "1")
    rig.gateway.cancels[device(0)] = [lost()]

    async def fail(*_: object) -> set[str]:
        raise LedgerError("disk full")

    rig.reconciler._recorded_elsewhere = fail
    stop = await rig.crew(fleet(1))
    assert stop == Stop("record", "disk full")
    assert rig.book.outcomes[0].kind is K.UNKNOWN


# ---------------------------------------------------------------- bugs


async def test_a_bug_in_one_course_leaves_the_others_alone() -> None:
    """Unknown if sent, others continue, the bug is counted and told (row 55)."""
    rig = Rig()
    rig.gateway.cancels[device(3)] = [BUG]
    assert await rig.crew(fleet(8)) is None
    assert kinds(rig) == {"nothing_cached": 7, "unknown": 1}
    assert rig.book.outcomes[3].cause == "internal_error"
    assert rig.runner.internal_errors == 1
    assert [str(bug) for bug in rig.book.bugs] == ["a bug of ours"]


async def test_a_bug_before_anything_is_sent_fails_its_target_alone() -> None:
    """A call that cannot even be written was not executed; its place is free again (row 55)."""
    rig = Rig(concurrency=2)
    launch = rig.gateway.launch

    def broken(call: CancelCall, sent: float, told: Callable[[Evidence | Exception], None]) -> None:
        if call.device == device(3):
            raise ValueError("a parameter has no value")
        launch(call, sent, told)

    rig.gateway.launch = broken  # type: ignore[method-assign]
    assert await rig.crew(fleet(8)) is None
    assert kinds(rig) == {"nothing_cached": 7, "failed": 1}
    assert rig.book.outcomes[3].cause == "internal_error"
    assert (rig.runner.internal_errors, rig.pace.in_flight) == (1, 0)


async def test_a_bug_of_the_runner_itself_is_raised() -> None:
    """Nothing is raised into a transport: the run stops, and the bug comes out where it was run."""
    rig = Rig(concurrency=2)

    def broken(outcome: Outcome, *, left: bool) -> Stop | None:
        raise RuntimeError("a bug of ours")

    rig.safety.settled = broken  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup) as raised:
        await rig.crew(fleet(8))
    assert raised.group_contains(RuntimeError, match="a bug of ours")
    assert rig.switch.stop is not None
    assert rig.gateway.in_flight == 0


async def test_a_bug_in_what_one_answer_means_is_that_targets_alone() -> None:
    """It was sent: unknown; the others go on (row 55)."""
    rig = Rig(concurrency=2)
    rig.gateway.cancels[device(1)] = [lost()]
    told = rig.gateway.moment

    def broken(at: float) -> Moment:
        rig.gateway.moment = told  # type: ignore[method-assign]
        raise RuntimeError("a bug of ours")

    rig.gateway.moment = broken  # type: ignore[method-assign]
    assert await rig.crew(fleet(40)) is None
    assert kinds(rig) == {"nothing_cached": 39, "unknown": 1}
    assert (rig.book.outcomes[1].cause, rig.runner.internal_errors) == ("internal_error", 1)


async def test_nothing_begins_once_the_runner_has_failed() -> None:
    """However a leg ends, what comes back afterwards begins nothing and leaves nothing behind."""
    rig = Rig(concurrency=4)
    rig.gateway.cancels[device(0)] = [lost()]

    def broken(case: Case, outcome: Outcome) -> None:
        raise RuntimeError("a bug of ours")

    rig.recorder.settle = broken  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup):
        await rig.crew(fleet(400))
    sent = len(rig.gateway.sent("cancel"))
    await anyio.sleep(2)
    assert len(rig.gateway.sent("cancel")) == sent


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_failure_that_stops_the_run_settles_its_target(concurrency: int) -> None:
    """Row 37: this target failed, with its cause; the rest was not attempted."""
    rig = Rig(concurrency=concurrency)
    rig.gateway.every_cancel = lambda: TLS
    stop = await rig.crew(fleet(8))
    assert stop is not None
    assert stop.rule == "tls"
    assert kinds(rig) == {"failed": concurrency}
    assert {outcome.cause for outcome in rig.book.outcomes.values()} == {"tls"}
    assert len(rig.book.deferred) == 8 - concurrency


async def test_attempts_that_are_spent_settle_whatever_else_happens() -> None:
    """What is proven is said, also of a call that comes back after the stop."""
    rig = Rig(concurrency=1, retry=RetryRules(attempts=1, passes=0))
    rig.gateway.cancels[device(0)] = [unsent()]
    signal = Stop("signal", "SIGTERM")
    asyncio.get_running_loop().call_later(0.02, rig.switch.throw, signal)
    assert await rig.crew(fleet(1)) == signal
    assert kinds(rig) == {"failed": 1}


async def test_a_token_that_was_turned_down_earns_no_second_share() -> None:
    """The budget counts calls, however often their token was."""
    rig = Rig(concurrency=4)
    for number in range(4):
        rig.gateway.cancels[device(number)] = [STALE_TOKEN]
    await rig.crew(fleet(4))
    assert rig.budget._earned == 4.0


async def test_bugs_everywhere_abort() -> None:
    """A bug in every course is a failure like any other: twenty in a row stop the run."""
    rig = Rig(abort=AbortRules(), concurrency=4)
    rig.gateway.every_cancel = lambda: BUG
    stop = await rig.crew(fleet(100), batch=8)
    assert stop is not None
    assert stop.rule == "abort_consecutive"
    assert rig.runner.internal_errors < 30


async def test_requests_are_counted() -> None:
    """cancel, search and retried add up over the list."""
    rig = Rig()
    rig.gateway.seed(device(1), "1")
    rig.gateway.cancels = {device(0): [unsent()], device(1): [swallowed()]}
    await rig.crew(fleet(3))
    assert rig.wire.requests == Requests(cancel=5, search=6, retried=2)


async def test_order_of_the_list_changes_no_outcome() -> None:
    """Permuting the list changes no outcome under a gateway without faults (invariant 15)."""
    seen = []
    for order in (range(50), reversed(range(50))):
        rig = Rig(concurrency=4)
        for number in range(0, 50, 4):
            rig.gateway.seed(device(number), f"{number}")
        await rig.crew([whole(number) for number in order])
        seen.append({o: v.kind for o, v in sorted(rig.book.outcomes.items())})
    assert seen[0] == seen[1]


async def test_recorder_tells_what_became_durable() -> None:
    """The observer hears of commands and outcomes when the writer says so, and each as written."""
    rig = Rig()
    rig.gateway.seed(device(0), "1", "2")
    rig.gateway.cancels[device(0)] = [Fate(partial=1, executed=True)]
    await rig.crew([whole(0)])
    assert rig.book.durable == []
    rig.recorder.committed(rig.book.entries, [])
    assert rig.book.durable == [(0, ("1",), None), (0, ("2",), K.CANCELLED)]


async def test_added_refusal_code_is_put_off_like_any_refusal_for_now() -> None:
    """RJ-transient left over goes to a later pass (Retry)."""
    rig = Rig()
    busy = refused(503, 777, "code_777", transient=True)
    rig.gateway.cancels[device(0)] = [busy] * 4
    await rig.crew(fleet(1))
    assert rig.book.put_offs == [(0, "code_777")]
    assert kinds(rig) == {"nothing_cached": 1}


@pytest.mark.parametrize(("cause", "rule"), [(ID_OF_OTHER_DEVICE, "anomaly"), (SAME_DEVICE, None)])
def test_only_the_id_of_another_device_stops(cause: str, rule: str | None) -> None:
    """Two spellings of one device are not another device (row 73)."""
    switch = Switch()
    Recorder(Book(), switch).committed([], [Conflict(1, 0, "7", cause)])
    assert (switch.stop and switch.stop.rule) == rule
