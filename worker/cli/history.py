"""The commands runs and find: what a ledger knows of its runs, each on one line.

Their lines fit 80 columns: a run_id is cut to a beginning that is still its own, then a job's name
and what needs attention; `-o json` has all of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from worker.cli import desk
from worker.cli.desk import Common
from worker.clock import rfc3339
from worker.errors import UsageError
from worker.ledger.entry import Found
from worker.ledger.store import Store
from worker.model import OutcomeKind, RunRecord
from worker.text import escaped

SCHEMA_VERSION = 1
NOTHING_FOUND = 3  # exit code
_NAMES = ("commandId", "deviceKey", "assetId")
_ATTENTION = (
    OutcomeKind.ANOMALOUS,
    OutcomeKind.UNKNOWN,
    OutcomeKind.CANCELLED_INCOMPLETE,
    OutcomeKind.FAILED,
    OutcomeKind.REJECTED,
    OutcomeKind.NOT_FOUND,
    OutcomeKind.TOO_LATE,
)
_HEADS = ("run", "start", "job", "targets", "left", "state", "note")
_RUN, _JOB, _TARGETS, _LEFT, _LAST = 0, 2, 3, 4, 6  # columns
_LEAST = 10  # columns for a job's name


class _Listed(Struct, frozen=True):
    """One run and what became of its targets."""

    record: RunRecord
    outcomes: dict[OutcomeKind, int]

    @property
    def left(self) -> int:
        """Targets that were not attempted."""
        return self.outcomes[OutcomeKind.NOT_ATTEMPTED]


def runs(common: Common, *, job: str | None, limit: int, as_json: bool) -> None:
    """Runs of the ledger, the last to begin first."""
    with desk.reading(common) as (store, _):
        records = store.runs(job, limit + 1)
        listed = [_Listed(each, store.counts(each.run_id)) for each in records[:limit]]
        if as_json:
            desk.show_json([_document(each) for each in listed])
        elif not listed:
            desk.show(f"no runs{f' of job {job}' if job else ''} in ledger {store.name}")
        else:
            columns = shutil.get_terminal_size().columns
            desk.show(*_table([_cells(each) for each in listed], store, columns))
    if len(records) > limit:
        desk.say(f"there are earlier runs: --limit {2 * limit} lists more of them")


def _document(listed: _Listed) -> dict[str, Any]:
    record, end = listed.record, listed.record.end
    return {
        "run_id": record.run_id,
        "job": record.job,
        "state": record.state,
        "rehearsal": msgspec.to_builtins(record.rehearsal),
        "started_at": _moment(record.first_started_ms),
        "finished_at": None if end is None else rfc3339(end.finished_ms),
        "targets": record.targets,
        "left": listed.left,
        "outcomes": {kind.value: number for kind, number in listed.outcomes.items()},
        "exit_code": None if end is None else end.exit_code,
    }


def _moment(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)


def _cells(listed: _Listed) -> list[str]:
    record = listed.record
    numbers = (str(record.targets), str(listed.left))
    start = _local(record.first_started_ms)
    return [record.run_id, start, escaped(record.job), *numbers, record.state, _attention(listed)]


def _local(ms: int | None) -> str:
    """A moment in the time zone of this machine; the year stands in the run_id."""
    if ms is None:
        return "-"
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone().strftime("%b %d %H:%M")


def _attention(listed: _Listed) -> str:
    """Why a person may want to look at the run; that it was a rehearsal comes first."""
    record, end = listed.record, listed.record.end
    told = []
    if end is not None and end.stop is not None:
        told.append(end.stop.rule)
    if record.state != "running":  # what is in flight counts as unknown
        counts = [(listed.outcomes[kind], kind.value) for kind in _ATTENTION]
        told += [f"{number} {kind}" for number, kind in counts if number]
    if end is not None and end.verified is not None and end.verified.still_cached:
        told.append(f"{end.verified.still_cached} still cached")
    if end is not None and end.exit_code and not told:
        told.append(f"exit code {end.exit_code}")
    return ", ".join([*(["rehearsal"] if record.rehearsal else []), *told])


def _table(rows: Sequence[list[str]], store: Store, width: int) -> list[str]:
    """The lines of a table that is no wider than this, as far as its numbers allow."""
    lines = _lines(rows)
    if _widest(lines) > width:
        for row in rows:
            row[_RUN] = store.beginning_of(row[_RUN])
        lines = _lines(rows)
    if (over := _widest(lines) - width) > 0:
        jobs = max(len(row[_JOB]) for row in rows)
        room = max(_LEAST, jobs - over)
        for row in rows:
            row[_JOB] = _cut(row[_JOB], room)
        lines = [_cut(line, width) for line in _lines(rows)]
    return lines


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(_HEADS, *rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if at in (_TARGETS, _LEFT) else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (_HEADS, *rows)
    ]


def _widest(lines: Sequence[str]) -> int:
    return max(map(len, lines))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def find(what: str, common: Common, *, rehearsals: bool, as_json: bool) -> int:
    """Which runs touched a command or a device: 0, or 3 when none did."""
    name, _, value = what.partition("=")
    if name not in _NAMES or not value:
        raise UsageError(f"find {what}: write commandId=…, deviceKey=… or assetId=…")
    with desk.reading(common) as (store, _):
        found = store.find(name, value, rehearsals=rehearsals)
        ledger = store.name
    told = [_found(each) for each in found]
    if as_json:
        desk.show_json({"schema_version": SCHEMA_VERSION, "found": told})
    elif told:
        desk.show(*map(_line, told))
    else:
        desk.show(f"no run in ledger {ledger} touched {what}")
    return 0 if found else NOTHING_FOUND


def _found(found: Found) -> dict[str, Any]:
    return {
        "run_id": found.run_id,
        "job": found.job,
        "rehearsal": found.rehearsal,
        "productKey": found.identity.productKey,
        "deviceKey": found.identity.deviceKey,
        "assetId": found.identity.assetId,
        "outcome": found.outcome.value,
        "at": _moment(found.at_ms),
        "commandId": found.commandId,
        "result": found.result,
    }


def _line(told: dict[str, Any]) -> str:
    mark = "REHEARSAL  " if told["rehearsal"] else ""
    said = {name: value for name, value in told.items() if value and name != "rehearsal"}
    return mark + "  ".join(f"{name}={value}" for name, value in said.items())
