"""Each planted bug is caught: within 2,000 worlds, or by the tests that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.planted import BUGS, ROOT, Bug, catch


@pytest.mark.timeout(400)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_caught(bug: Bug, tmp_path: Path) -> None:
    """The worker with this bug violates an invariant in one of 2,000 worlds, or fails its test."""
    caught = catch(bug, tmp_path)
    assert caught.worlds is not None, caught.said


def test_there_are_enough_of_them() -> None:
    """At least twelve kinds of bug, each with a name of its own."""
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 12


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_has_its_place(bug: Bug) -> None:
    """The list follows the code: said in a second, not after a campaign."""
    assert (ROOT / "worker" / bug.file).read_text().count(bug.old) == 1
