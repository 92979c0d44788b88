"""Each planted bug is caught: within 2,000 worlds, or by the tests that it names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import pytest

from tests.simulation.planted import BUGS, ROOT, Bug, Caught, catch

Hunts = dict[str, "Future[Caught]"]


@pytest.fixture(scope="module")
def hunts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hunts]:
    """The hunt for each bug that was selected, as many at once as there are cores."""
    bugs: list[Bug] = [
        cast("Bug", item.callspec.params["bug"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and "hunts" in item.fixturenames
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {bug.name: pool.submit(_catch, bug, tmp_path_factory) for bug in bugs}
        pool.shutdown(cancel_futures=True)


def _catch(bug: Bug, folders: pytest.TempPathFactory) -> Caught:
    return catch(bug, folders.mktemp("planted"))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_caught(bug: Bug, hunts: Hunts) -> None:
    """The worker with this bug violates an invariant in one of 2,000 worlds, or fails its test."""
    caught = hunts[bug.name].result()
    assert caught.worlds is not None, caught.said


def test_there_are_enough_of_them() -> None:
    """At least twelve kinds of bug, each with a name of its own."""
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 12


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_has_its_place(bug: Bug) -> None:
    """The list follows the code: said in a second, not after a campaign."""
    assert (ROOT / "worker" / bug.file).read_text().count(bug.old) == 1
