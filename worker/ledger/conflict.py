"""Noticing that one commandId was recorded for two targets of a run.

A commandId names one command of one device. When a second target's reply lists it, either the
plan spells one device in two ways (then it is kept once), or the gateway spoke of another device
(then the target is anomalous). Only a provable difference counts: an assetId and a key pair
that no reply connected cannot be compared.
Decided before the group is written, so that the record never claims what the check refutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace
from sqlalchemy import Connection, select

from worker.ledger.cell import as_text
from worker.ledger.entry import ID_OF_OTHER_DEVICE, SAME_DEVICE, Conflict, Entry
from worker.ledger.recall import fill
from worker.ledger.tables import command, outcome, target
from worker.model import CommandResult, Identity, Named, Outcome, OutcomeKind

Clashes = dict[tuple[int, str], str]  # (ordinal, commandId) -> cause
Holders = dict[str, dict[int, str | None]]  # commandId -> ordinal that recorded it -> its clash
_NONE = {""}  # no cause: the ids are new, and nobody else's
Recorded = Callable[[set[str]], Holders]  # who of this run recorded these ids as cancelled


def sift(
    connection: Connection, run: int, entries: Sequence[Entry], recorded: Recorded
) -> tuple[list[Entry], Clashes, list[Conflict]]:
    """The entries as they are to be written, clashing commands, and what was found.

    An entry keeps only the commands that are not recorded as cancelled yet.
    """
    gathered = [_gather(entry) for entry in entries]
    ids = {
        result.command.commandId
        for entry in gathered
        for result in entry.commands
        if result.result == "cancelled"
    }
    if not ids:
        return gathered, {}, []
    sieve = _Sieve(connection, run, gathered, recorded(ids))
    passed = [sieve.pass_on(entry) if entry.commands else entry for entry in gathered]
    return passed, sieve.clashes, sieve.conflicts


class _Sieve:
    """Who holds which id, the group's own entries included as they pass."""

    def __init__(
        self, connection: Connection, run: int, entries: Sequence[Entry], holders: Holders
    ) -> None:
        self._connection = connection
        self._run = run
        self._entries = entries
        self._holders = holders
        self._known: dict[int, Identity] = {}  # a hostile reply may clash a thousand times
        self.clashes: Clashes = {}
        self.conflicts: list[Conflict] = []

    def pass_on(self, entry: Entry) -> Entry:
        kept: list[CommandResult] = []
        causes: set[str] = set()
        twice: set[str] = set()
        for result in entry.commands:
            commandId = result.command.commandId
            if result.result != "cancelled":
                kept.append(result)
                continue
            holders = self._holders.setdefault(commandId, {})
            if entry.ordinal in holders:  # recorded before, so not new
                causes.add(holders[entry.ordinal] or "")
                continue
            cause = self._clash(entry, commandId, holders)
            if cause == SAME_DEVICE:
                twice.add(commandId)
            else:
                holders[entry.ordinal] = cause or None
                kept.append(result)
            causes.add(cause)
        if causes == _NONE and len(kept) == len(entry.commands):
            return entry  # nearly always
        return _judged(replace(entry, commands=tuple(kept)), causes, twice)

    def _clash(self, entry: Entry, commandId: str, holders: dict[int, str | None]) -> str:
        if not holders:
            return ""
        other = next(ordinal for ordinal, clash in holders.items() if clash is None)
        cause = SAME_DEVICE
        if _different(self._identity(entry.ordinal), self._identity(other)):
            cause = ID_OF_OTHER_DEVICE
            self.clashes[entry.ordinal, commandId] = cause
        self.conflicts.append(Conflict(entry.ordinal, other, commandId, cause))
        return cause

    def _identity(self, ordinal: int) -> Identity:
        """All that is known of a target: as spelled first, then as told."""
        if ordinal in self._known:
            return self._known[ordinal]
        known: list[Named] = []
        for table in (target, outcome, command):
            columns = (table.c.productKey, table.c.deviceKey, table.c.assetId)
            query = select(*columns).where(table.c.run == self._run, table.c.ordinal == ordinal)
            known += self._connection.execute(query).all()
        for entry in self._entries:
            if entry.ordinal == ordinal:
                if isinstance(entry.verdict, Outcome):
                    known.append(entry.verdict.told)
                known += [result.command for result in entry.commands]
        self._known[ordinal] = fill(Identity(), *known)
        return self._known[ordinal]


def _gather(entry: Entry) -> Entry:
    """The commands of the entry and of its outcome, each once: what is cancelled stays so."""
    given = entry.commands
    told = entry.verdict.commands if isinstance(entry.verdict, Outcome) else ()
    if not given and not told:
        return entry
    results = given if told is given else (*given, *told)
    once: dict[str, CommandResult] = {}
    for result in results:
        commandId = as_text(result.command.commandId)
        known = once.get(commandId)
        if known is None or known.result != "cancelled":
            once[commandId] = _named(result, commandId)
    found = tuple(once.values())
    return entry if found == given else replace(entry, commands=found)


def _named(result: CommandResult, commandId: str) -> CommandResult:
    if result.command.commandId == commandId:
        return result
    return replace(result, command=replace(result.command, commandId=commandId))


def _judged(entry: Entry, causes: set[str], twice: set[str]) -> Entry:
    if not isinstance(entry.verdict, Outcome):
        return entry
    verdict = entry.verdict
    if twice:
        left = tuple(c for c in verdict.commands if c.command.commandId not in twice)
        verdict = replace(verdict, cause=SAME_DEVICE, commands=left)
    if ID_OF_OTHER_DEVICE in causes:
        verdict = replace(verdict, kind=OutcomeKind.ANOMALOUS, cause=ID_OF_OTHER_DEVICE)
    return replace(entry, verdict=verdict)


def _different(one: Identity, two: Identity) -> bool:
    pairs = one.productKey is not None and two.productKey is not None
    if pairs and (one.productKey, one.deviceKey) != (two.productKey, two.deviceKey):
        return True
    return None not in {one.assetId, two.assetId} and one.assetId != two.assetId
