"""Whole runs on a real ledger: what the record says afterwards, against the gateway's truth."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from tests.run.fake_gateway import (
    BUG,
    FORBIDDEN,
    NOT_FOUND,
    OK,
    STALE_TOKEN,
    FakeGateway,
    Fate,
    lost,
    partial,
    slow,
    swallowed,
    throttled,
    unavailable,
    unsent,
)
from tests.run.rig import PLENTY, device, whole
from tests.run.stage import FIRST, All, Attempted, Stage, rules, seed_some
from tests.simulation.clock import WALL_MS, VirtualClock
from worker.errors import LedgerError, RefusedError
from worker.ledger.entry import Claim
from worker.model import (
    Ambiguous,
    Identity,
    NotSent,
    OutcomeKind,
    Refused,
    Requests,
    Stop,
    Verified,
)
from worker.run.reconcile import LookupRules
from worker.run.retry import RetryRules
from worker.run.session import Ending, Leg
from worker.run.verify import Findings, Subject

K = OutcomeKind
DENIED = Fate(executed=False, said=Refused(403, 99403, "forbidden", message="no Asset/Control"))


async def test_a_calm_run() -> None:
    """Every target of the plan is cancelled once and has its outcome in the ledger."""
    stage = Stage(300)
    seed_some(stage, 300)
    ending = await stage.run()
    assert ending == Ending(None, Requests(cancel=300), None, 0, durable=True)
    assert stage.counts() == {"cancelled": 150, "nothing_cached": 150}
    assert stage.store.in_doubt("r1") == []
    stage.check()
    told = {ordinal: ids for ordinal, ids, kind in stage.book.durable if kind is K.CANCELLED}
    assert told == {number: (f"{number}",) for number in range(0, 300, 2)}


async def test_intent_is_durable_before_the_request() -> None:
    """When a cancel reaches the gateway its target is claimed in the ledger (invariant 6)."""
    stage = Stage(60)
    seen: list[bool] = []

    def arrival() -> Fate:
        doubt = {device(d.ordinal) for d in stage.store.in_doubt("r1")}
        seen.append({s.device for s in stage.gateway.log[-1:]} <= doubt)
        return OK

    stage.gateway.every_cancel = arrival
    await stage.run()
    assert seen == [True] * 60


@pytest.mark.parametrize("disk", [0.0, 0.004, 0.5])
async def test_claims_are_bounded(disk: float) -> None:
    """At most 2 x concurrency targets are in doubt at once, however slow the disk (design 2)."""
    stage = Stage(200, rules=rules(concurrency=5), disk=disk)
    seen: list[int] = []

    def arrival() -> Fate:
        seen.append(stage.writer.open)
        return OK

    stage.gateway.every_cancel = arrival
    await stage.run()
    assert len(seen) == 200
    assert max(seen) <= 2 * 5 + 0.05 * 5 / 0.05


@pytest.mark.parametrize("verify", [False, True])
async def test_the_verdict_stands_before_the_record_is_closed(verify: bool) -> None:
    """From the last target, or the verification, on no signal stops the run any more."""
    stage = Stage(10)
    ended: list[bool] = []
    close = stage.writer.close

    def closing() -> None:
        ended.append(stage.session.ended)
        close()

    def arrival() -> Fate:
        ended.append(stage.session.ended)
        return OK

    stage.writer.close = closing  # type: ignore[method-assign]
    stage.gateway.every_cancel = arrival
    assert (await stage.run(verify=verify)).stop is None
    assert ended == [False] * 10 + [True]


async def test_limit_is_kept_and_is_no_stop() -> None:
    """--limit N: the first N of the plan, and the run counts as finished."""
    stage = Stage(50)
    ending = await stage.run([Leg(1, limit=7)])
    assert ending.stop is None
    assert stage.counts() == {"nothing_cached": 7, "not_attempted": 43}
    assert {s.device for s in stage.gateway.log} == {device(n) for n in range(7)}


async def test_empty_list_of_members() -> None:
    """A leg without members sends nothing."""
    stage = Stage(5)
    assert (await stage.run([Leg(2, members=())])).requests == Requests()


# ---------------------------------------------------------------- later passes


async def test_passes_and_cool_down() -> None:
    """What is proven unsent is tried in two later passes, ten seconds apart, then failed."""
    stage = Stage(4, rules=rules(retry=PLENTY))
    seed_some(stage, 4, every=1)
    stage.gateway.cancels = {device(0): [unsent()] * 5, device(1): [unsent()] * 99}
    ending = await stage.run()
    assert ending.stop is None
    assert stage.counts() == {"cancelled": 3, "failed": 1}
    stage.check()
    at = [s.at for s in stage.gateway.sent("cancel", device(1))]
    assert len(at) == 12
    assert at[4] - at[3] >= 10.0
    assert at[8] - at[7] >= 10.0


async def test_no_passes() -> None:
    """retry.passes 0: what is spent fails at once."""
    stage = Stage(2, rules=rules(retry=RetryRules(passes=0)))
    stage.gateway.cancels = {device(0): [unsent()] * 99}
    await stage.run()
    assert stage.counts() == {"failed": 1, "nothing_cached": 1}
    assert len(stage.gateway.sent("cancel", device(0))) == 4


async def test_a_later_pass_earns_its_own_budget() -> None:
    """What the first pass of a calm list earned does not pay for the second (invariant 9)."""
    stage = Stage(400, rules=rules(abort=None, retry=RetryRules(budget_reserve=0)))
    for number in range(20):
        stage.gateway.cancels[device(number)] = [unsent()] * 99
    await stage.run()
    later = [s for s in stage.gateway.sent("cancel") if s.at > 10.0]
    assert len(later) <= 2 * (20 + 20 * 0.1 + 1)
    assert stage.counts() == {"failed": 20, "nothing_cached": 380}


async def test_stop_in_the_cool_down() -> None:
    """Put off when the run ends: not attempted, or incomplete where something was cancelled."""
    stage = Stage(listed=[["1", "2"], ["3"]])
    stage.gateway.seed(device(0), "1", "2")
    stage.gateway.cancels = {device(0): [OK, *[unsent()] * 9], device(1): [unsent()] * 9}
    ending = await stage.run(stop_at=9.0)
    assert ending.stop == Stop("signal", "SIGTERM received")
    assert stage.counts() == {"cancelled_incomplete": 1, "not_attempted": 1}
    stage.check()


async def test_rows_of_failures_start_anew_in_a_later_pass() -> None:
    """Fifteen put off and then failed are fifteen failures, not thirty."""
    stage = Stage(400, rules=rules(concurrency=2))
    for number in range(385, 400):
        stage.gateway.cancels[device(number)] = [unsent()] * 99
    ending = await stage.run()
    assert ending.stop is None
    assert stage.counts() == {"failed": 15, "nothing_cached": 385}


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("fault", ["refused", "503", "lost"])
@pytest.mark.parametrize("concurrency", [16, 100])
async def test_total_outage(fault: str, concurrency: int) -> None:
    """10,000 targets, nothing works from the start: cancel calls <= max(50, 4 x concurrency)."""
    stage = Stage(10_000, rules=rules(concurrency=concurrency))
    fate = {"refused": unsent(), "503": unavailable(executed=True), "lost": lost()}[fault]
    stage.gateway.every_cancel = stage.gateway.every_search = lambda: fate
    ending = await stage.run()
    assert ending.stop is not None
    assert ending.stop.rule == "abort_consecutive"
    assert ending.requests.cancel <= max(50, 4 * concurrency)
    assert len(stage.gateway.sent("cancel")) == ending.requests.cancel
    counts = stage.counts()
    kinds = {"not_attempted"} if fault == "refused" else {"unknown", "not_attempted"}
    assert set(counts) == kinds
    sent = {s.device for s in stage.gateway.sent("cancel")}
    assert counts.get("unknown", len(sent)) == len(sent)


async def test_steady_half_503() -> None:
    """50 % 503 on cancels, abort off: at most 1.1 x devices + 100 calls in the first pass."""
    clock = VirtualClock(3)
    stage = Stage(1000, clock=clock, rules=rules(abort=None, retry=RetryRules(passes=0)))
    seed_some(stage, 1000, every=1)
    stage.gateway.every_cancel = lambda: unavailable() if clock.chance() < 0.5 else OK
    ending = await stage.run()
    assert 1000 < ending.requests.cancel <= 1.1 * 1000 + 100
    assert set(stage.counts()) == {"cancelled", "failed"}
    stage.check()


async def test_all_lost_but_executed() -> None:
    """All replies lost, all executed: the look-ups settle every target well (row 41)."""
    stage = Stage(120)
    seed_some(stage, 120)
    stage.gateway.every_cancel = lost
    ending = await stage.run()
    assert ending.stop is None
    assert stage.counts() == {"cancelled": 60, "nothing_cached": 60}
    stage.check()
    assert {row.evidence for row in stage.rows()} == {"search"}


# ---------------------------------------------------------------- stops


async def test_polite_stop() -> None:
    """In flight is waited for and recorded; unsure unknown, unsent given back (rows 42, 43)."""
    stage = Stage(100, rules=rules(concurrency=4, drain=8.0))
    seed_some(stage, 100, every=1)
    stage.gateway.every_cancel = lambda: slow(3.0)
    stage.gateway.cancels = {device(1): [lost(takes=3.0)], device(2): [unsent()]}
    ending = await stage.run(stop_at=4.0, verify=True)
    assert ending == Ending(
        Stop("signal", "SIGTERM received"), ending.requests, None, 0, durable=True
    )
    assert stage.scissors.cuts == [12.0]
    assert max(s.at for s in stage.gateway.log) < 4.0
    assert stage.ordinals(K.UNKNOWN) == [1]
    assert stage.counts()["not_attempted"] == 100 - 1 - stage.counts()["cancelled"]
    stage.check()
    assert {row.cause for row in stage.rows() if row.outcome is K.NOT_ATTEMPTED} <= {
        "signal", "not_started", None,
    }  # fmt: skip


@pytest.mark.parametrize(("disk", "apart"), [(0.0, 0.093), (0.004, 0.093), (1.0, 0.37)])
async def test_stop_at_any_moment(disk: float, apart: float) -> None:
    """Whenever the stop comes: it ends soon, only what was sent can be unknown, nothing is lost."""
    for step in range(16):
        at = step * apart
        clock = VirtualClock(step)
        stage = Stage(60, rules=rules(concurrency=3), disk=disk, clock=clock)
        seed_some(stage, 60)
        stage.gateway.every_cancel = Dice(
            clock, lost(), unsent(), unavailable(), throttled(0.2), OK, OK, OK
        )
        before = clock.monotonic()
        ending = await stage.run(stop_at=at)
        assert ending.durable
        assert clock.monotonic() - before < at + 5.0 or ending.stop is None
        assert stage.store.in_doubt("r1") == []
        stage.check()


class Dice:
    """One of these fates, by chance."""

    def __init__(self, clock: VirtualClock, *fates: Fate) -> None:
        self._clock, self._fates = clock, fates

    def __call__(self) -> Fate:
        return self._fates[int(self._clock.chance() * len(self._fates))]


async def test_deadline() -> None:
    """The deadline ends the run with its own rule; what is left is not attempted (8)."""
    stage = Stage(100, rules=rules(concurrency=2), deadline=1.0)
    ending = await stage.run()
    assert ending.stop is not None
    assert ending.stop.rule == "deadline"
    assert max(s.at for s in stage.gateway.log) < 1.0
    assert stage.counts()["not_attempted"] > 40


async def test_until() -> None:
    """--until ends the run with rule window (8)."""
    stage = Stage(100, rules=rules(concurrency=2), until_ms=WALL_MS + 1000)
    ending = await stage.run()
    assert ending.stop is not None
    assert ending.stop.rule == "window"
    assert max(s.at for s in stage.gateway.log) < 1.0


async def test_max_commands() -> None:
    """limits.max_commands ends the run for safety; what was recorded is there (5)."""
    stage = Stage(100, rules=rules(concurrency=1, max_commands=10))
    seed_some(stage, 100, every=1)
    ending = await stage.run()
    assert ending.stop is not None
    assert (ending.stop.rule, ending.stop.count) == ("max_commands", 10)
    assert stage.counts() == {"cancelled": 10, "not_attempted": 90}


async def test_same_id_for_two_devices_stops() -> None:
    """A commandId already recorded for a provably other device: anomalous, stop (row 73)."""
    stage = Stage(50, rules=rules(concurrency=1))
    stage.gateway.seed(device(0), "7")
    stage.gateway.seed(device(1), "7")
    ending = await stage.run()
    assert ending.stop is not None
    assert ending.stop.rule == "anomaly"
    assert stage.ordinals(K.ANOMALOUS) == [1]
    assert stage.counts()["not_attempted"] > 30


async def test_an_internal_bug_is_one_targets_trouble() -> None:
    """A bug in one course: unknown, counted, told; all others settle (row 55)."""
    stage = Stage(40)
    stage.gateway.cancels = {device(5): [BUG]}
    ending = await stage.run()
    assert (ending.stop, ending.internal_errors) == (None, 1)
    assert stage.counts() == {"nothing_cached": 39, "unknown": 1}
    assert stage.rows()[5].cause == "internal_error"


# ---------------------------------------------------------------- a ledger that fails


async def test_ledger_fails_at_any_commit() -> None:
    """The n-th commit fails: stop, not durable, nothing new goes out, no id silently lost (48)."""
    at = 1
    while True:
        stage = Stage(14, rules=rules(concurrency=3))
        seed_some(stage, 14, every=1)
        stage.gateway.cancels = {device(2): [lost()], device(4): [unsent()]}
        stage.disk.fails_at, stage.disk.error = at, LedgerError("disk full")
        ending = await stage.run()
        pending = {
            c.command.commandId
            for entry in stage.writer.pending()
            for c in (*entry.commands, *getattr(entry.verdict, "commands", ()))
        }
        doubt = {device(d.ordinal) for d in stage.store.in_doubt("r1")}
        for number, row in enumerate(stage.rows()):
            for commandId in stage.gateway.taken(device(number)):
                assert commandId in {*row.commandIds, *pending} or device(number) in doubt
        if stage.disk.calls < at:
            break
        assert not ending.durable, at
        assert ending.stop == Stop("record", "disk full"), at
        at += 1
    assert at > 10
    assert (ending.durable, ending.stop) == (True, None)


async def test_ledger_fails_while_the_run_stops() -> None:
    """Giving claims back is a commit as well: when it fails, the record is not whole (row 48)."""
    at = 1
    while True:
        stage = Stage(40, rules=rules(concurrency=3), disk=1.0)
        stage.disk.fails_at, stage.disk.error = at, LedgerError("disk full")
        ending = await stage.run(stop_at=2.2)
        if stage.disk.calls < at:
            break
        assert not ending.durable, at
        at += 1
    assert at > 4
    assert (ending.durable, stage.store.in_doubt("r1")) == (True, [])


# ---------------------------------------------------------------- doubt and resume


async def test_doubt_of_an_earlier_run_is_looked_up_first() -> None:
    """A device that an earlier run of the ledger left in doubt is looked up before it is called."""
    first = Stage(3)
    seed_some(first, 3, every=1)
    first.gateway.cancels = {device(1): [lost()]}
    first.gateway.every_search = unsent
    await first.run()
    assert first.ordinals(K.UNKNOWN) == [1]
    second = Stage(3, store=first.store, gateway=first.gateway, clock=first.clock, run_id="r2")
    crashed = Stage(3, store=first.store, gateway=first.gateway, clock=first.clock, run_id="r3")
    await crashed_after_claim(crashed)
    first.gateway.every_search = lambda: OK
    first.gateway.log.clear()
    await second.run()
    for number in range(3):
        kinds = [s.kind for s in first.gateway.log if s.device == device(number)]
        assert kinds[:2] == ["search", "search"], "in doubt since the crash"
    assert second.counts() == {"cancelled": 1, "nothing_cached": 2}
    assert second.rows()[1].commandIds == ("1",), "what the first run could not tell"
    assert first.gateway.sent("cancel") == []


async def crashed_after_claim(stage: Stage) -> None:
    """A run that claimed its targets and died."""
    stage.store.commit(stage.run_id, [], Claim(1, count=3), now_ms=stage.clock.wall_ms())


async def test_resume_looks_up_what_is_in_doubt() -> None:
    """A leg in doubt: looked up; executed ones are never sent again, others are (row 85)."""
    stage = Stage(4)
    seed_some(stage, 4, every=1)
    await crashed_after_claim(stage)
    stage.gateway.devices[device(0)][0].cancelled_at = -1.0
    doubts = stage.store.in_doubt("r1")
    since = min(d.since_ms for d in doubts)
    legs = [Leg(2, tuple(d.ordinal for d in doubts), in_doubt_since=since), Leg(2)]
    await stage.run(legs)
    assert stage.counts() == {"cancelled": 4}
    assert stage.gateway.sent("cancel", device(0)) == []
    kinds = [s.kind for s in stage.gateway.log if s.device == device(1)]
    assert kinds == ["search"] * 4 + ["cancel"] + ["search"] * 2
    assert [s.kind for s in stage.gateway.log if s.device == device(3)] == ["cancel"]


async def test_resume_of_a_marked_doubt() -> None:
    """A target recorded as ambiguous is looked up by a resume, back to its first send."""
    stage = Stage(2)
    seed_some(stage, 2, every=1)
    stage.gateway.cancels = {device(0): [lost()]}
    ending = await stage.run(stop_at=1.0)
    assert ending.stop is not None
    assert stage.counts() == {"cancelled": 1, "unknown": 1}
    resumed = Stage(store=stage.store, gateway=stage.gateway, clock=stage.clock, planned=True)
    stage.gateway.log.clear()
    await resumed.run([Leg(2, (0,))])
    assert resumed.counts() == {"cancelled": 2}
    assert [s.kind for s in stage.gateway.log] == ["search", "search"]


@pytest.mark.parametrize("by_id", [False, True])
async def test_the_wait_for_the_rate_is_no_part_of_a_duration(by_id: bool) -> None:
    """From the first byte sent, of a search too, to the verdict: the gateway's time, not ours."""
    stage = Stage(8, rules=rules(rate=2.0, concurrency=8, by_id=by_id))
    await stage.run()
    assert [row.duration_ms for row in stage.rows()] == [50] * 8


