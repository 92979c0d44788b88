"""Questions that reach across the runs of one ledger.

A rehearsal touched nothing real and its ids are invented, so that a real run never sees one, and
a rehearsal sees no other run at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace
from sqlalchemy import ColumnElement, Connection, Row, Select, Table, func, or_, select

from worker.ledger import tables
from worker.ledger.doubts import in_doubt
from worker.ledger.entry import AlsoTouched, Found, Touched
from worker.ledger.reading import end_of, head_of, read_slice
from worker.ledger.recall import IN_LIST, chunks
from worker.ledger.settle import Head
from worker.ledger.tables import alias, claim, command, outcome, target
from worker.model import AssetId, Device, DeviceKey, Identity, OutcomeKind, RunEnd

TOUCH_WINDOW_MS = 48 * 3600 * 1000  # a command may stay cached for so long

_COMPARED = 3  # other runs
_COMPARED_SIZE = 10  # times the targets of this run; a longer list is not read for a short one
_COMPARED_LEAST = 10_000  # targets

_run = tables.run.c
_HELD = (
    *(command.c[name] for name in ("commandId", "run", "ordinal", "evidence", "recorded_ms")),
    _run.rehearsal,
)


def recorded_elsewhere(
    connection: Connection, head: Head, ordinal: int, ids: Sequence[str], in_order_ms: int
) -> set[str]:
    """Those ids that this run cannot have cancelled by its calls for this target.

    Another target of this run recorded them, another run has them from a reply, or another run
    found them by a search before this run claimed the target. A search that came later may have
    found what this run cancelled.

    in_order_ms: moments of the local clock up to this one can be compared; what was claimed later
    was claimed before the clock was set back.
    """
    found: set[str] = set()
    claimed_ms: int | None = None
    for part in chunks(ids):
        # By id alone: with a run in it, the query would read that run from end to end.
        query = select(*_HELD).join_from(command, tables.run, _run.run == command.c.run)
        where = (command.c.commandId.in_(part), command.c.result == "cancelled")
        for row in connection.execute(query.where(*where)):
            if row.run == head.number:
                elsewhere = row.ordinal != ordinal
            elif head.rehearsal or row.rehearsal:
                elsewhere = False
            elif row.evidence == "search":
                if claimed_ms is None:
                    claimed_ms = _first_claimed_ms(connection, head.number, ordinal)
                elsewhere = row.recorded_ms < claimed_ms <= in_order_ms
            else:
                elsewhere = True
            if elsewhere:
                found.add(row.commandId)
    return found


def _first_claimed_ms(connection: Connection, run: int, ordinal: int) -> int:
    """When a target was claimed for the first time, local clock: the range that covers it."""
    ranges = (claim.c.run == run, claim.c.members.is_(None), claim.c.lo <= ordinal)
    query = select(claim.c.claimed_ms).where(*ranges).order_by(claim.c.lo.desc()).limit(1)
    return int(connection.execute(query).scalar() or 0)


def open_intents(connection: Connection, head: Head) -> dict[Device, int]:
    """Devices in doubt in other runs of the organization: nothing was sent before that moment.

    The moment is the other run's local clock, less what its clocks were apart. Only runs without
    an end, or with one that counted doubts, are looked into: a ledger may hold thousands that are
    neither.
    """
    found: dict[Device, int] = {}
    if head.rehearsal:
        return found
    open_run = or_(_run.finished_ms.is_(None), _run.doubts > 0)
    others = select(_run.run, _run.clock_apart_ms).where(
        _run.run != head.number,
        _run.orgId == head.orgId,
        _run.rehearsal.is_(None),
        _run.started_ms.is_not(None),
        open_run,
    )
    for number, apart_ms in connection.execute(others).all():
        doubts = in_doubt(connection, number)
        for part in chunks(list(doubts)):
            rows = select(target).where(target.c.run == number, target.c.ordinal.in_(part))
            for row in connection.execute(rows):
                device = device_of(row)
                since = doubts[row.ordinal].since_ms - apart_ms
                found[device] = min(since, found.get(device, since))
    for device, other in _other_spellings(connection, head, list(found)):
        found[other] = min(found[device], found.get(other, found[device]))
    return found


def _other_spellings(
    connection: Connection, head: Head, devices: Sequence[Device]
) -> list[tuple[Device, Device]]:
    """Devices beside their other names, as lists and replies of the organization's runs tell.

    A reply may be wrong, so that this is good for a look-up and for nothing else. The tables are
    read from end to end, but only where this run's list spells a device otherwise.
    """
    if not any(_spells(connection, head, by_asset=not isinstance(d, AssetId)) for d in devices):
        return []
    pairs: set[tuple[DeviceKey, AssetId]] = set()
    for table in (target, outcome, command):
        names = (table.c.productKey, table.c.deviceKey, table.c.assetId)
        query = select(*names).distinct().join_from(table, tables.run, _run.run == table.c.run)
        query = query.where(_run.orgId == head.orgId, _run.rehearsal.is_(None))
        query = query.where(*(name.is_not(None) for name in names))
        for part in chunks(devices):
            keys = [d.deviceKey for d in part if isinstance(d, DeviceKey)]
            assets = [d.assetId for d in part if isinstance(d, AssetId)]
            named = or_(table.c.deviceKey.in_(keys), table.c.assetId.in_(assets))
            for product, key, asset in connection.execute(query.where(named)):
                pairs.add((DeviceKey(product, key), AssetId(asset)))
    wanted = set(devices)
    both: list[tuple[Device, Device]] = [*pairs, *((asset, pair) for pair, asset in pairs)]
    return [(device, other) for device, other in both if device in wanted]


def _spells(connection: Connection, head: Head, *, by_asset: bool) -> bool:
    """Whether the list of a run has a device that is spelled so."""
    name = target.c.assetId if by_asset else target.c.productKey
    query = select(target.c.ordinal).where(target.c.run == head.number, name.is_not(None))
    return connection.execute(query.limit(1)).first() is not None


def also_touched(connection: Connection, head: Head) -> AlsoTouched:
    """Other runs that touched devices of this one, from 48 h before it started, newest first.

    Real runs at the same gateway only. Of those that claimed anything the newest are compared, and
    none that is many times as long: a job of every minute has thousands.
    """
    mine = connection.execute(select(tables.run).where(_run.run == head.number)).one()
    if head.rehearsal or mine.first_started_ms is None:
        return AlsoTouched()
    where = [
        _run.run != head.number,
        _run.orgId == head.orgId,
        _run.gateway == mine.gateway,
        _run.rehearsal.is_(None),
        _run.first_started_ms.is_not(None),
        or_(
            _run.finished_ms.is_(None),
            _run.finished_ms >= mine.first_started_ms - TOUCH_WINDOW_MS,
        ),
        select(claim.c.run).where(claim.c.run == _run.run).exists(),
    ]
    if mine.finished_ms is not None:
        where.append(_run.first_started_ms <= mine.finished_ms)
    others = select(_run.run, _run.run_id, _run.job, _run.targets).where(*where)
    rows = connection.execute(others.order_by(_run.run.desc())).all()
    longest = max(_COMPARED_LEAST, _COMPARED_SIZE * head.targets)
    compared = [row for row in rows if row.targets <= longest][:_COMPARED]
    touched = [
        Touched(row.run_id, row.job, _shared(connection, head.number, row.run)) for row in compared
    ]
    return AlsoTouched([each for each in touched if each.devices], len(rows) - len(compared))


def find(connection: Connection, name: str, value: str, *, rehearsals: bool) -> list[Found]:
    """One of each command, or of a device without any, newest run first."""
    heads: dict[int, tuple[Head, RunEnd | None]] = {}
    found: list[Found] = []
    for number, ordinal in _places(connection, name, value):
        if number not in heads:
            row = connection.execute(select(tables.run).where(_run.run == number)).one()
            heads[number] = (head_of(connection, row), end_of(row))
        head, end = heads[number]
        if head.rehearsal and not rehearsals:
            continue
        doubts = in_doubt(connection, number, ordinal, ordinal)
        [told] = read_slice(connection, head, end, doubts, ordinal, ordinal)
        if told.outcome is OutcomeKind.NOT_ATTEMPTED:
            continue  # planned, never touched
        when = _recorded(connection, number, ordinal)
        results = [c for c in told.commands if name != "commandId" or c.command.commandId == value]
        identity = Identity(told.productKey, told.deviceKey, told.assetId).completed_by(told.told)
        whole = Found(
            head.run_id,
            head.job,
            ordinal,
            identity,
            told.outcome,
            when.get(None),
            rehearsal=head.rehearsal,
        )
        each = [(result.command.commandId, result.result) for result in results]
        found += [
            replace(whole, commandId=commandId, result=result, at_ms=when[commandId])
            for commandId, result in each
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


def _places(connection: Connection, name: str, value: str) -> list[tuple[int, int]]:
    """(run, ordinal) wherever a command or a device was planned or told, newest run first."""
    if name == "commandId":
        wanted = [_places_in(command, command.c.commandId == value)]
    else:
        # Each run is looked into by its key: the indexes begin with it.
        planned = (target.c.run.in_(select(_run.run)), target.c[name] == value)
        told = (alias.c.run.in_(select(_run.run)), alias.c.name == name, alias.c.value == value)
        wanted = [_places_in(target, *planned), _places_in(alias, *told)]
        unended = select(_run.run).where(_run.started_ms.is_not(None), _run.finished_ms.is_(None))
        for part in chunks(list(connection.execute(unended).scalars())):
            wanted += [
                _places_in(table, table.c.run.in_(part), table.c[name] == value)
                for table in (outcome, command)
            ]
    found = {(row[0], row[1]) for query in wanted for row in connection.execute(query)}
    return sorted(found, key=lambda place: (-place[0], place[1]))


def _places_in(table: Table, *where: ColumnElement[bool]) -> Select[Any]:
    return select(table.c.run, table.c.ordinal).where(*where)


def device_of(row: Row[Any]) -> Device:
    """The device of a target row, as the plan spelled it."""
    if row.assetId is not None:
        return AssetId(row.assetId)
    return DeviceKey(row.productKey, row.deviceKey)


def _shared(connection: Connection, mine: int, other: int) -> int:
    """How many devices of this run the other one touched; a join would compare each with each."""
    both = _touched(connection, mine).intersect(_touched(connection, other)).subquery()
    return int(connection.execute(select(func.count()).select_from(both)).scalar() or 0)


def _touched(connection: Connection, number: int) -> Select[Any]:
    """The devices that a run sent something to, or has in doubt."""
    settled = select(outcome.c.run).where(
        outcome.c.run == target.c.run,
        outcome.c.ordinal == target.c.ordinal,
        outcome.c.kind != tables.DEFERRED,
    )
    doubtful = list(in_doubt(connection, number))[:IN_LIST]
    return select(target.c.productKey, target.c.deviceKey, target.c.assetId).where(
        target.c.run == number, or_(settled.exists(), target.c.ordinal.in_(doubtful))
    )
