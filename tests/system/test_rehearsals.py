"""Rehearsals stop only where their profile explains it, and agree with the simulator's truth.

`make full` runs whole fleets by `python -m tests.system.rehearsals`; here are enough to see that
the harness works, and that it would see a false stop.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.system.rehearsals import rehearse_all, unexplained


@pytest.mark.timeout(300)
def test_no_stop_that_the_profile_does_not_explain() -> None:
    """Rows 19 and 101 among others: tokens die often in `flaky` and age fast in `expiring`."""
    told = rehearse_all(["flaky", "expiring", "down"], [1, 2], devices=300)
    assert [each.wrong for each in told] == [None] * 6
    assert {each.rule for each in told if each.profile == "down"} == {"abort_consecutive"}


def _document(**changed: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "rehearsal": {"differences": []},
        "stop": None,
        "outcomes": {"cancelled": 1, "nothing_cached": 3},
        "verified": {"targets": 1, "still_cached": 0, "newer": 0, "unsearched": 0},
        "exit_reasons": [],
    }
    return whole | changed


@pytest.mark.parametrize(
    ("profile", "code", "document"),
    [
        ("flaky", 5, _document(stop={"rule": "auth"})),
        ("down", 5, _document(stop={"rule": "auth"})),
        ("down", 0, _document()),
        ("calm", 1, _document()),
        ("calm", 1, _document(rehearsal={"differences": ["target 3"]})),
        ("down", 1, _document(stop={"rule": "abort_consecutive"})),
        ("calm", 0, _document(verified=None)),
        ("calm", 0, _document(outcomes={"cancelled": 2})),
        ("calm", 0, _document(outcomes={"cancelled": 1, "unknown": 1})),
        (
            "calm",
            0,
            _document(verified={"targets": 1, "still_cached": 0, "newer": 0, "unsearched": 1}),
        ),
    ],
)
def test_what_is_wrong_is_seen(profile: str, code: int, document: dict[str, Any]) -> None:
    """The harness itself: a false stop, none where one must be, a difference, a code, a gap."""
    assert unexplained(profile, code, document) is not None


def test_what_is_explained_is_not_wrong() -> None:
    """A gateway that is down stops a run; what is not settled well is named by the exit code."""
    stopped = _document(stop={"rule": "abort_failed"}, verified=None)
    assert unexplained("down", 5, stopped) is None
    assert [unexplained("flaky", code, _document()) for code in (0, 3, 4)] == [None] * 3