async def test_a_duration_holds_every_attempt_and_look_up() -> None:
    """Lost at 0 ms, looked up by two searches after 2 s: 2,150 ms, whatever came before."""
    stage = Stage(2, rules=rules(rate=1.0, lookup=LookupRules(wait=2.0)))
    stage.gateway.cancels = {device(1): [lost()]}
    await stage.run()
    taken = [row.duration_ms for row in stage.rows()]
    assert taken[0] == 50
    assert taken[1] is not None
    assert 2_150 <= taken[1] <= 4_150


# ---------------------------------------------------------------- permission


async def test_a_job_that_needs_search_is_refused_without_it() -> None:
    """Probe denied: RefusedError before the first cancel, the orgId and what to do named (7)."""
    stage = Stage(10)
    stage.gateway.every_search = lambda: DENIED
    told = r"orgId o1: HTTP 403, code 99403: no Asset/Control.*verify: none"
    with pytest.raises(RefusedError, match=told):
        await stage.run(probe=whole())
    assert stage.gateway.sent("cancel") == []
    assert stage.counts() == {"not_attempted": 10}


@pytest.mark.parametrize("fate", [OK, unsent(), unavailable(), throttled(1.0), NOT_FOUND])
async def test_a_probe_that_only_fails_refuses_nothing(fate: Fate) -> None:
    """A search that fails for now, or for want of that device, is no refusal: the run goes on."""
    stage = Stage(3)
    stage.gateway.searches = {device(): [fate]}
    await stage.run(probe=whole())
    assert stage.counts() == {"nothing_cached": 3}


