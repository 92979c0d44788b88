"""The job that `remaining` writes is a job: the strict loader reads it, and finds the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from worker.job.plan import Repeat, Row, read_job
from worker.model import AllCached, Listed, OutcomeKind, ReportRow, RunRecord, Scope
from worker.report.files import Content, Written, open_reports, parse_report, write_reports
from worker.report.remaining import Leftovers
from worker.report.summary import document
from worker.writing import Guarded

LIMITS: dict[str, int | float | str] = {
    "max_devices": 200,
    "concurrency": 4,
    "rate": "50/s",
    "deadline": "45m",
}


class Rows:
    """A sheet that keeps its rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, rows: Sequence[Row]) -> None:
        self.rows.extend(rows)

    def repeats(self, limit: int) -> list[Repeat]:
        return []


@pytest.mark.parametrize(
    ("scope", "word"), [(AllCached(), "all_cached"), (Listed(("1", "2")), "listed")]
)
@pytest.mark.parametrize("abort", [None, "off", {"failed": "5%", "consecutive": 20}])
def test_the_loader_reads_back_exactly_the_devices(
    tmp_path: Path,
    record: RunRecord,
    rows: list[ReportRow],
    scope: Scope,
    word: str,
    abort: dict[str, int | float | str] | str | None,
) -> None:
    """Keys that look like numbers, formulas, YAML and Chinese; organization and scope kept."""
    keys = ["012345", "=1+1", "no", "a b", "设备1", "x&deviceKey=other", '"q"', "- a: b #c"]
    left = [
        msgspec.structs.replace(rows[2], deviceKey=key, outcome=OutcomeKind.UNKNOWN, scope=scope)
        for key in keys
    ]
    record = msgspec.structs.replace(record, scope=word, reason='"quoted"\tand: #odd')
    content = Content(
        record,
        document(record, {}, 0),
        lambda: left,
        0,
        Leftovers(LIMITS, verify="all", abort=abort),
    )
    spec = parse_report(f"remaining={tmp_path}/left.yaml")
    files = open_reports(
        [spec], job=record.job, run_id=record.run_id, started_ms=0, guarded=Guarded()
    )
    assert {type(result) for result in write_reports(files, content)} == {Written}
    sheet = Rows()
    job = read_job(tmp_path / "left.yaml", sheet)
    ids = "1 2" if word == "listed" else None
    assert (job.name, job.orgId, job.scope, job.verify) == (
        "nightly-cleanup-remaining",
        "o1",
        word,
        "all",
    )
    assert [(row.productKey, row.deviceKey, row.assetId, row.commandIds) for row in sheet.rows] == [
        ("012345", key, None, ids) for key in keys
    ]
