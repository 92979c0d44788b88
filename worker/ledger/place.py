"""Whether the path of a ledger still leads to the file that this process has open.

A file that was removed, moved or replaced takes every write and is gone with its last process.
SQLite's side files belong to it: without its `-wal` a ledger lacks its last commits, and without
its `-shm` two processes would not see each other's locks. All three keep their inodes for as long
as a connection is open, so that one `stat` each is enough.
"""

from __future__ import annotations

import os
from pathlib import Path

_FILES = ("", "-wal", "-shm")
Identity = tuple[int, int]  # device and inode


class Place:
    """A ledger's path and which files were there when it was opened."""

    def __init__(self, path: Path, opened: Identity | None) -> None:
        """opened: of the ledger itself; its side files are there by now."""
        self._path = path
        self._opened = {suffix: identity_of(path, suffix) for suffix in _FILES}
        self._opened[""] = opened
        self._lost: str | None = None

    def lost(self) -> str | None:
        """What happened to the file, for people; None while it is where it was opened.

        A file that comes back stays lost: another process may have used the path meanwhile.
        """
        if self._lost is None:
            self._lost = next(filter(None, map(self._problem, _FILES)), None)
        return self._lost

    def _problem(self, suffix: str) -> str | None:
        now = identity_of(self._path, suffix)
        if now is not None and now == self._opened[suffix]:
            return None
        what = f"its file {self._path}{suffix}" if suffix else "its file"
        became = "removed or moved away" if now is None else "replaced by another one"
        return f"ledger {self._path}: {what} was {became} while it was in use"


def identity_of(path: Path, suffix: str = "") -> Identity | None:
    """Which file is there now, found as SQLite finds it; None where there is none to be reached."""
    try:
        # Side files lie beside the real file, wherever links lead.
        there = Path(os.path.realpath(path) + suffix) if suffix else path
        status = there.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
