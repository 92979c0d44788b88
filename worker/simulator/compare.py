"""Compares what a report claims with what the gateway did, and words each difference.

A report may say that it does not know (`unknown`, `cancelled_incomplete`, `anomalous`): what
such a target leaves out is no difference. What it claims is checked all the same. Nothing is
kept for targets that claim nothing and whose device was never touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from worker.model import (
    AssetId,
    Device,
    DeviceKey,
    Listed,
    OutcomeKind,
    Proof,
    ReportRow,
)
from worker.simulator.commands import CANCELLED
from worker.simulator.fleet import Known
from worker.simulator.truth import Executed
from worker.simulator.world import World

_UNCERTAIN = {OutcomeKind.UNKNOWN, OutcomeKind.CANCELLED_INCOMPLETE, OutcomeKind.ANOMALOUS}
_COMPLETE = {
    OutcomeKind.CANCELLED,
    OutcomeKind.NOTHING_CACHED,
    OutcomeKind.NOTHING_MATCHED,
    OutcomeKind.TOO_LATE,
}
_LIMIT = 100
_NOTHING = set(OutcomeKind) - _UNCERTAIN - {OutcomeKind.CANCELLED}
_DENIALS = ("not_cached", "rejected", "failed")


class _Claim(Struct):
    """One row, as far as it is needed once all rows were read."""

    row: str  # who it names, for people
    outcome: OutcomeKind
    recorded: dict[str, Proof | None]
    denied: tuple[str, ...]  # ids that it says were not cancelled


def compare(
    world: World, rows: Iterable[ReportRow], since: int = 0, limit: int = _LIMIT
) -> list[str]:
    """Every difference between the report and the truth, in words; none: they agree.

    `since` leaves out what was executed up to that `Executed.order` (an earlier run of the
    same world). Of more than `limit` differences the last sentence counts the rest.
    """
    found = list(_differences(world, rows, since))
    if len(found) > limit:
        found[limit:] = [f"… and {len(found) - limit} more"]
    return found


def _differences(world: World, rows: Iterable[ReportRow], since: int) -> Iterator[str]:
    claims: dict[int, list[_Claim]] = {}
    for row in rows:
        device, problem = _device(world, row)
        if problem or device is None:
            yield problem or f"row {row.ordinal} names no device"
            continue
        yield from _unasked(world, device, row)
        known = _known(world, device, row)
        if known is None:
            yield from _groundless(row)
        else:
            yield from _left_behind(world, known, row)
            claims.setdefault(known.key, []).append(_claim(row))
    for known in list(world.fleet.kept()):
        executed = {e.commandId: e for e in known.executed if e.order > since}
        made = claims.get(known.key, [])
        yield from _missing(known, executed, made)
        for claim in made:
            yield from _invented(world, known, executed, claim)
    yield from world.book.strays
    if world.book.stray_count > len(world.book.strays):
        yield f"{world.book.stray_count - len(world.book.strays)} more such requests"


# ---------------------------------------------------------------- one row


def _device(world: World, row: ReportRow) -> tuple[Device | None, str | None]:
    """The device of a row, or what is wrong with the names that it gives."""
    names: list[Device] = []
    if row.productKey is not None and row.deviceKey is not None:
        names.append(DeviceKey(row.productKey, row.deviceKey))
    if row.assetId is not None:
        names.append(AssetId(row.assetId))
    keys = {world.fleet.key_of(row.orgId, name) for name in names}
    if len(keys) > 1:
        return None, f"{_who(row)}: these names are not of one device"
    return (names[0] if names else None), None


def _known(world: World, device: Device, row: ReportRow) -> Known | None:
    """The device if it is kept; one that the row calls settled is derived for the check."""
    if row.outcome in _COMPLETE:
        return world.fleet.look(row.orgId, device)
    return world.fleet.peek(row.orgId, device)


def _unasked(world: World, device: Device, row: ReportRow) -> Iterator[str]:
    """Outcomes that only an answer can prove, or that the gateway cannot have given."""
    there = world.fleet.has(world.fleet.key_of(row.orgId, device))
    if row.outcome == OutcomeKind.NOT_FOUND and there:
        yield f"{_who(row)}: the report says not_found, but the gateway has the device"
    if row.outcome in _COMPLETE and not there:
        yield f"{_who(row)}: the report says {row.outcome}, but the gateway has no such device"
    if row.outcome in _COMPLETE and there and world.asked(row.orgId, device) == (0, 0):
        yield f"{_who(row)}: the report says {row.outcome}, but no request for it got through"
    if row.outcome == OutcomeKind.CANCELLED and not row.commandIds:
        yield f"{_who(row)}: the report says cancelled, but records no command"


def _groundless(row: ReportRow) -> Iterator[str]:
    """Commands recorded for a device that has none."""
    for commandId in row.commandIds:
        yield f"{_who(row)}: the report records {commandId}, which the gateway did not cancel"


def _left_behind(world: World, known: Known, row: ReportRow) -> Iterator[str]:
    """Commands that were there from the start and still are, though the row says otherwise."""
    if row.outcome not in _COMPLETE:
        return
    asked = row.scope.commandIds if isinstance(row.scope, Listed) else None
    left = [
        command.commandId
        for command in world.cached(known)
        if command.seeded and (asked is None or command.commandId in asked)
    ]
    if left:
        yield f"{_who(row)}: the report says {row.outcome}, but still cached: {' '.join(left)}"


def _claim(row: ReportRow) -> _Claim:
    commands = row.commands
    return _Claim(
        _who(row),
        row.outcome,
        {c.command.commandId: c.evidence for c in commands if c.result == "cancelled"},
        tuple(c.command.commandId for c in commands if c.result in _DENIALS),
    )


def _who(row: ReportRow) -> str:
    names = [row.productKey, row.deviceKey, row.assetId]
    return f"row {row.ordinal} ({' '.join(name for name in names if name)})"


# ---------------------------------------------------------------- one device


def _missing(known: Known, executed: dict[str, Executed], claims: list[_Claim]) -> Iterator[str]:
    """What the gateway cancelled and the report leaves out or denies."""
    recorded = {commandId for claim in claims for commandId in claim.recorded}
    missing = [commandId for commandId in executed if commandId not in recorded]
    if not missing or any(claim.outcome in _UNCERTAIN for claim in claims):
        return
    ids = " ".join(missing)
    if not claims:
        yield f"{known.who}: the gateway cancelled {ids}, but the report does not name the device"
    for claim in claims:
        denied = [commandId for commandId in claim.denied if commandId in missing]
        if denied:
            said = f"the report denies {' '.join(denied)}"
        else:
            said = f"the report says {claim.outcome} and leaves it out"
        yield f"{claim.row}: the gateway cancelled {ids}, but {said}"


def _invented(
    world: World, known: Known, executed: dict[str, Executed], claim: _Claim
) -> Iterator[str]:
    """What the report claims and the gateway did not do."""
    if claim.recorded and claim.outcome in _NOTHING:
        yield f"{claim.row}: the report says {claim.outcome}, but records cancelled commands"
    for commandId, evidence in claim.recorded.items():
        done = executed.get(commandId)
        at_all = any(c.commandId == commandId and c.state == CANCELLED for c in known.commands)
        if evidence is None:
            yield f"{claim.row}: {commandId} is recorded as cancelled without evidence"
        elif evidence == "search" and not at_all:
            yield f"{claim.row}: no search can have shown {commandId} cancelled" + _whose(
                world, known, commandId
            )
        elif evidence == "response" and done is None:
            yield f"{claim.row}: no reply can have named {commandId}" + _whose(
                world, known, commandId
            )
        elif evidence == "response" and done is not None and done.delivery == "lost":
            yield f"{claim.row}: the reply that named {commandId} was never sent"


def _whose(world: World, known: Known, commandId: str) -> str:
    """Whose command it is, if it is another device's."""
    for other in world.fleet.kept():
        if other is not known and any(c.commandId == commandId for c in other.commands):
            return f": it is a command of {other.who}"
    return ""