async def test_no_token_before_the_first_request() -> None:
    """No token at the probe: stop, nothing sent, everything not attempted (row 21)."""
    stage = Stage(3)
    stage.gateway.tokens = [NotSent("no_token", rule="no_token", message="no answer")]
    ending = await stage.run(probe=whole())
    assert ending == Ending(
        Stop("no_token", "no answer", count=1, of=1), Requests(), None, 0, durable=True
    )
    assert stage.counts() == {"not_attempted": 3}


async def test_denied_search_of_a_look_up_refuses_no_run() -> None:
    """Without a need for searches a denied look-up is that target's unknown."""
    stage = Stage(3)
    stage.gateway.cancels = {device(0): [lost()]}
    stage.gateway.every_search = lambda: DENIED
    ending = await stage.run(verify=True)
    assert ending.stop is None
    assert stage.counts() == {"nothing_cached": 2, "unknown": 1}
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(0, 0, 0, unsearched=3)


# ---------------------------------------------------------------- verification


async def test_verify_finds_nothing() -> None:
    """All gone: so many targets searched again, nothing still cached."""
    stage = Stage(6)
    seed_some(stage, 6)
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(6, 0, 0)
    assert ending.requests == Requests(cancel=6, search=6)


async def test_verify_finds_what_the_gateway_kept() -> None:
    """Older than the run and still cached is found; what came since counts apart."""
    stage = Stage(3, rules=rules(lookup=LookupRules(wait=5.0)))
    seed_some(stage, 3, every=1)
    stage.gateway.cancels = {device(1): [Fate(executed=False)]}  # it says [], and keeps it
    stage.gateway.cache_later(device(2), "9", 3.0)
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(3, 1, 1)
    assert [(f.target.ordinal, f.commandIds) for f in ending.findings.still_cached] == [(1, ("1",))]


