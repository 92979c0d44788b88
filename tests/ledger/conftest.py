"""A ledger in a file for each test; async tests of this room run on virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.clock import VirtualClock
from tests.simulation.loop import VirtualLoop
from worker.ledger.store import Store


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, type[VirtualLoop]]]:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url)
    yield opened
    opened.close()


@pytest.fixture
def temporary() -> Iterator[Store]:
    opened = Store.open("sqlite://")
    yield opened
    opened.close()
