"""A run that needs searches learns before its first cancel whether it may search."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.stage import devices, stage
from worker.simulator.faults import Faults, Profile

_NO_SEARCH = Profile("no-search", search=Faults(error_before=1.0, errors=("403",)))


@pytest.mark.parametrize(
    ("keys", "environment"),
    [({"verify": "touched"}, {}), ({}, {"CANCEL_WORKER_GATEWAY_CANCEL_ALL": "by_id"})],
    ids=["verify written", "by_id"],
)
def test_search_denied_refuses_before_the_first_cancel(
    tmp_path: Path, keys: dict[str, str], environment: dict[str, str]
) -> None:
    """Exit 7 after one search; a resume of it asks for a target that is left to do."""
    with stage(tmp_path, _NO_SEARCH, busy=0.5) as gateway:
        job = gateway.job("denied", devices(5), **keys)
        done = gateway.command("run", job, "--yes", **environment)
        assert done.returncode == 7, done.stderr
        assert "nothing was cancelled" in done.stderr
        seen = gateway.world.truth().requests
        assert (seen.get("cancel", 0), seen["search"]) == (0, 1)
