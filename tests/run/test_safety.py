"""The rules that stop a run on what its targets came to, each at its exact edge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.run.rig import whole
from worker.model import Outcome, OutcomeKind, Stop
from worker.run.safety import AbortRules, Safety

K = OutcomeKind
ABORT = AbortRules(failed=0.05, min_sample=50, consecutive=20)


class Judge:
    """A Safety that numbers its targets itself."""

    def __init__(self, abort: AbortRules | None = ABORT, max_commands: int | None = None) -> None:
        self.safety = Safety(abort, max_commands, "o1")
        self._ordinal = -1

    def outcome(self, kind: K, cause: str | None = None, ordinal: int | None = None) -> Outcome:
        if ordinal is None:
            self._ordinal += 1
            ordinal = self._ordinal
        status = 403 if cause == "forbidden" else None
        return Outcome(
            whole(ordinal), kind, cause=cause, http_status=status, requestId=f"r{ordinal}"
        )

    def settle(
        self, kind: K, times: int = 1, cause: str | None = None, *, left: bool = True
    ) -> Stop | None:
        """So many targets settle so; the first stop, which must come with the last of them."""
        for index in range(times):
            stop = self.safety.settled(self.outcome(kind, cause), left=left)
            if stop is not None:
                assert index == times - 1, f"too early: {index + 1} of {times}"
                return stop
        return None

    def put_off(self, times: int = 1, cause: str = "refused") -> Stop | None:
        for _ in range(times):
            if stop := self.safety.put_off(self.outcome(K.FAILED, cause), left=True):
                return stop
        return None

    def later(self, ordinal: int, kind: K, cause: str | None = None) -> Stop | None:
        return self.safety.settled(self.outcome(kind, cause, ordinal), left=True)


# ---------------------------------------------------------------- consecutive


@pytest.mark.parametrize("kind", [K.FAILED, K.UNKNOWN])
def test_consecutive_stops_at_exactly_so_many(kind: K) -> None:
    """The 20th in a row stops (>=); the stop names cause, count, limit, request ids (row 28)."""
    assert Judge().settle(kind, 20, cause="refused") == Stop(
        "abort_consecutive",
        "20 targets in a row failed, most with refused (abort.consecutive is 20)",
        count=20,
        of=20,
        request_ids=("r15", "r16", "r17", "r18", "r19"),
    )


def test_a_stop_repeats_what_the_gateway_said() -> None:
    """99400 for listed commands: its words, escaped, and the first question to ask."""
    judge = Judge()
    for _ in range(20):
        said = replace(judge.outcome(K.REJECTED, "bad_request"), message="no such \norgId")
        stop = judge.safety.settled(said, left=True)
    assert stop == Stop(
        "abort_consecutive",
        '20 targets in a row failed, most with bad_request ("no such \\norgId"); is orgId o1 '
        "right? (abort.consecutive is 20)",
        count=20,
        of=20,
        request_ids=("r15", "r16", "r17", "r18", "r19"),
    )


@pytest.mark.parametrize(
    "kind",
    [K.CANCELLED, K.NOTHING_CACHED, K.NOTHING_MATCHED, K.TOO_LATE, K.CANCELLED_INCOMPLETE],
)
def test_a_success_between_starts_the_row_anew(kind: K) -> None:
    """Success is any other outcome except not_found."""
    judge = Judge(AbortRules(failed=1.0, min_sample=10_000, consecutive=20))
    assert judge.settle(K.FAILED, 19) is None
    assert judge.settle(kind) is None
    assert judge.safety.succeeded
    assert judge.settle(K.FAILED, 19) is None
    stop = judge.settle(K.FAILED)
    assert stop is not None
    assert stop.count == 20


@pytest.mark.parametrize(("kind", "cause"), [(K.NOT_FOUND, None), (K.FAILED, "throttled")])
def test_what_says_nothing_neither_counts_nor_breaks_the_row(kind: K, cause: str | None) -> None:
    """not_found is no success and no failure; who only ever got 429 is left out (row 25)."""
    judge = Judge()
    assert judge.settle(K.FAILED, 19) is None
    assert judge.settle(kind, 100, cause) is None
    assert not judge.safety.succeeded
    assert judge.settle(K.FAILED) is not None


def test_throttled_but_partly_cancelled_is_a_success() -> None:
    """Only failed targets are left out for their 429s: something cancelled is a success."""
    judge = Judge()
    assert judge.settle(K.FAILED, 19) is None
    assert judge.settle(K.CANCELLED_INCOMPLETE, 1, "throttled") is None
    assert judge.safety.succeeded
    assert judge.settle(K.FAILED, 19) is None


def test_not_attempted_counts_for_nothing() -> None:
    """What the run's own end leaves is nobody's failure."""
    judge = Judge()
    assert judge.settle(K.NOT_ATTEMPTED, 100) is None
    assert judge.settle(K.FAILED, 19) is None
    assert judge.settle(K.NOT_ATTEMPTED, 100) is None
    assert judge.settle(K.FAILED) is not None


# ---------------------------------------------------------------- the share


def test_share_needs_its_sample_and_must_be_passed() -> None:
    """With 5 % of 50: two failures of 49 are too few to say, 2 of 50 within, 3 of 52 over it."""
    judge = Judge()
    assert judge.settle(K.FAILED, 2) is None
    assert judge.settle(K.CANCELLED, 47) is None
    assert judge.settle(K.FAILED) == Stop(
        "abort_failed",
        "3 of the last 50 targets failed, most with failed (abort.failed is 5%)",
        count=3,
        of=50,
        request_ids=("r49",),
    )


def test_exactly_the_share_is_allowed() -> None:
    """5 of 100 is 5 %, not more; the sixth of 101 stops."""
    judge = Judge()
    assert judge.settle(K.CANCELLED, 95) is None
    assert judge.settle(K.FAILED, 5) is None
    stop = judge.settle(K.FAILED)
    assert stop is not None
    assert (stop.rule, stop.count, stop.of) == ("abort_failed", 6, 101)


def test_left_out_targets_are_not_in_the_sample() -> None:
    """not_found and throttled targets do not fill up min_sample."""
    judge = Judge()
    assert judge.settle(K.NOT_FOUND, 19) is None
    assert judge.settle(K.FAILED, 60, "throttled") is None
    assert judge.settle(K.CANCELLED, 10) is None
    assert judge.settle(K.FAILED, 19) is None


def test_only_the_last_thousand_count() -> None:
    """Failures that a thousand good targets followed are forgotten."""
    judge = Judge(AbortRules(failed=0.05, min_sample=50, consecutive=1000))
    assert judge.settle(K.CANCELLED, 1000) is None
    assert judge.settle(K.FAILED, 50) is None
    assert judge.settle(K.CANCELLED, 950) is None
    assert judge.settle(K.CANCELLED, 50) is None
    assert judge.settle(K.FAILED, 50) is None
    assert judge.settle(K.FAILED) is not None


def test_rejected_counts_as_failed() -> None:
    """failed + rejected + unknown over the share."""
    judge = Judge()
    assert judge.settle(K.CANCELLED, 50) is None
    assert judge.settle(K.REJECTED, 1, "bad_request") is None
    assert judge.settle(K.UNKNOWN) is None
    assert judge.settle(K.FAILED) is not None


def test_both_rules_fire_only_while_something_is_left() -> None:
    """The last target of a list stops nothing."""
    judge = Judge()
    assert judge.settle(K.FAILED, 60, left=False) is None
    assert judge.settle(K.FAILED) is not None


def test_abort_off_switches_off_these_two_alone() -> None:
    """With `abort: off` failures stop nothing, 403s still do."""
    judge = Judge(abort=None)
    assert judge.settle(K.FAILED, 2000) is None
    assert judge.put_off(50) is None
    assert judge.settle(K.REJECTED, 20, "forbidden") is not None


# ---------------------------------------------------------------- put off


def test_put_off_counts_as_failed_until_it_settles() -> None:
    """Twenty put off in a row stop a run whose gateway refuses connections (row 1)."""
    judge = Judge()
    assert judge.put_off(19) is None
    stop = judge.put_off()
    assert stop is not None
    assert (stop.rule, stop.count) == ("abort_consecutive", 20)


def test_put_off_and_well_settled_later_counts_no_more() -> None:
    """What a later pass settles well leaves the failures, and each target counts once."""
    judge = Judge(AbortRules(failed=0.05, min_sample=50, consecutive=1000))
    assert judge.put_off(2) is None
    assert judge.settle(K.CANCELLED, 45) is None
    judge.safety.next_pass()
    assert judge.later(0, K.CANCELLED) is None
    assert judge.later(1, K.NOTHING_CACHED) is None
    assert judge.settle(K.FAILED, 2) is None  # 2 of 49
    assert judge.settle(K.CANCELLED) is None
    stop = judge.settle(K.FAILED)
    assert stop is not None
    assert (stop.count, stop.of) == (3, 51)


def test_put_off_twice_counts_once() -> None:
    """One put off in two passes is one failure of one target."""
    judge = Judge(AbortRules(failed=0.05, min_sample=50, consecutive=1000))
    assert judge.put_off(3) is None
    assert judge.settle(K.CANCELLED, 57) is None
    judge.safety.next_pass()
    for ordinal in range(3):
        again = judge.outcome(K.FAILED, "refused", ordinal)
        assert judge.safety.put_off(again, left=True) is None  # 3 of 60
    stop = judge.settle(K.FAILED)
    assert stop is not None
    assert (stop.count, stop.of) == (4, 61)


def test_put_off_and_not_found_later_is_left_out() -> None:
    """It counted as failed until it settled; settled as not_found it counts for nothing."""
    judge = Judge(AbortRules(failed=0.05, min_sample=50, consecutive=1000))
    assert judge.put_off(3) is None
    for ordinal in range(3):
        assert judge.later(ordinal, K.NOT_FOUND) is None
    assert judge.settle(K.CANCELLED, 49) is None
    assert judge.settle(K.FAILED, 2) is None
    assert judge.settle(K.FAILED) is not None


def test_put_off_long_ago_does_not_pay_for_new_failures() -> None:
    """One that a thousand others have pushed out of sight settles like a new one."""
    judge = Judge(AbortRules(failed=0.05, min_sample=50, consecutive=1000))
    assert judge.put_off(40) is None
    assert judge.settle(K.CANCELLED, 1000) is None
    for ordinal in range(40):
        assert judge.later(ordinal, K.CANCELLED) is None
    assert judge.settle(K.FAILED, 50) is None
    stop = judge.settle(K.FAILED)
    assert stop is not None
    assert (stop.count, stop.of) == (51, 1000)


def test_put_off_for_429_is_left_out() -> None:
    """Targets that only ever got 429 never stop a run (row 25)."""
    judge = Judge()
    assert judge.put_off(500, "throttled") is None


def test_more_put_off_than_are_looked_back_on() -> None:
    """Thousands may wait for a later pass; only those in sight are remembered."""
    judge = Judge(AbortRules(failed=1.0, min_sample=50, consecutive=10_000))
    assert judge.put_off(3000) is None
    assert judge.later(0, K.CANCELLED) is None
    assert judge.later(2999, K.CANCELLED) is None
    assert judge.safety._failures == 998


def test_a_later_pass_starts_its_row_anew() -> None:
    """Each target counts once: those put off do not make the row of the next pass longer."""
    judge = Judge()
    assert judge.put_off(15) is None
    judge.safety.next_pass()
    stops = [judge.later(ordinal, K.FAILED) for ordinal in range(15)]
    assert stops == [None] * 15


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ok", "bad", "off", "later_ok", "later_bad", "none"]), st.integers(0, 40)
    ),
    max_size=120,
)


@given(_STEPS)
def test_failures_are_always_those_in_sight(steps: list[tuple[str, int]]) -> None:
    """Whatever is put off and settles when: the count is that of the failures looked back on."""
    judge = Judge(AbortRules(failed=1.0, min_sample=1, consecutive=10**9))
    waiting: list[int] = []
    for step, times in steps:
        for _ in range(times):
            match step:
                case "ok":
                    judge.settle(K.CANCELLED)
                case "bad":
                    judge.settle(K.FAILED)
                case "off":
                    judge.put_off()
                    waiting.append(judge._ordinal)
                case _ if waiting:
                    kind = {"later_ok": K.CANCELLED, "later_bad": K.FAILED}.get(step, K.NOT_FOUND)
                    judge.later(waiting.pop(0), kind)
        safety = judge.safety
        assert safety._failures == sum(cell.failed for cell in safety._recent)
        assert len(safety._recent) <= 1000


# ---------------------------------------------------------------- answers


def test_twenty_403_in_a_row_stop() -> None:
    """20 refused with 403 and no other answer between; the orgId is named (row 22)."""
    judge = Judge(abort=None)
    assert judge.settle(K.CANCELLED) is None
    assert judge.settle(K.REJECTED, 19, "forbidden", left=False) is None
    assert judge.settle(K.FAILED, 5, "refused") is None  # no answer at all
    stop = judge.settle(K.REJECTED, 1, "forbidden", left=False)
    assert stop is not None
    assert (stop.rule, stop.count, stop.of, stop.request_ids) == ("forbidden", 20, 26, ("r25",))
    assert "orgId o1" in stop.message


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (K.CANCELLED, None),
        (K.NOT_FOUND, None),
        (K.REJECTED, "bad_request"),
        (K.REJECTED, "wrong_path"),
    ],
)
def test_any_other_answer_starts_the_403s_anew(kind: K, cause: str | None) -> None:
    """One device that is answered otherwise shows that the key is not shut out."""
    judge = Judge(abort=None)
    assert judge.settle(K.REJECTED, 19, "forbidden") is None
    assert judge.settle(kind, 1, cause) is None
    assert judge.settle(K.REJECTED, 19, "forbidden") is None
    assert judge.settle(K.REJECTED, 1, "forbidden") is not None


def test_five_404_without_an_envelope_stop() -> None:
    """Five answers of somebody else's 404 page: wrong path (row 23)."""
    judge = Judge(abort=None)
    assert judge.settle(K.REJECTED, 4, "wrong_path") is None
    assert judge.settle(K.REJECTED, 1, "forbidden") is None
    stop = judge.settle(K.REJECTED, 5, "wrong_path", left=False)
    assert stop is not None
    assert (stop.rule, stop.count, stop.of) == ("wrong_path", 5, 10)


