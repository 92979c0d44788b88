"""What a ledger says, read by hand with sqlite3: a second opinion to the worker's own queries."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.system.stories.fleet import Spelling

OPEN = frozenset({"unknown", "cancelled_incomplete", "not_attempted"})
UNSURE = frozenset({"unknown", "cancelled_incomplete", "anomalous"})


class Target(Struct):
    """One target of a run and all that is recorded of it."""

    ordinal: int
    spelling: Spelling
    ids: tuple[str, ...] | None  # listed; None: all that is cached
    outcome: str = "not_attempted"
    in_doubt: bool = False
    marked: bool = False  # … and recorded as ambiguous
    cancelled: dict[str, str] = {}  # commandId -> evidence
    others: dict[str, str] = {}  # commandId -> what became of it, where that is not cancelled
    cause: str | None = None


class Run(Struct):
    """One run."""

    number: int
    run_id: str
    job: str
    scope: str
    planned_ms: int
    began_ms: int | None  # its first start
    started_ms: int | None  # its last one
    finished: bool
    end: dict[str, Any]
    targets: list[Target]
    deferred: bool = False  # something was put off and never settled

    @property
    def tally(self) -> Counter[str]:
        return Counter(target.outcome for target in self.targets)


def read(path: Path) -> list[Run]:
    """Every run of a ledger, the oldest first; none where there is no ledger yet."""
    if not path.exists() or not path.stat().st_size:
        return []
    with closing(sqlite3.connect(path, timeout=20)) as raw:
        raw.row_factory = sqlite3.Row
        if not raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'run'").fetchone():
            return []
        raw.execute("BEGIN")
        return [_run(raw, row) for row in raw.execute("SELECT * FROM run ORDER BY run").fetchall()]


def _run(raw: sqlite3.Connection, row: sqlite3.Row) -> Run:
    run = Run(
        number=row["run"],
        run_id=row["run_id"],
        job=row["job"],
        scope=row["scope"],
        planned_ms=row["planned_ms"],
        began_ms=row["first_started_ms"],
        started_ms=row["started_ms"],
        finished=row["finished_ms"] is not None,
        end=json.loads(row["end"]) if row["end"] else {},
        targets=[],
    )
    where = (run.number,)
    final, deferred = _outcomes(raw, where)
    doubts = _doubts(raw, where)
    marked = {r[0] for r in raw.execute("SELECT ordinal FROM doubt WHERE run = ?", where)}
    commands = _commands(raw, where)
    for each in raw.execute("SELECT * FROM target WHERE run = ? ORDER BY ordinal", where):
        ordinal = each["ordinal"]
        cancelled, others = commands.get(ordinal, ({}, {}))
        target = Target(
            ordinal=ordinal,
            spelling=Spelling(*(each[name] or "" for name in Spelling._fields)),
            ids=None if each["commandIds"] is None else tuple(each["commandIds"].split()),
            in_doubt=ordinal in doubts,
            marked=ordinal in marked,
            cancelled=cancelled,
            others=others,
        )
        target.outcome, target.cause = _outcome(target, final.get(ordinal))
        run.deferred |= ordinal in deferred and target.outcome in OPEN
        run.targets.append(target)
    return run


def _outcome(target: Target, final: tuple[str, str | None] | None) -> tuple[str, str | None]:
    """Of the last pass that settles; what was recorded after it makes a failure less than true."""
    if target.in_doubt:
        return ("cancelled_incomplete" if target.cancelled else "unknown"), None
    if final is None:
        return ("cancelled_incomplete" if target.cancelled else "not_attempted"), None
    if final[0] in ("failed", "rejected", "not_found") and target.cancelled:
        return "cancelled_incomplete", final[1]
    return final


def _outcomes(
    raw: sqlite3.Connection, where: tuple[int]
) -> tuple[dict[int, tuple[str, str | None]], set[int]]:
    final: dict[int, tuple[str, str | None]] = {}
    deferred = set()
    query = 'SELECT ordinal, kind, cause FROM outcome WHERE run = ? ORDER BY ordinal, "pass"'
    for ordinal, kind, cause in raw.execute(query, where):
        deferred.discard(ordinal)
        if kind == "deferred":
            deferred.add(ordinal)
        else:
            final[ordinal] = kind, cause
    return final, deferred


def _doubts(raw: sqlite3.Connection, where: tuple[int]) -> set[int]:
    """Claimed in a pass, and nothing recorded in that one or a later one."""
    claimed: dict[int, int] = {}
    query = 'SELECT lo, hi, "pass", members FROM claim WHERE run = ?'
    for lo, hi, number, members in raw.execute(query, where):
        for ordinal in map(int, members.split()) if members else range(lo, hi + 1):
            claimed[ordinal] = max(number, claimed.get(ordinal, 0))
    query = 'SELECT ordinal, max("pass") FROM outcome WHERE run = ? GROUP BY ordinal'
    recorded = dict(raw.execute(query, where).fetchall())
    return {o for o, number in claimed.items() if recorded.get(o, -1) < number}


def _commands(
    raw: sqlite3.Connection, where: tuple[int]
) -> dict[int, tuple[dict[str, str], dict[str, str]]]:
    found: dict[int, tuple[dict[str, str], dict[str, str]]] = defaultdict(lambda: ({}, {}))
    query = "SELECT ordinal, commandId, result, evidence FROM command WHERE run = ?"
    for ordinal, commandId, result, evidence in raw.execute(query, where):
        cancelled, others = found[ordinal]
        if result == "cancelled":
            cancelled[commandId] = evidence
        else:
            others[commandId] = result
    return found