def why_unverified(ending: Ending) -> str | None:
    return None if ending.findings is None else ending.findings.why


async def test_verify_that_names_another_device() -> None:
    """Row 94: named otherwise than before, a settled target is anomalous, and the run stops."""
    stage = Stage(2)
    seed_some(stage, 2, every=1)
    first, other = Identity(assetId="a1"), Identity(assetId="a2")
    stage.gateway.names = {device(0): [first, first], device(1): [first, other]}
    for number in (0, 1):
        stage.gateway.cache_later(device(number), f"9{number}", 1.0)  # for verification to show
    ending = await stage.run(verify=True)
    assert ending.stop is not None
    assert (ending.stop.rule, why_unverified(ending)) == ("anomaly", "stopped on the way (anomaly)")
    kinds = {row.ordinal: (row.outcome, row.cause, row.told) for row in stage.rows()}
    assert kinds == {
        0: (OutcomeKind.CANCELLED, None, first),
        1: (OutcomeKind.ANOMALOUS, "other_names", first),
    }


async def test_a_verification_whose_searches_name_two_devices() -> None:
    """Row 94: what its first try was told is kept for the next."""
    stage = Stage(1, rules=rules(lookup=LookupRules(wait=1.0)))
    seed_some(stage, 1, every=1)
    stage.gateway.cancels = {device(0): [Fate(executed=False)]}  # it says [], and keeps it
    stage.gateway.names = {device(0): [Identity(assetId="a1"), Identity(assetId="a2")]}
    ending = await stage.run(verify=True)
    assert ending.stop is not None
    assert (ending.stop.rule, why_unverified(ending)) == ("anomaly", "stopped on the way (anomaly)")
    assert [(row.outcome, row.cause) for row in stage.rows()] == [(K.ANOMALOUS, "other_names")]


