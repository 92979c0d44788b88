"""The exit code, recomputed from the promise."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.model import OutcomeKind, Stop, Verified
from worker.report.verdict import Verdict, exit_code

SAFETY = (
    "auth",
    "no_token",
    "tls",
    "redirect",
    "anomaly",
    "forbidden",
    "wrong_path",
    "not_found",
    "cancel_all_refused",
    "abort_failed",
    "abort_consecutive",
    "retry_after",
    "max_commands",
)
RULES = (None, *SAFETY, "record", "signal", "window", "deadline", "limit")


def promised(
    counts: dict[OutcomeKind, int],
    rule: str | None,
    number: int,
    verified: Verified | None,
    required: bool,
    errors: int,
    durable: bool,
    signal: int | None,
    left: bool,
) -> int:
    """The order of the exit codes, written down a second time."""
    holds = {
        6: not durable or rule == "record",
        5: rule in SAFETY,
        1: errors > 0 or (left and rule is None and signal is None and durable),
        128: signal is not None or rule == "signal",
        8: rule in {"window", "deadline"} and left,
        4: any(counts.get(OutcomeKind(k)) for k in ("unknown", "cancelled_incomplete", "anomalous"))
        or (verified is not None and verified.still_cached > 0)
        or (required and (verified is None or verified.unsearched > 0)),
        3: any(counts.get(OutcomeKind(k)) for k in ("failed", "rejected", "not_found", "too_late")),
    }
    for code, true in holds.items():
        if true:
            return 128 + (signal or number) if code == 128 else code
    return 0


def test_every_combination_of_causes_gives_the_promised_code() -> None:
    """Over all rules, signals, states of the record and one outcome of each kind."""
    tables: list[dict[OutcomeKind, int]] = [{}, *({kind: 2} for kind in OutcomeKind)]
    checks = (None, Verified(5, 0, 1), Verified(5, 1, 0), Verified(4, 0, 0, unsearched=1))
    flags = (False, True)
    wrong = []
    for rule, counts, verified, errors, durable, signal, left, required in itertools.product(
        RULES, tables, checks, (0, 3), flags, (None, 2, 15), flags, flags
    ):
        stop = Stop(rule, "why", count=15 if rule == "signal" else 3, of=9) if rule else None
        found = exit_code(
            counts,
            stop=stop,
            verified=verified,
            verify_required=required,
            internal_errors=errors,
            record_durable=durable,
            signal=signal,
            work_left=left,
        )
        due = promised(counts, rule, 15, verified, required, errors, durable, signal, left)
        if found.code != due or bool(found.code) != bool(found.reasons):
            wrong.append((rule, counts, verified, errors, durable, signal, left, found, due))
    assert wrong == []


@pytest.mark.parametrize(
    ("verified", "reason"),
    [
        (None, "not verified, although the job asks for it: HTTP 503"),
        (Verified(4, 0, 0, 2), "not searched: 2, although the job asks for it: HTTP 503"),
    ],
)
def test_a_verification_that_the_job_asks_for(verified: Verified | None, reason: str) -> None:
    """What is missing of it is uncertain, and the reason is told; a default one is ignored."""
    found = exit_code({}, verified=verified, verify_required=True, unverified="HTTP 503")
    assert found == Verdict(4, (reason,))
    assert exit_code({}, verified=verified, unverified="HTTP 503") == Verdict(0)


@given(
    counts=st.dictionaries(st.sampled_from(OutcomeKind), st.integers(0, 9)),
    rule=st.sampled_from(RULES),
    still=st.one_of(st.none(), st.integers(0, 2)),
    errors=st.integers(0, 1),
    durable=st.booleans(),
    left=st.booleans(),
)
def test_any_mixture_of_outcomes_gives_the_promised_code(
    counts: dict[OutcomeKind, int],
    rule: str | None,
    still: int | None,
    errors: int,
    durable: bool,
    left: bool,
) -> None:
    """Counts of zero count as absent, and several kinds at once follow the order."""
    verified = None if still is None else Verified(9, still, 0)
    found = exit_code(
        counts,
        stop=Stop(rule, "", count=2) if rule else None,
        verified=verified,
        internal_errors=errors,
        record_durable=durable,
        work_left=left,
    )
    assert found.code == promised(counts, rule, 2, verified, False, errors, durable, None, left)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (exit_code({OutcomeKind.CANCELLED: 3}), Verdict(0)),
        (
            exit_code({OutcomeKind.UNKNOWN: 2, OutcomeKind.FAILED: 1}),
            Verdict(4, ("unknown: 2", "failed: 1")),
        ),
        (
            exit_code({OutcomeKind.UNKNOWN: 1}, differences=2),
            Verdict(1, ("differences from the simulator's truth: 2", "unknown: 1")),
        ),
        (
            exit_code({OutcomeKind.NOT_ATTEMPTED: 5}, stop=Stop("limit", ""), work_left=True),
            Verdict(0),
        ),
        (
            exit_code({}, stop=Stop("signal", "", count=15), work_left=True),
            Verdict(143, ("signal 15",)),
        ),
        (
            exit_code(
                {OutcomeKind.REJECTED: 20},
                stop=Stop("forbidden", "", 20, 20),
                work_left=True,
                record_durable=False,
            ),
            Verdict(
                6,
                (
                    "the record could not be made durable",
                    "stopped for safety: forbidden",
                    "rejected: 20",
                ),
            ),
        ),
    ],
)
def test_reasons_name_all_that_held_and_the_deciding_one_first(
    found: Verdict, expected: Verdict
) -> None:
    """A person sees every reason, not only the one that won."""
    assert found == expected
