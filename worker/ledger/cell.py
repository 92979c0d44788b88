"""Values of a reply as a column can hold them.

A gateway may say anything; a number of thirty digits or half a surrogate pair must not end a
run in the moment its result is recorded.
"""

from __future__ import annotations

from typing import overload

_INT64 = 1 << 63


def as_int64(value: int | None) -> int | None:
    """The number; None for one that no column holds."""
    return value if value is None or -_INT64 <= value < _INT64 else None


@overload
def as_text(value: str) -> str: ...
@overload
def as_text(value: None) -> None: ...
@overload
def as_text(value: str | None) -> str | None: ...
def as_text(value: str | None) -> str | None:
    """The text; what no column holds is written as an escape."""
    if value is None or (value.isascii() and "\0" not in value):
        return value
    return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
