"""What a person reads when a run has ended."""

from __future__ import annotations

import msgspec
import pytest

from worker.model import OutcomeKind, Rehearsal, RunEnd, RunRecord, RunState, Stop, Verified
from worker.report.summary import document
from worker.report.text import text

RUN = "20261122T020500Z-k3f9ab"
COUNTS = {OutcomeKind.CANCELLED: 1, OutcomeKind.UNKNOWN: 1, OutcomeKind.NOT_ATTEMPTED: 1}


def test_a_stopped_run_in_full(record: RunRecord) -> None:
    """Verdict first, then the counts that are not zero, then what to type."""
    assert text(document(record, COUNTS, 1)) == (
        "STOPPED FOR SAFETY: forbidden: orgId o1 is refused (requestId req-1, req-2)\n"
        "run       20261122T020500Z-k3f9ab of job nightly-cleanup by ann@host\n"
        "where     orgId o1 at production https://apim.example.com\n"
        "reason    CHG-1042: firmware window\n"
        "targets   3\n"
        "  1  cancelled\n"
        "  1  unknown               may have been executed\n"
        "  1  not_attempted         not sent; nothing executed\n"
        "commands  1 cancelled\n"
        "requests  4 cancel (1 repeated), 2 search\n"
        "time      12.5 s, 0.2 targets/s\n"
        "verified  2 targets searched again: 0 older commands still cached, 1 newer\n"
        "log       7 lines lost; the ledger has all\n"
        f"report    old.csv  sha256 {'a' * 64}\n"
        "next      cancel-worker resume 20261122T020500Z-k3f9ab\n"
        "exit code 5: stopped for safety: forbidden; unknown: 1\n"
    )


def test_every_line_of_a_rehearsal_says_so(record: RunRecord) -> None:
    """Nobody takes a rehearsal for a run; nothing is offered to be typed."""
    told = msgspec.structs.replace(
        record, rehearsal=Rehearsal("flaky", 7, truth_matches=False, differences=("d1: lost 5",))
    )
    lines = text(document(told, COUNTS, 1)).splitlines()
    assert {line[:10] for line in lines} == {"REHEARSAL "}
    assert [line[10:] for line in lines if "rehearsal" in line or "d1" in line] == [
        (
            "rehearsal profile flaky, seed 7: nothing real was touched; "
            "the report DIFFERS with the simulator"
        ),
        "          d1: lost 5",
    ]
    assert not any("next " in line for line in lines)


@pytest.mark.parametrize(
    ("end", "verdict"),
    [
        (RunEnd(1, 0), "DONE"),
        (RunEnd(1, 7, ("searching is denied",)), "REFUSED: nothing was cancelled"),
        (RunEnd(1, 0, stop=Stop("limit", "10 targets")), "DONE: limit: 10 targets"),
        (RunEnd(1, 3, ("failed: 1",)), "DONE, BUT NOT ALL WELL: failed: 1"),
        (RunEnd(1, 4, ("unknown: 1",)), "DONE, BUT UNCERTAIN: unknown: 1"),
        (RunEnd(1, 8, stop=Stop("deadline", "45 min")), "OUT OF TIME: deadline: 45 min"),
        (RunEnd(1, 143, stop=Stop("signal", "SIGTERM", 15)), "STOPPED BY SIGTERM"),
        (RunEnd(1, 1, ("internal errors: 2",)), "INTERNAL ERROR: internal errors: 2"),
        (RunEnd(1, 6), "THE RECORD IS INCOMPLETE: it could not be made durable"),
        (None, "INTERRUPTED: the run ended without a word; what it may have touched is unknown"),
    ],
)
def test_the_first_line_is_the_verdict(record: RunRecord, end: RunEnd | None, verdict: str) -> None:
    """In words, for every way a run can end."""
    summary = document(msgspec.structs.replace(record, end=end), {}, 0)
    assert text(summary).splitlines()[0] == verdict


def test_what_was_not_verified_says_so_and_retries_are_offered(record: RunRecord) -> None:
    """Each kind of leftover comes with its command."""
    end = RunEnd(10**13, 3, ("failed: 1",), unverified="the job has verify: none")
    counts = {OutcomeKind.FAILED: 1, OutcomeKind.NOT_FOUND: 1, OutcomeKind.ANOMALOUS: 1}
    summary = document(msgspec.structs.replace(record, end=end), counts, 0)
    lines = text(summary, notes=("also touched by run x",), unverified=end.unverified).splitlines()
    assert "verified  not verified: the job has verify: none" in lines
    assert lines[-4:] == [
        "also touched by run x",
        f"next      cancel-worker resume {RUN} --retry failed,not_found  (once the cause is gone)",
        f"next      cancel-worker report {RUN} --format ndjson  (see what the gateway answered)",
        "exit code 3: failed: 1",
    ]


@pytest.mark.parametrize(
    ("verified", "state", "why", "line"),
    [
        (
            Verified(7, 2, 1, 3),
            "finished",
            "searches failed (HTTP 503)",
            (
                "7 targets searched again: 2 older commands still cached, 1 newer; 3 not "
                "searched: searches failed (HTTP 503)"
            ),
        ),
        (
            Verified(0, 0, 0, 3),
            "finished",
            "searches were refused (HTTP 403)",
            "not verified: searches were refused (HTTP 403)",
        ),
        (Verified(0, 0, 0), "finished", None, "there was no target to search again"),
        (None, "finished", None, "not verified: the version that ran it kept no reason"),
        (None, "stopped", None, "not verified: the version that ran it kept no reason"),
        (None, "interrupted", None, "not verified: the run was interrupted"),
        (None, "running", None, "not verified: the run has not ended"),
    ],
)
def test_not_verified_never_stands_without_its_reason(
    record: RunRecord, verified: Verified | None, state: RunState, why: str | None, line: str
) -> None:
    """And what is known is told, with the way to know the rest."""
    end = RunEnd(10**13, 0, verified=verified)
    summary = document(msgspec.structs.replace(record, end=end), {}, 0)
    lines = text(summary, state=state, unverified=why).splitlines()
    assert [told for told in lines if told.startswith("verified")] == [f"verified  {line}"]
    more = bool(verified and verified.unsearched)
    assert (f"next      cancel-worker verify {RUN}" in lines) == more


def test_commands_still_cached_offer_to_verify_again(record: RunRecord) -> None:
    """What verify found is followed up by verify."""
    end = RunEnd(10**13, 4, ("still cached: 2",), verified=Verified(3, 2, 0))
    lines = text(document(msgspec.structs.replace(record, end=end), {}, 0)).splitlines()
    assert "next      cancel-worker verify 20261122T020500Z-k3f9ab" in lines
