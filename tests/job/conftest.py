"""The desk: one-line ways to check a job that a test spells out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.job.desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A folder of its own with a sheet in memory."""
    return Desk(tmp_path)