async def test_a_probe_that_names_another_device_than_an_earlier_process_saw() -> None:
    """Row 94: the probe of a resume is a reply about its target like any other."""
    stage = Stage(1)
    stage.gateway.seed(device(0), "1")
    first, other = Identity(assetId="a1"), Identity(assetId="a2")
    stage.gateway.names = {device(0): [first, other]}
    stage.gateway.cancels = {device(0): [partial(1)]}
    await stage.run(stop_at=0.5)
    stage.gateway.cache_later(device(0), "2", 0.1)  # for the probe to show
    await asyncio.sleep(0.2)
    resumed = Stage(store=stage.store, gateway=stage.gateway, clock=stage.clock, planned=True)
    ending = await resumed.run([Leg(2, (0,))], probe=whole())
    assert ending.stop is not None
    assert ending.stop.rule == "anomaly"
    [row] = resumed.rows()
    assert (row.outcome, row.cause, row.told) == (K.ANOMALOUS, "other_names", first)
    assert row.commandIds == ("1",)
    assert len(stage.gateway.sent("cancel")) == 1


async def test_names_outlive_a_pass_that_recorded_nothing() -> None:
    """Row 94: what a search named is kept when the target is put off."""
    stage = Stage(1, rules=rules(by_id=True, retry=replace(PLENTY, attempts=1)))
    stage.gateway.seed(device(0), "1")
    first, other = Identity(assetId="a1"), Identity(assetId="a2")
    stage.gateway.names = {device(0): [first, other]}
    stage.gateway.cancels = {device(0): [unsent()]}
    ending = await stage.run()
    assert ending.stop is not None
    assert ending.stop.rule == "anomaly"
    [row] = stage.rows()
    assert (row.outcome, row.cause, row.told) == (K.ANOMALOUS, "other_names", first)
    assert [s.kind for s in stage.gateway.log] == ["search", "cancel", "search"]


