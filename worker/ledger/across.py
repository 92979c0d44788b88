"""Questions that reach across the runs of one ledger.

A rehearsal touched nothing real and its ids are invented, so that a real run never sees one, and
a rehearsal sees no other run at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, Row, Select, func, or_, select

from worker.ledger import tables
from worker.ledger.doubts import in_doubt
from worker.ledger.entry import Found, Touched
from worker.ledger.reading import end_of, head_of, read_slice
from worker.ledger.recall import chunks
from worker.ledger.settle import Head
from worker.ledger.tables import claim, command, outcome, target
from worker.model import AssetId, Device, DeviceKey, Identity, OutcomeKind, RunEnd

TOUCH_WINDOW_MS = 48 * 3600 * 1000  # a command may stay cached for so long

_run = tables.run.c


def recorded_elsewhere(
    connection: Connection, head: Head, ordinal: int, ids: Sequence[str]
) -> set[str]:
    """Those ids that another run, or another target of this run, recorded as cancelled."""
    found: set[str] = set()
    for part in chunks(ids):
        # By id alone: with a run in it, the query would read that run from end to end.
        query = select(command.c.commandId, command.c.run, command.c.ordinal, _run.rehearsal)
        joined = query.join_from(command, tables.run, _run.run == command.c.run)
        where = (command.c.commandId.in_(part), command.c.result == "cancelled")
        for commandId, run, holder, rehearsal in connection.execute(joined.where(*where)):
            mine = run == head.number
            if holder != ordinal if mine else not (head.rehearsal or rehearsal):
                found.add(commandId)
    return found


def open_intents(connection: Connection, head: Head) -> dict[Device, int]:
    """Devices in doubt in other runs of the organization: nothing was sent before that moment.

    Only runs without an end, or with one that counted doubts, are looked into: a ledger may
    hold thousands that are neither.
    """
    found: dict[Device, int] = {}
    if head.rehearsal:
        return found
    open_run = or_(_run.finished_ms.is_(None), _run.doubts > 0)
    others = select(_run.run).where(
        _run.run != head.number,
        _run.orgId == head.orgId,
        _run.rehearsal.is_(None),
        _run.started_ms.is_not(None),
        open_run,
    )
    for number in connection.execute(others).scalars().all():
        doubts = in_doubt(connection, number)
        for part in chunks(list(doubts)):
            rows = select(target).where(target.c.run == number, target.c.ordinal.in_(part))
            for row in connection.execute(rows):
                device = device_of(row)
                since = doubts[row.ordinal].since_ms
                found[device] = min(since, found.get(device, since))
    return found


def also_touched(connection: Connection, head: Head) -> list[Touched]:
    """Other runs that touched devices of this one, from 48 h before it started, newest first."""
    if head.rehearsal:
        return []
    mine = connection.execute(select(tables.run).where(_run.run == head.number)).one()
    if mine.first_started_ms is None:
        return []
    where = [
        _run.run != head.number,
        _run.orgId == head.orgId,
        _run.rehearsal.is_(None),
        or_(
            _run.finished_ms.is_(None),
            _run.finished_ms >= mine.first_started_ms - TOUCH_WINDOW_MS,
        ),
    ]
    if mine.finished_ms is not None:
        where.append(_run.first_started_ms <= mine.finished_ms)
    started = _run.first_started_ms.is_not(None)
    others = select(_run.run, _run.run_id, _run.job).where(started, *where)
    touched = []
    for number, run_id, job in connection.execute(others.order_by(_run.run.desc())).all():
        devices = _shared(connection, head.number, number)
        if devices:
            touched.append(Touched(run_id, job, devices))
    return touched


def find(connection: Connection, commandId: str | None, deviceKey: str | None) -> list[Found]:
    """One of each command, or of a device without any, newest run first."""
    heads: dict[int, tuple[Head, RunEnd | None]] = {}
    found: list[Found] = []
    for number, ordinal in _places(connection, commandId, deviceKey):
        if number not in heads:
            row = connection.execute(select(tables.run).where(_run.run == number)).one()
            heads[number] = (head_of(connection, row), end_of(row))
        head, end = heads[number]
        doubts = in_doubt(connection, number, ordinal, ordinal)
        [told] = read_slice(connection, head, end, doubts, ordinal, ordinal)
        if told.outcome is OutcomeKind.NOT_ATTEMPTED:
            continue  # planned, never touched
        when = _recorded(connection, number, ordinal)
        results = [c for c in told.commands if commandId in {None, c.command.commandId}]
        identity = Identity(told.productKey, told.deviceKey, told.assetId).completed_by(told.told)
        whole = Found(head.run_id, head.job, ordinal, identity, told.outcome, when.get(None))
        each = [(result.command.commandId, result.result) for result in results]
        found += [
            replace(whole, commandId=name, result=result, at_ms=when[name]) for name, result in each
        ] or [whole]
    return found


def _recorded(connection: Connection, run: int, ordinal: int) -> dict[str | None, int]:
    """When each command of a target was recorded; under None, the target itself."""
    here = select(command.c.commandId, command.c.recorded_ms).where(
        command.c.run == run, command.c.ordinal == ordinal
    )
    when: dict[str | None, int] = {row[0]: row[1] for row in connection.execute(here)}
    last = select(func.max(outcome.c.recorded_ms)).where(
        outcome.c.run == run, outcome.c.ordinal == ordinal
    )
    settled = connection.execute(last).scalar()
    if settled is not None:
        when[None] = settled
    return when


def _places(
    connection: Connection, commandId: str | None, deviceKey: str | None
) -> list[tuple[int, int]]:
    """(run, ordinal) wherever a command or a device was planned or told, newest run first."""
    if commandId is not None:
        wanted = [(command, command.c.commandId == commandId)]
    else:
        wanted = [(table, table.c.deviceKey == deviceKey) for table in (target, outcome, command)]
    found: set[tuple[int, int]] = set()
    for table, where in wanted:
        rows = connection.execute(select(table.c.run, table.c.ordinal).where(where).distinct())
        found.update((row[0], row[1]) for row in rows)
    return sorted(found, key=lambda place: (-place[0], place[1]))


def device_of(row: Row[Any]) -> Device:
    """The device of a target row, as the plan spelled it."""
    if row.assetId is not None:
        return AssetId(row.assetId)
    return DeviceKey(row.productKey, row.deviceKey)


def _shared(connection: Connection, mine: int, other: int) -> int:
    """How many devices both runs claimed; a join would compare each with each."""

    def claimed(number: int) -> Select[Any]:
        last = select(func.max(claim.c.hi)).where(claim.c.run == number).scalar_subquery()
        return select(target.c.productKey, target.c.deviceKey, target.c.assetId).where(
            target.c.run == number, target.c.ordinal <= last
        )

    both = claimed(mine).intersect(claimed(other)).subquery()
    return int(connection.execute(select(func.count()).select_from(both)).scalar() or 0)
