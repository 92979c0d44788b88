"""Whether a file is ours to write: the one home of that question.

A report replaces a file and a log appends to one. Neither may harm the ledger, an input of the
command, or a file that something else has written. Files are compared by device and inode and by
resolved path, so that links, hard links and `./x/../x` are seen.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

_HEAD = 65_536  # bytes of a file that are looked at


class Form(Struct, frozen=True):
    """What a file of ours is called, and how it begins."""

    name: str
    begins: re.Pattern[bytes]


class _File(Struct, frozen=True):
    path: str | int  # a number is a descriptor of ours
    what: str
    side: re.Pattern[str] | None  # what follows its name in the names of its side files


class Guarded:
    """The files that a command reads, keeps or writes, each with what it is."""

    def __init__(self, files: Iterable[_File] = ()) -> None:
        self._files = list(files)

    def copy(self) -> Guarded:
        """As it is now; what either takes from here on is its own."""
        return Guarded(self._files)

    def add(self, path: str | int, what: str, side: re.Pattern[str] | None = None) -> None:
        """Guard a file, and the files beside it whose names are its own and then `side`."""
        self._files.append(_File(path, what, side))

    def find(self, path: str) -> str | None:
        """What the file under this path is, of those that are guarded; None: none of them."""
        status = _status(path)
        real = os.path.realpath(path)
        return next((file.what for file in self._files if _is(file, real, status)), None)


def is_descriptor(path: str, descriptor: int) -> bool:
    """Whether the path leads to the very file behind this descriptor."""
    one, other = _status(path), _status(descriptor)
    return one is not None and other is not None and os.path.samestat(one, other)


def flaw(path: str, form: Form, guarded: Guarded) -> str | None:
    """Why a regular file may not be written here, such as `is the ledger`; None: it may.

    There is none, or it is empty, or begins as what is written. Raises OSError, ValueError.
    """
    what = guarded.find(path)
    if what is not None:
        return f"is {what}"
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if not status.st_size:
        return None
    with Path(path).open("rb") as file:
        if form.begins.match(file.read(_HEAD)):
            return None
    return f"holds something else than {form.name}"


def _is(file: _File, real: str, status: os.stat_result | None) -> bool:
    if isinstance(file.path, int):
        ours = _status(file.path)
        return _are_same(ours, status) and ours is not None and stat.S_ISREG(ours.st_mode)
    kept = os.path.realpath(file.path)
    if real == kept or _are_same(_status(file.path), status):
        return True
    if file.side is None:
        return False
    return real.startswith(kept) and file.side.fullmatch(real[len(kept) :]) is not None


def _are_same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    return one is not None and other is not None and os.path.samestat(one, other)


def _status(path: str | int) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - of a descriptor too
    except (OSError, ValueError):
        return None
