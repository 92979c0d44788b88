"""Pages of a search, as both searches cut them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from worker.simulator.answers import CallRefusedError

T = TypeVar("T")


def cut_page(
    found: Sequence[T], asked: Any, *, usual: int, most: int
) -> tuple[Sequence[T], dict[str, int]]:
    """One page and its `pagination`; CallRefusedError (99400) when it is ill asked."""
    asked = {} if asked is None else asked
    page = asked.get("pageNo", 1) if isinstance(asked, dict) else None
    size = asked.get("pageSize", usual) if isinstance(asked, dict) else None
    if type(page) is not int or type(size) is not int or page < 1 or not 1 <= size <= most:
        raise CallRefusedError(99400, "invalid argument", f"pageNo from 1, pageSize 1 to {most}")
    first = (page - 1) * size
    return found[first : first + size], {
        "pageNo": page,
        "pageSize": size,
        "totalSize": len(found),
    }
