"""What a crash leaves behind is left unclosed, as a killed process leaves it."""

from __future__ import annotations

from pathlib import Path

import pytest

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The dead do not close their connections: no warning of theirs is a failure."""
    for item in items:
        if _HERE in item.path.parents:
            for kind in ("ResourceWarning", "RuntimeWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{kind}"))
            ignored = "ignore::pytest.PytestUnraisableExceptionWarning"
            item.add_marker(pytest.mark.filterwarnings(ignored))
