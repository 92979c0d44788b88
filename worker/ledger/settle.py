"""The path of every device: recording a group of results, and claiming what is sent next.

A claim is the write-ahead intent, so it stands in the same transaction as the results that make
room for it. Statements are compiled once and run on tuples; a claim is one row however many
targets it covers, because updating each of them would cost six times as much.
Recorded rows are never changed: only a command that is not recorded as cancelled may be told
better, and a doubt mark may move to a later attempt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

from msgspec import Struct
from sqlalchemy import BindParameter, Connection, bindparam, func, insert, literal_column, select
from sqlalchemy.engine import Dialect

from worker.ledger import tables
from worker.ledger.cell import as_int64, as_text
from worker.ledger.conflict import Holders, sift
from worker.ledger.entry import (
    Claim,
    ClaimedTarget,
    Deferral,
    DoubtMark,
    Entry,
    Granted,
)
from worker.ledger.recall import commands_of, marks_of, told_of
from worker.ledger.tables import DEFERRED, Prepared, Statement, upsert
from worker.model import (
    UNNAMED,
    AllCached,
    AssetId,
    CommandResult,
    DeviceKey,
    Identity,
    Listed,
    Outcome,
    OutcomeKind,
    Target,
)

_GROUPS = (64, 16, 4, 1)  # rows that one insert writes
_PARTS = (512, 256, 128, 64, 32, 8)  # sizes of an IN list; few, so that each is compiled once
_ALL_CACHED = AllCached()
_NAMES = {kind: kind.value for kind in OutcomeKind}
_Row = tuple[Any, ...]
T = TypeVar("T")


class Head(Struct, frozen=True):
    """What a commit must know of its run."""

    number: int
    run_id: str
    job: str
    orgId: str
    targets: int
    files: tuple[str, ...]
    rehearsal: bool


class Settling:
    """The statements of a commit, compiled for one dialect."""

    def __init__(self, dialect: Dialect, *, keep_input: bool = True) -> None:
        self._keep_input = keep_input
        self._statements = hot_statements(dialect.name)
        self._sql = {name: Prepared(made, dialect) for name, made in self._statements.items()}
        self._outcomes = {size: self._sql["outcome"].rows(size) for size in _GROUPS}

    def commit(
        self,
        connection: Connection,
        head: Head,
        entries: Sequence[Entry],
        claim: Claim | None,
        now_ms: int,
    ) -> Granted:
        """Record `entries`, then claim; everything or nothing, when the transaction ends."""

        def recorded(ids: set[str]) -> Holders:
            return self._holders(connection, head.number, ids)

        written, clashes, conflicts = sift(connection, head.number, entries, recorded)
        self._record(connection, head.number, written, clashes, now_ms)
        claimed = self._claim(connection, head, claim, now_ms) if claim else []
        return Granted(claimed, conflicts, written)

    def targets(self, connection: Connection, head: Head, ordinals: Sequence[int]) -> list[Target]:
        """These targets of a run, in the order of the plan."""
        rows: list[_Row] = []
        for part, size in parts(ordinals):
            found = connection.exec_driver_sql(
                self._sql[f"members_{size}"].sql, (head.number, *part)
            )
            rows += found.all()
        return [target_of(head, row) for row in sorted(rows, key=lambda row: row[0])]

    def next_ordinal(self, connection: Connection, head: Head) -> int:
        """The first ordinal that no range claim covers: all before it were claimed."""
        found = connection.exec_driver_sql(self._sql["last"].sql, (head.number,) * 2).first()
        return int(found[0]) + 1 if found else 0

    def _holders(self, connection: Connection, run: int, ids: set[str]) -> Holders:
        holders: Holders = {}
        for part, size in parts(sorted(ids)):
            found = connection.exec_driver_sql(self._sql[f"holders_{size}"].sql, part)
            for commandId, holder, ordinal, clash in found:
                if holder == run:
                    holders.setdefault(commandId, {})[ordinal] = clash
        return holders

    def _record(
        self,
        connection: Connection,
        run: int,
        entries: Sequence[Entry],
        clashes: dict[tuple[int, str], str],
        now_ms: int,
    ) -> None:
        commands: list[_Row] = []
        doubts: list[_Row] = []
        outcomes: list[_Row] = []
        for entry in entries:
            for result in entry.commands:
                clash = clashes.get((entry.ordinal, result.command.commandId))
                commands.append(self._command(run, entry.ordinal, result, clash, now_ms))
            if isinstance(entry.verdict, DoubtMark):
                doubts.append(_doubt(run, entry, entry.verdict))
            elif entry.verdict is not None:
                outcomes.append(_outcome(run, entry, entry.verdict, now_ms))
        # Row by row: an upsert of many could need a journal of its own, so a file descriptor.
        for name, rows in (("command", commands), ("doubt", doubts)):
            if rows:
                connection.exec_driver_sql(self._sql[name].sql, rows)
        at = 0
        while at < len(outcomes):
            size = next(size for size in _GROUPS if size <= len(outcomes) - at)
            values = tuple(chain.from_iterable(outcomes[at : at + size]))
            connection.exec_driver_sql(self._outcomes[size], values)
            at += size

    def _command(
        self, run: int, ordinal: int, result: CommandResult, clash: str | None, now_ms: int
    ) -> _Row:
        said = result.command
        return (
            run,
            ordinal,
            as_text(said.commandId),
            result.result,
            result.evidence,
            as_text(result.requestId),
            result.attempt,
            clash,
            now_ms,
            as_text(said.orgId),
            as_text(said.productKey),
            as_text(said.deviceKey),
            as_text(said.assetId),
            as_int64(said.created_ms),
            as_int64(said.type),
            as_text(said.name),
            as_text(said.tslIdentifier),
            as_int64(said.state),
            as_int64(said.timeout),
            as_int64(said.pendingTtl),
            said.inputData if self._keep_input else None,
        )

    def _claim(
        self, connection: Connection, head: Head, claim: Claim, now_ms: int
    ) -> list[ClaimedTarget]:
        members = claim.members
        if members is not None:
            if not members:
                return []
            joined = " ".join(map(str, sorted(members)))
            row: _Row = (head.number, min(members), claim.pass_no, max(members), joined, now_ms)
            connection.exec_driver_sql(self._sql["claim"].sql, row)
            return self._recalled(connection, head, claim.pass_no, members)
        lo = self.next_ordinal(connection, head)
        end = head.targets if claim.limit is None else min(head.targets, claim.limit)
        hi = min(lo + claim.count, end) - 1
        if hi < lo:
            return []
        row = (head.number, lo, claim.pass_no, hi, None, now_ms)
        connection.exec_driver_sql(self._sql["claim"].sql, row)
        found = connection.exec_driver_sql(self._sql["range"].sql, (head.number, lo, hi)).all()
        # Never claimed before: nothing is recorded of these.
        return [ClaimedTarget(target_of(head, each), claim.pass_no) for each in found]

    def _recalled(
        self, connection: Connection, head: Head, pass_no: int, members: Sequence[int]
    ) -> list[ClaimedTarget]:
        commands = commands_of(connection, head.number, members)
        marks = marks_of(connection, head.number, members)
        told = told_of(connection, head.number, members, commands)
        return [
            ClaimedTarget(
                target,
                pass_no,
                tuple(commands.get(target.ordinal, ())),
                marks.get(target.ordinal),
                told.get(target.ordinal, UNNAMED),
            )
            for target in self.targets(connection, head, members)
        ]


def hot_statements(dialect: str) -> dict[str, Statement]:
    """The statements of the hot path by name, for one dialect."""
    told = [c.name for c in tables.command.columns if not c.primary_key]
    marked = ["last_sent_ms", "attempts", "cause"]
    target, claim, command = tables.target.c, tables.claim.c, tables.command.c
    of_run = select(*TARGET).where(target.run == bindparam("run")).order_by(target.ordinal)
    # From the end: list claims that stand behind the last range are fewer than a batch.
    ranges = (claim.run == bindparam("run"), claim.members.is_(None))
    last = select(func.max(claim.lo)).where(*ranges).scalar_subquery()
    statements: dict[str, Statement] = {
        "command": upsert(
            dialect, tables.command, told, where=command.result != literal_column("'cancelled'")
        ),
        "doubt": upsert(dialect, tables.doubt, marked),
        "outcome": insert(tables.outcome),
        "claim": insert(tables.claim),
        "last": select(claim.hi).where(*ranges, claim.lo == last),
        "range": of_run.where(target.ordinal.between(bindparam("lo"), bindparam("hi"))),
    }
    for size in _PARTS:
        listed: list[BindParameter[Any]] = [bindparam(f"v{index}") for index in range(size)]
        statements[f"members_{size}"] = of_run.where(target.ordinal.in_(listed))
        statements[f"holders_{size}"] = (
            # The run is told apart afterwards: named here, it would be searched from end to end.
            select(command.commandId, command.run, command.ordinal, command.clash)
            .where(command.commandId.in_(listed))
            .where(command.result == literal_column("'cancelled'"))
        )
    return statements


def parts(values: Sequence[T]) -> Iterator[tuple[tuple[T, ...], int]]:
    """Cut an IN list into a few fixed sizes, the last one filled up with its first value."""
    at = 0
    while at < len(values):
        left = len(values) - at
        size = next((size for size in reversed(_PARTS) if size >= left), _PARTS[0])
        part = tuple(values[at : at + size])
        yield part + (part[0],) * (size - len(part)), size
        at += size


TARGET = (
    tables.target.c.ordinal,
    tables.target.c.source,
    tables.target.c.line,
    tables.target.c.productKey,
    tables.target.c.deviceKey,
    tables.target.c.assetId,
    tables.target.c.commandIds,
)


def target_of(head: Head, row: Sequence[Any]) -> Target:
    """The target of a row of the columns TARGET."""
    ordinal, source, line, product, device, asset, ids = row
    return Target(
        ordinal,
        DeviceKey(product, device) if asset is None else AssetId(asset),
        head.orgId,
        _ALL_CACHED if ids is None else Listed(tuple(ids.split(" "))),
        f"{head.files[source]}:{line}",
    )


def _outcome(run: int, entry: Entry, verdict: Outcome | Deferral, now_ms: int) -> _Row:
    key = (run, entry.ordinal, entry.pass_no)
    told = verdict.told
    if isinstance(verdict, Deferral):
        unsaid = (None,) * 5
        tail = (0, *_names(told), now_ms)
        return (*key, DEFERRED, verdict.cause, verdict.attempts, 0, *unsaid, *tail)
    message, requestId = verdict.message, verdict.requestId
    return (
        *key,
        _NAMES[verdict.kind],
        verdict.cause,
        verdict.attempts,
        int(verdict.tainted),
        verdict.evidence,
        verdict.http_status,
        as_int64(verdict.code),
        message and as_text(message),
        requestId and as_text(requestId),
        verdict.duration_ms,
        told.productKey and as_text(told.productKey),
        told.deviceKey and as_text(told.deviceKey),
        told.assetId and as_text(told.assetId),
        now_ms,
    )


def _names(told: Identity) -> _Row:
    named = (told.productKey, told.deviceKey, told.assetId)
    return tuple(name and as_text(name) for name in named)


def _doubt(run: int, entry: Entry, mark: DoubtMark) -> _Row:
    sent = (mark.first_sent_ms, mark.last_sent_ms)
    return (run, entry.ordinal, entry.pass_no, *sent, mark.attempts, mark.cause)
