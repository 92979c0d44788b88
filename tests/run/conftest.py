"""Every async test of this room runs on virtual time: its waits cost nothing."""

from __future__ import annotations

import pytest

from tests.run import one_target
from tests.simulation.clock import VirtualClock
from tests.simulation.loop import VirtualLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, type[VirtualLoop]]]:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture(params=["awaited", "launched"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a target comes to, it comes to however its first call is sent."""
    monkeypatch.setattr(one_target, "way", request.param)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()
