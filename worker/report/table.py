"""CSV: UTF-8, LF, RFC 4180 quoting, a header always.

Apart because a spreadsheet is the one reader that changes what it reads. Identities of the job are
written exactly, so a deviceKey such as `=1+1` or `012345` stays what it is: import the columns as
text, or a spreadsheet will calculate the one and shorten the other. A cell that the gateway wrote
never begins a formula: a `'` goes before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from worker.model import ReportRow
from worker.report.rows import Out
from worker.text import escaped

TOLD = ("told_productKey", "told_deviceKey", "told_assetId")  # no inventory reads these
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
    *TOLD,
)
# Python's csv module leaves a lone CR unquoted before 3.13, and readers then see a new line.
_NEEDS_QUOTES = re.compile('[",\r\n]').search
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet calculates


def write_csv(rows: Iterable[ReportRow], out: Out, *, to_terminal: bool = False) -> int:
    """A line a target, commandIds joined by one space, null empty; returns how many.

    On a terminal every character that is not printable is written as its escape.
    """
    cell = _cell_on_terminal if to_terminal else _cell
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
            _told(" ".join(row.commandIds)),
            row.attempts,
            row.evidence,
            row.http_status,
            row.code,
            _told(row.message),
            _told(row.requestId),
            row.duration_ms,
            row.source,
            _told(row.told.productKey),
            _told(row.told.deviceKey),
            _told(row.told.assetId),
        )
        line = ",".join(map(cell, cells)) + "\n"
        out.write(line.encode("utf-8", "backslashreplace"))
        count += 1
    return count


def _told(text: str | None) -> str | None:
    """A text that the gateway wrote, so that no spreadsheet calculates it."""
    return "'" + text if text is not None and text.startswith(_FORMULA) else text


def _cell_on_terminal(value: str | int | None) -> str:
    return _cell(escaped(value) if isinstance(value, str) else value)


def _cell(value: str | int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    return '"' + value.replace('"', '""') + '"' if _NEEDS_QUOTES(value) else value
