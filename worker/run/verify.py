"""Searching again afterwards: is anything still cached that the run should have taken?

Read-only. Searches lag behind updates, so a target waits `lookup.wait` and a finding is believed
only when the last try shows it too. What was cached after the run began is counted apart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from itertools import chain

import anyio
from msgspec import Struct

from worker.clock import Clock
from worker.model import (
    UNNAMED,
    Identity,
    Listed,
    Moment,
    OutcomeKind,
    Target,
    Verified,
    spelled,
)
from worker.run.case import Case
from worker.run.course import stay
from worker.run.reconcile import Reconciler, SearchTrouble
from worker.run.stop import Switch
from worker.run.wire import Halted

#: What `verify: touched` searches again.
TOUCHED = frozenset({OutcomeKind.CANCELLED, OutcomeKind.CANCELLED_INCOMPLETE, OutcomeKind.UNKNOWN})


class Subject(Struct, frozen=True):
    """A target to search again, and what replies named so far."""

    target: Target
    told: Identity = UNNAMED


class StillCached(Struct, frozen=True):
    """Commands of a target that should be gone."""

    target: Target
    commandIds: tuple[str, ...]


class Findings(Struct):
    """What a verification came to."""

    targets: int = 0
    newer: int = 0
    still_cached: list[StillCached] = []
    unsearched: int = 0  # their searches failed
    denied: bool = False  # the gateway refuses this key a search

    def verified(self) -> Verified | None:
        """The numbers of the report; None: not verified."""
        if self.denied or self.unsearched:
            return None
        commands = sum(len(found.commandIds) for found in self.still_cached)
        return Verified(self.targets, commands, self.newer)


class Verifier:
    """Searches targets again, `concurrency` at a time."""

    def __init__(
        self,
        reconciler: Reconciler,
        switch: Switch,
        clock: Clock,
        concurrency: int,
        began: Callable[[], Moment],
    ) -> None:
        """began: when the run began, by the gateway's clock as far as it is known by now."""
        self._reconciler = reconciler
        self._switch = switch
        self._clock = clock
        self._concurrency = concurrency
        self._began = began
        self.misnamed: list[tuple[Target, Identity]] = []  # a reply named another device

    async def verify(self, subjects: AsyncIterator[Sequence[Subject]]) -> Findings | None:
        """What is still cached of these; None when the run stopped meanwhile."""
        findings = Findings()
        rules = self._reconciler.rules
        doubtful: list[Subject] = []
        if not await self._switch.sleep(rules.wait):
            return None
        async for batch in subjects:
            doubtful += await self._look(batch, findings, last=rules.tries == 1)
        for again in range(2, rules.tries + 1):
            if not doubtful or findings.denied:
                break
            if not await self._switch.sleep(rules.wait):
                return None
            doubtful = await self._look(doubtful, findings, last=again == rules.tries)
        return None if self._switch.stop else findings

    async def _look(
        self, subjects: Sequence[Subject], findings: Findings, *, last: bool
    ) -> list[Subject]:
        """Search each once; those to search again are returned."""
        again: list[Subject] = []
        devices = _by_device(subjects)
        todo = iter(devices)

        async def labour() -> None:
            for spellings in todo:  # of one device: one after another
                for subject in spellings:
                    if findings.denied:
                        return
                    try:
                        later = await self._settled(subject, findings, last=last)
                    except Halted:
                        return
                    if later is not None:
                        again.append(later)

        async with anyio.create_task_group() as group:
            for _ in range(min(self._concurrency, len(devices))):
                group.start_soon(labour)
        return again

    async def _settled(self, subject: Subject, findings: Findings, *, last: bool) -> Subject | None:
        """Search one target; what to search again when a later try may show something else."""
        target = subject.target
        case = Case(target, 0, self._clock.monotonic())
        case.told = subject.told
        search = self._reconciler.cached(case, oldest_ms=0)  # nothing stays cached for long
        cached = await stay(search, self._wait)
        if cached is SearchTrouble.DENIED:
            findings.denied = True
            return None
        if cached is SearchTrouble.OTHER_NAMES:
            self.misnamed.append((target, case.told))
            return None
        later = Subject(target, case.told)
        if isinstance(cached, SearchTrouble):
            findings.unsearched += int(last)
            return None if last else later
        asked = target.scope.commandIds if isinstance(target.scope, Listed) else None
        ours = [c for c in cached if asked is None or c.commandId in asked]
        began = self._began()
        old = [c for c in ours if not began.precedes(c.created_ms)]
        if old and not last:
            return later
        findings.targets += 1
        findings.newer += len(ours) - len(old)
        if old:
            findings.still_cached.append(StillCached(target, tuple(c.commandId for c in old)))
        return None

    async def _wait(self, moment: float) -> None:
        await self._switch.sleep(moment - self._clock.monotonic())


def _by_device(subjects: Sequence[Subject]) -> list[list[Subject]]:
    """The subjects, those of one device together as far as replies told."""
    groups: dict[tuple[str | None, ...], list[Subject]] = {}
    for subject in subjects:
        names = [name for name in _names(subject) if name in groups]
        known = {id(groups[name]): groups[name] for name in names}  # two where this one joins them
        alike = [*chain.from_iterable(known.values()), subject]
        for each in alike:
            groups.update(dict.fromkeys(_names(each), alike))
    return list({id(group): group for group in groups.values()}.values())


def _names(subject: Subject) -> set[tuple[str | None, ...]]:
    """Every name of the device: the job's, and those that replies gave it."""
    named = (spelled(subject.target.device), subject.told)
    pairs = {(each.productKey, each.deviceKey) for each in named}
    return {name for name in pairs | {(each.assetId,) for each in named} if None not in name}
