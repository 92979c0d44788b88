"""A readable sheet, and one-line ways to check a job that a test spells out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from worker.errors import InvalidInputError
from worker.job.plan import Repeat, Row, read_job
from worker.job.schema import Job


class ListSheet:
    """A sheet in memory: all rows, in the order they came."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.chunks: list[int] = []

    def add(self, rows: Sequence[Row]) -> None:
        self.rows.extend(rows)
        self.chunks.append(len(rows))

    def repeats(self, limit: int) -> list[Repeat]:
        places: dict[tuple[object, ...], list[Row]] = {}
        for row in self.rows:
            key = (row.source, row.productKey, row.deviceKey, row.assetId)
            places.setdefault(key, []).append(row)
        found = [
            Repeat(same[0], again)
            for same in places.values()
            for again in same[1:]
            if same[0].source == 0 or any(row.commandIds is None for row in same)
        ]
        found.sort(key=lambda repeat: repeat.again[:3])
        return found[:limit]


class Desk:
    """Writes a job and its inventories into a folder and reads them there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sheet = ListSheet()

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def read(self, job: str | bytes, **inventories: str | bytes) -> Job:
        """Read the job; `fleet_csv=…` stands beside it as fleet.csv."""
        for name, content in inventories.items():
            self.write(name.replace("_", "."), content)
        self.sheet = ListSheet()
        return read_job(self.write("job.yaml", job), self.sheet)

    def refused(self, job: str | bytes, **inventories: str | bytes) -> str:
        """What the job is refused with, paths shortened to names."""
        with pytest.raises(InvalidInputError) as caught:
            self.read(job, **inventories)
        return str(caught.value).replace(f"{self.folder}/", "")

    def devices(self) -> list[tuple[str | None, str | None, str | None, str | None]]:
        """The rows without their places."""
        return [row[3:] for row in self.sheet.rows]