async def test_no_row_has_the_identity_asked_for() -> None:
    """Row 95: the end of the run says how to list these devices."""
    stage = Stage(3)
    seed_some(stage, 3, every=1)
    unasked = Fate(said=Ambiguous("other_spelling", 200))
    stage.gateway.every_cancel = stage.gateway.every_search = lambda: unasked
    ending = await stage.run()
    assert stage.counts() == {"unknown": 3}
    assert ending.advice == (
        "no row of a reply had the identity asked for: list these devices by assetId"
    )
    stage = Stage(1)
    assert (await stage.run()).advice is None


@pytest.mark.parametrize("told", ["to both", "to one"])
async def test_verify_searches_two_spellings_of_a_device_in_turn(told: str) -> None:
    """Replies told that two targets are one device: both searched, never at once (invariant 9)."""
    stage = Stage(4)

    class Twins(Attempted):
        async def _subjects(self) -> list[Subject]:
            return [_twin(subject, told) for subject in await super()._subjects()]

    ending = await stage.session.run(FIRST, Twins(stage), None)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(4, 0, 0)
    assert stage.gateway.most_per_device == 1


def _twin(subject: Subject, told: str) -> Subject:
    """0 and 1 are one device, 2 and 3 another; `to one`: only the odd one knows both names."""
    ordinal = subject.target.ordinal
    key = device(ordinal // 2)
    pair = (key.productKey, key.deviceKey) if told == "to both" or ordinal % 2 else (None, None)
    known = Identity(pair[0], pair[1], f"a{ordinal // 2}")
    return Subject(replace(subject.target, device=key), known)


async def test_verify_waits_for_the_index() -> None:
    """A search that lags shows a command at the first try only: nothing is found."""
    clock = VirtualClock()
    stage = Stage(3, clock=clock, gateway=FakeGateway(clock, lag=3.0))
    seed_some(stage, 3, every=1)
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(3, 0, 0)
    assert len(stage.gateway.sent("search")) == 6


async def test_verify_of_a_listed_job_looks_at_its_ids() -> None:
    """Other commands of a listed device are none of the job's business."""
    stage = Stage(listed=[["1"]])
    stage.gateway.seed(device(0), "1", "2")
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(1, 0, 0)


async def test_one_failed_search_costs_one_target() -> None:
    """It is repeated to its end; all that is known of the others is reported."""
    stage = Stage(30)
    seed_some(stage, 30, every=1)
    stage.gateway.cancels = {device(5): [Fate(executed=False)]}  # it says [], and keeps it
    stage.gateway.searches = {device(1): [unavailable()] * 99}
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(29, 1, 0, unsearched=1)
    assert ending.findings.why == "searches failed (HTTP 503: http_503)"
    most = PLENTY.attempts * (1 + PLENTY.passes)
    assert len(stage.gateway.sent("search", device(1))) == most


async def test_failed_searches_are_repeated_at_the_end() -> None:
    """Bad weather for searches: every target is verified, and none is asked twice before all."""
    stage = Stage(300)
    seed_some(stage, 300, every=1)
    for number in range(0, 300, 3):
        stage.gateway.searches[device(number)] = [unavailable(), unsent(), lost()][: number % 4]
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(300, 0, 0)
    assert ending.findings.why is None
    first = [sent.device for sent in stage.gateway.sent("search")][:300]
    assert len(set(first)) == 300


async def test_a_gateway_that_answers_no_search() -> None:
    """A pass ends after 20 failures in a row: a gateway that is down is not hammered."""
    stage = Stage(500, rules=rules(concurrency=4))
    seed_some(stage, 500, every=1)
    stage.gateway.every_search = unavailable
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(0, 0, 0, unsearched=500)
    assert ending.findings.why == "searches failed (HTTP 503: http_503)"
    assert ending.requests.search <= (1 + PLENTY.passes) * (20 + 4)


async def test_a_gateway_that_comes_back() -> None:
    """What a pass did not reach is searched in the next."""
    stage = Stage(100, rules=rules(concurrency=4))
    seed_some(stage, 100, every=1)
    weather = iter([unavailable()] * 25)
    stage.gateway.every_search = lambda: next(weather, OK)
    ending = await stage.session.run(FIRST, Attempted(stage, batch=10), None)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(100, 0, 0)


async def test_a_429_is_no_reason_to_give_up() -> None:
    """It makes everybody wait, so that it says nothing of the searches that follow."""
    stage = Stage(60, rules=rules(concurrency=30))
    seed_some(stage, 60, every=1)
    weather = iter([throttled()] * 70)
    stage.gateway.every_search = lambda: next(weather, OK)
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(60, 0, 0)


@pytest.mark.parametrize("tries", [1, 2])
async def test_verify_denied_ends_soon(tries: int) -> None:
    """Refused searches are not repeated; five in a row mean that this key may not search."""
    stage = Stage(30, rules=rules(concurrency=3, lookup=LookupRules(tries=tries)))
    stage.gateway.searches = {device(0): [unsent()]}
    stage.gateway.every_search = lambda: DENIED
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(0, 0, 0, unsearched=30)
    assert ending.findings.why == (
        "searches were refused (HTTP 403, code 99403: no Asset/Control), and others for other "
        "reasons"
    )
    assert ending.requests.search <= 5 + 3
    assert ending.stop is None


async def test_a_search_that_is_refused_for_one_device() -> None:
    """The others are verified all the same; it is not asked again."""
    stage = Stage(30)
    stage.gateway.searches = {device(7): [DENIED]}
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(29, 0, 0, unsearched=1)
    assert ending.findings.why == "searches were refused (HTTP 403, code 99403: no Asset/Control)"
    assert ending.requests.search == 30


async def test_searches_that_are_refused_for_a_part_of_the_list() -> None:
    """A key that may not search some devices may search the others; nothing is waited for."""
    clock = VirtualClock()
    stage = Stage(60, clock=clock, rules=rules(concurrency=1))
    stage.gateway.searches = {device(number): [DENIED] for number in range(10, 40)}
    began = clock.monotonic()
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(30, 0, 0, unsearched=30)
    assert ending.requests.search == 60
    assert clock.monotonic() - began < PLENTY.cooldown


async def test_a_token_that_is_turned_down_ends_a_verification() -> None:
    """That is about the key, not the device: five searches in a row, each with its attempts."""
    stage = Stage(60, rules=rules(concurrency=1))
    weather = iter([OK] * 10)
    stage.gateway.every_search = lambda: next(weather, STALE_TOKEN)
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(10, 0, 0, unsearched=50)
    assert ending.requests.search == 10 + 5 * (1 + PLENTY.attempts)


async def test_a_device_that_is_gone_has_nothing_cached() -> None:
    """`no such device` answers the question of a verification."""
    stage = Stage(3)
    stage.gateway.searches = {device(1): [NOT_FOUND]}
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(3, 0, 0)
    assert ending.findings.absent == 1


async def test_verify_is_tried_again() -> None:
    """A search that fails once is made again."""
    stage = Stage(2)
    stage.gateway.searches = {device(1): [unsent()]}
    ending = await stage.run(verify=True)
    assert ending.findings is not None
    assert ending.findings.verified() == Verified(2, 0, 0)


@pytest.mark.parametrize("at", [1.0, 2.07, 3.0, 5.0])
async def test_stop_while_verifying(at: float) -> None:
    """A stop ends the verification too: only what was seen is claimed."""
    stage = Stage(2)
    seed_some(stage, 2, every=1)
    stage.gateway.cancels = {device(n): [Fate(executed=False)] for n in range(2)}
    stage.gateway.every_search = lambda: slow(1.5)
    ending = await stage.run(verify=True, stop_at=at)
    assert ending.stop is not None
    assert stage.counts() == {"nothing_cached": 2}
    found = ending.findings
    assert found is not None
    assert found.verified() == Verified(0, 0, 0, unsearched=2)
    assert found.why == "stopped on the way (signal)"


async def test_look_alone() -> None:
    """Only searching: what is cached now, or since the run began by its wall clock."""
    stage = Stage(3)
    stage.gateway.seed(device(0), "1", age=100.0)
    stage.gateway.seed(device(1), "2", age=10.0)
    looked = await stage.session.look(All(stage), None)
    assert looked.verified() == Verified(3, 2, 0)
    again = Stage(store=stage.store, gateway=stage.gateway, clock=stage.clock, planned=True)
    looked = await again.session.look(All(again), again.clock.wall_ms() - 50_000)
    assert looked.verified() == Verified(3, 1, 1)
    assert stage.gateway.sent("cancel") == []


async def test_second_look_is_stopped() -> None:
    """A stop between the two tries of a verification, and while searches wait at the gate."""
    for at in (0.5, 2.2, 3.0, 4.07):
        stage = Stage(9, rules=rules(concurrency=1, rate=5.0))
        seed_some(stage, 9, every=1)
        asyncio.get_running_loop().call_later(at, stage.switch.throw, Stop("signal", "SIGINT"))
        looked = await stage.session.look(All(stage), None)
        assert looked.stop == Stop("signal", "SIGINT")
        assert looked.targets + looked.unsearched == 9
        assert looked.unsearched
        assert looked.why == "stopped on the way (signal)"


async def test_look_that_is_stopped() -> None:
    """A stop while only searching says why it ended early."""
    stage = Stage(3)
    stage.switch.throw(Stop("signal", "SIGINT received"))
    looked = await stage.session.look(All(stage), None)
    assert looked == Findings(
        unsearched=3,
        why="stopped on the way (signal)",
        stop=Stop("signal", "SIGINT received"),
    )


async def test_forbidden_everywhere() -> None:
    """Twenty 403s stop the run and name the orgId (row 22)."""
    stage = Stage(200)
    stage.gateway.every_cancel = lambda: FORBIDDEN
    ending = await stage.run()
    assert ending.stop is not None
    assert ending.stop.rule in ("forbidden", "abort_consecutive")


async def test_swallowed_once_each() -> None:
    """Every first request vanishes: looked up, sent again within the budget, nothing invented."""
    stage = Stage(30, rules=rules(abort=None))
    seed_some(stage, 30, every=1)
    for number in range(30):
        stage.gateway.cancels[device(number)] = [swallowed()]
    await stage.run(FIRST)
    assert set(stage.counts()) == {"cancelled", "failed"}
    stage.check()
