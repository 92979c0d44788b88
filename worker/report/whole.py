"""The `json` report: the `-o json` document with a row for every target.

Apart from the document because it streams: the rows of a million targets pass one by one
between the head and the closing brace.
"""

from __future__ import annotations

from collections.abc import Iterable

from worker.model import ReportRow
from worker.report.rows import Out, row_line, safely
from worker.report.summary import Summary


def write_json(summary: Summary, rows: Iterable[ReportRow], out: Out) -> int:
    """One JSON object, a row a line; returns how many rows."""
    out.write(safely(summary)[:-1] + b',"rows":[')
    count = 0
    for row in rows:
        out.write((b",\n" if count else b"\n") + safely(row_line(row)))
        count += 1
    out.write(b"\n]}\n")
    return count
