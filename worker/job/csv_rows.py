"""CSV by RFC 4180, split with places: a finding names the line and the column of its cell.

Own code instead of the csv module, which takes a quote in the middle of a cell as it comes and
cannot say where a cell stood. Without a quote in the line it is one `split`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

from worker.job.findings import known_or, nearest, shown
from worker.job.inventory_row import COLUMNS, MAX_LINE, Inventory, text_lines
from worker.job.source import UnreadableError

MAX_COLUMNS = 1000
_CELL = re.compile(r'"([^"]*+(?:""[^"]*+)*+)"|([^",\r\n]*)')
_UNQUOTED = (
    "a quote or carriage return inside a cell",
    'quote the whole cell and double each " in it, end lines with LF or CR LF',
)
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class CellError(Exception):
    """Quoting that RFC 4180 does not know, at an offset of the record."""

    def __init__(self, offset: int, *, unclosed: bool) -> None:
        super().__init__(offset)
        self.offset = offset
        self.unclosed = unclosed  # the cell began with a quote that has no end here


def read_csv(stream: IO[bytes], inventory: Inventory) -> None:
    """Read the header, then give each row to the inventory; blank lines are skipped."""
    records = _records(text_lines(stream))
    header = next((record for record in records if record[1]), None)
    if header is None:
        raise UnreadableError(1, 1, "the file is empty", "write a header and rows")
    columns = _header(*header)
    width = len(columns)
    where = [columns.index(name) if name in columns else width for name in COLUMNS]
    product, device, asset, org, commands = where
    for line, record in records:
        if not record:
            continue
        try:
            cells = split(record) if '"' in record or "\r" in record else record.split(",")
        except CellError as error:
            inventory.findings.add(*_place(line, record, error.offset), *_UNQUOTED)
            continue
        if len(cells) != width:
            problem = f"{len(cells)} cells where the header has {width}"
            inventory.findings.add(line, 1, problem, "fill the row; quote a cell with a comma")
            continue
        cells.append("")
        flaws = inventory.take(
            line,
            cells[product] or None,
            cells[device] or None,
            cells[asset] or None,
            cells[org] if org < width else None,
            _ids(cells[commands]) if cells[commands] else None,
        )
        for name, problem, remedy in flaws:
            offset = _offset(record, columns.index(name)) if name in columns else 0
            inventory.findings.add(*_place(line, record, offset), problem, remedy)


def split(record: str) -> list[str]:
    """The cells of one record; CellError where its quoting is broken."""
    return [text for _, text in _cells(record)]


def _ids(cell: str) -> list[str]:
    return [text for text in cell.replace(";", " ").split(" ") if text]


def _cells(record: str) -> Iterator[tuple[int, str]]:
    start = 0
    while True:
        match = _CELL.match(record, start)
        assert match  # noqa: S101  # the pattern matches the empty cell
        end = match.end()
        if end < len(record) and record[end] != ",":
            raise CellError(end, unclosed=end == start)
        yield start, match[2] if match[1] is None else match[1].replace('""', '"')
        if end == len(record):
            return
        start = end + 1


def _records(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Lines joined until their quotes are even; each with the number of its first line."""
    for number, text in lines:
        if text.count('"') % 2 == 0 or not _is_open(text):
            yield number, text
            continue
        parts, size = [text], len(text)
        for _, more in lines:
            parts.append(more)
            size += len(more) + 1
            if more.count('"') % 2 or size > MAX_LINE:
                break
        else:
            size = MAX_LINE + 1
        if size > MAX_LINE:
            raise UnreadableError(number, 1, "a quoted cell that is never closed", "close it")
        yield number, "\n".join(parts)


def _is_open(line: str) -> bool:
    """Whether a quoted cell goes on in the next line."""
    try:
        split(line)
    except CellError as error:
        return error.unclosed and line[error.offset] == '"'
    return False  # pragma: no cover  # odd quotes never make a record


def _header(line: int, record: str) -> list[str]:
    """The column names; UnreadableError when the rows could not be understood by them."""
    try:
        columns = split(record)
    except CellError as error:
        raise UnreadableError(*_place(line, record, error.offset), *_UNQUOTED) from None
    if len(columns) > MAX_COLUMNS:
        raise UnreadableError(
            line, 1, f"more than {MAX_COLUMNS} columns", "leave out what is not needed"
        )
    known = [name for name in columns if name in COLUMNS]
    for index, name in enumerate(columns):
        place = _place(line, record, _offset(record, index))
        if name and name in columns[:index]:
            raise UnreadableError(*place, f"column {shown(name)} is written twice", "remove one")
        if name not in COLUMNS and nearest(name, COLUMNS):
            raise UnreadableError(*place, f"unknown column {shown(name)}", known_or(name, COLUMNS))
    if not known:
        _check_separator(line, record)
    if "assetId" not in known and not {"productKey", "deviceKey"} <= set(known):
        problem = "no header with assetId, or with productKey and deviceKey"
        raise UnreadableError(line, 1, problem, "name the columns in the first line")
    return columns


def _check_separator(line: int, record: str) -> None:
    for separator, name in _SEPARATORS.items():
        if any(part.strip('"') in COLUMNS for part in record.split(separator)):
            raise UnreadableError(line, 1, f"separated by {name}", "save it with commas")


def _offset(record: str, index: int) -> int:
    return [start for start, _ in _cells(record)][index]


def _place(line: int, record: str, offset: int) -> tuple[int, int]:
    return line + record.count("\n", 0, offset), offset - record.rfind("\n", 0, offset)
