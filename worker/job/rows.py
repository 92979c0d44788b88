"""Rows on their way to the plan: one device each, with the place that named it.

Stands apart so that readers of YAML, CSV and NDJSON share one collector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from worker.job.findings import LIMIT, Findings

CHUNK = 10_000


class Row(NamedTuple):
    """A device as one place of one source names it."""

    source: int  # 0 the job file, then each inventory
    line: int
    column: int
    productKey: str | None
    deviceKey: str | None
    assetId: str | None
    commandIds: str | None  # joined by one space


class Repeat(NamedTuple):
    """The same spelling twice in one source."""

    first: Row
    again: Row


class Sheet(Protocol):
    """Where rows are laid out before a plan is frozen."""

    def add(self, rows: Sequence[Row]) -> None:
        """Take the next rows, at most 10,000."""

    def repeats(self, limit: int) -> list[Repeat]:
        """Devices that a source names twice, in the order of the second place.

        Rows of an inventory (not of the job file) that all carry commandIds are no repeats.
        """


class Collector:
    """Hands rows to the sheet in chunks, and remembers which carry commandIds."""

    def __init__(self, sheet: Sheet) -> None:
        self._sheet = sheet
        self._chunk: list[Row] = []
        self._seen = {True: Places(), False: Places()}  # with commandIds, without
        self.rows = 0

    def add(self, row: Row) -> None:
        """Take a row that is well formed."""
        self.rows += 1
        places = self._seen[row.commandIds is not None]
        places.count += 1
        if places.count <= LIMIT:
            places.first.append((row.source, row.line, row.column))
        self._chunk.append(row)
        if len(self._chunk) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Hand over what is left."""
        if self._chunk:
            self._sheet.add(self._chunk)
            self._chunk = []

    def check_scope(self, scope: str, files: Sequence[Findings]) -> None:
        """Find rows whose commandIds do not fit the scope."""
        listed = scope == "listed"
        problem, remedy = _MISSING if listed else _UNWANTED
        wrong = self._seen[not listed]
        for source, line, column in wrong.first:
            files[source].add(line, column, problem, remedy)
        files[-1].count += wrong.count - len(wrong.first)


class Places:
    """Where rows of one sort stand: the first few, and how many."""

    def __init__(self) -> None:
        self.first: list[tuple[int, int, int]] = []
        self.count = 0


_MISSING = (
    "no commandIds, but scope is listed",
    "give each device commandIds, or write scope: all_cached",
)
_UNWANTED = ("commandIds, but scope is all_cached", "remove them, or write scope: listed")