def test_first_twenty_all_not_found_stop() -> None:
    """The first 20 unknown devices: wrong organization, gateway or list? (row 23)"""
    stop = Judge().settle(K.NOT_FOUND, 20)
    assert stop is not None
    assert (stop.rule, stop.count, stop.of) == ("not_found", 20, 20)


def test_not_found_fires_once_and_only_at_the_beginning() -> None:
    """One other outcome before, nothing left, or later ones: never."""
    judge = Judge()
    assert judge.settle(K.NOT_FOUND, 19) is None
    assert judge.settle(K.CANCELLED) is None
    assert judge.settle(K.NOT_FOUND, 100) is None
    assert Judge().settle(K.NOT_FOUND, 20, left=False) is None
    done = Judge()
    assert done.settle(K.NOT_FOUND, 20, left=False) is None
    assert done.settle(K.NOT_FOUND, 20) is None


# ---------------------------------------------------------------- max_commands


@pytest.mark.parametrize(
    ("limit", "commands", "left", "stops"),
    [
        (None, 10**6, True, False),
        (5, 4, True, False),
        (5, 5, True, True),
        (5, 5, False, False),
        (5, 6, False, True),
    ],
)
def test_max_commands(limit: int | None, commands: int, left: bool, stops: bool) -> None:
    """Reaching it stops what is left; passing it always stops."""
    stop = Judge(max_commands=limit).safety.recorded(commands, left=left)
    assert (stop is not None and (stop.rule, stop.count, stop.of)) == (
        stops and ("max_commands", commands, limit)
    )
