"""CSV: UTF-8, LF, RFC 4180 quoting, a header always.

Apart because a spreadsheet is the one reader that changes what it reads. Cells are written
exactly, so a deviceKey such as `=1+1` or `012345` stays what it is: import the columns as
text, or a spreadsheet will calculate the one and shorten the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from worker.model import ReportRow
from worker.report.rows import Out

COLUMNS = (
    "orgId",
    "productKey",
    "deviceKey",
    "assetId",
    "outcome",
    "cause",
    "commandIds",
    "attempts",
    "evidence",
    "http_status",
    "code",
    "message",
    "requestId",
    "duration_ms",
    "source",
)
# Python's csv module leaves a lone CR unquoted before 3.13, and readers then see a new line.
_NEEDS_QUOTES = re.compile('[",\r\n]').search


def write_csv(rows: Iterable[ReportRow], out: Out) -> int:
    """A line a target, commandIds joined by one space, null empty; returns how many."""
    out.write((",".join(COLUMNS) + "\n").encode())
    count = 0
    for row in rows:
        cells = (
            row.orgId,
            row.productKey,
            row.deviceKey,
            row.assetId,
            row.outcome.value,
            row.cause,
            " ".join(row.commandIds),
            row.attempts,
            row.evidence,
            row.http_status,
            row.code,
            row.message,
            row.requestId,
            row.duration_ms,
            row.source,
        )
        line = ",".join(map(_cell, cells)) + "\n"
        out.write(line.encode("utf-8", "backslashreplace"))
        count += 1
    return count


def _cell(value: str | int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    return '"' + value.replace('"', '""') + '"' if _NEEDS_QUOTES(value) else value
