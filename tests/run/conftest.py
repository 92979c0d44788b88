"""Every async test of this room runs on virtual time: its waits cost nothing."""

from __future__ import annotations

import pytest

from tests.simulation.clock import VirtualClock
from tests.simulation.loop import VirtualLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, type[VirtualLoop]]]:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()
