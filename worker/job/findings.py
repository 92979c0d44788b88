"""What is wrong in one file, gathered: the first twenty by position, the rest counted.

Stands apart because YAML, CSV and NDJSON all report here, and because what a person reads must
be the same whatever order the checks ran in.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from worker.errors import Finding, InvalidInputError
from worker.text import escaped

LIMIT = 20  # findings that are shown
ENOUGH = 10_000  # findings of one file after which it is not read on
_SHOWN = 64  # characters of a foreign text that are shown
_NEAR = 2  # edits


class EnoughError(Exception):
    """So much is wrong that reading on helps nobody."""


class Findings:
    """The findings (or the warnings) of one file, of which the first few are kept."""

    def __init__(self, file: str, *, endless: bool = False) -> None:
        self.file = file
        self.count = 0
        self._endless = endless  # warnings: they never end the reading
        self._kept: list[Finding] = []

    def add(self, line: int, column: int, problem: str, remedy: str = "") -> None:
        """Note one at this place (both from 1); EnoughError after 10,000."""
        if self.count >= ENOUGH and not self._endless:
            raise EnoughError
        self.count += 1
        self._kept.append(Finding(self.file, line, column, problem, remedy))
        if len(self._kept) >= 16 * LIMIT:
            self._kept = self.first()

    def first(self) -> list[Finding]:
        """The first ones by position."""
        return sorted(self._kept)[:LIMIT]


def raise_any(files: Sequence[Findings]) -> None:
    """Raise InvalidInputError when any of the files has findings, in the order of the files."""
    found = [finding for file in files for finding in file.first()][:LIMIT]
    if found:
        raise InvalidInputError(found, sum(file.count for file in files) - len(found))


def shown(text: str) -> str:
    """Foreign text as a message may hold it: one line, nothing invisible, at most 64 characters."""
    cut = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    safe = escaped(cut)
    return safe if safe and safe == safe.strip() else f'"{safe}"'


def known_or(name: str, known: Collection[str]) -> str:
    """The remedy for an unknown name: the nearest known one, else all of them."""
    near = nearest(name, known)
    return f"did you mean {near}?" if near else f"known here: {', '.join(known)}"


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name within two edits, whatever the case, `_`, `-` and spaces; else None."""
    folded = _fold(name)
    edits = {one: _edits(folded, _fold(one)) for one in known}
    return min((one for one in known if edits[one] <= _NEAR), key=edits.__getitem__, default=None)


def _fold(name: str) -> str:
    return "".join(c for c in name[:_SHOWN].casefold() if c not in "_- ")


def _edits(one: str, other: str) -> int:
    """Levenshtein distance, not counted out where the lengths tell that it is too far."""
    if abs(len(one) - len(other)) > _NEAR:
        return _NEAR + 1
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]
