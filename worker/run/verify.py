"""Searching again afterwards: is anything still cached that the run should have taken?

Read-only. Searches lag behind updates, so a target waits `lookup.wait` and a finding is believed
only when the last try shows it too. What was cached after the run began is counted apart.
A search that fails costs only its own target, and only until it is repeated at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import chain, count
from typing import Protocol

import anyio
from msgspec import Struct

from worker.clock import Clock
from worker.model import (
    UNNAMED,
    Command,
    Identity,
    Listed,
    Moment,
    OutcomeKind,
    Refused,
    Stop,
    Target,
    Verified,
    spelled,
)
from worker.run.auth import turned_down
from worker.run.case import Case
from worker.run.course import stay
from worker.run.reconcile import Reconciler, SearchTrouble
from worker.run.retry import RetryPolicy
from worker.run.stop import Switch
from worker.run.wire import Halted
from worker.run.words import in_words

#: What `verify: touched` searches again.
TOUCHED = frozenset({OutcomeKind.CANCELLED, OutcomeKind.CANCELLED_INCOMPLETE, OutcomeKind.UNKNOWN})

_REFUSED = 5  # searches refused before any was answered: this key may not search
_FAILED_IN_A_ROW = 20  # searches, over all targets: the rest waits for the next pass


class Subject(Struct, frozen=True):
    """A target to search again, and what replies named so far."""

    target: Target
    told: Identity = UNNAMED


class Subjects(Protocol):
    """All targets that a verification is for, a batch at a time; read once."""

    async def count(self) -> int:
        """How many there are in all."""

    def __aiter__(self) -> AsyncIterator[Sequence[Subject]]: ...


class StillCached(Struct, frozen=True):
    """Commands of a target that should be gone."""

    target: Target
    commandIds: tuple[str, ...]


class Findings(Struct):
    """What a verification came to."""

    unsearched: int = 0  # of its targets; all of them before it begins
    targets: int = 0  # searched
    newer: int = 0
    still_cached: list[StillCached] = []
    absent: int = 0  # of those searched: the gateway knows no such device
    why: str | None = None  # why some were not searched
    refused: Refused | None = None  # the last search that the gateway refused for good
    stop: Stop | None = None  # what ended the searching early

    def ended_by(self, stop: Stop | None) -> None:
        """It ended early, if there is a stop."""
        self.stop = stop
        if stop is not None and self.unsearched:
            self.why = f"stopped on the way ({stop.rule})"

    def verified(self) -> Verified:
        """The numbers of the report."""
        commands = sum(len(found.commandIds) for found in self.still_cached)
        return Verified(self.targets, commands, self.newer, self.unsearched)


class _Open(Struct, eq=False):
    """A target that needs a search, or another one."""

    subject: Subject
    seen: int = 0  # searches that showed something older still cached
    failed: int = 0  # searches in a row that failed, in this pass
    why: str | None = None  # the last one failed


class Verifier:
    """Searches targets again, `concurrency` at a time; one for a verification."""

    def __init__(
        self,
        reconciler: Reconciler,
        policy: RetryPolicy,
        switch: Switch,
        clock: Clock,
        concurrency: int,
        began: Callable[[], Moment],
    ) -> None:
        """began: when the run began, by the gateway's clock as far as it is known by now."""
        self._reconciler = reconciler
        self._policy = policy
        self._switch = switch
        self._clock = clock
        self._concurrency = concurrency
        self._began = began
        self._failed = self._refused = 0  # searches in a row, over all targets
        self._answered = False  # a search was
        self._given_up = 0  # targets that another search would not change
        self._reasons: Counter[str] = Counter()  # of targets that are not searched any more
        self.misnamed: list[tuple[Target, Identity]] = []  # a reply named another device

    async def verify(self, subjects: Subjects, findings: Findings) -> None:
        """Search these, in a pass over all and up to `retry.passes` over what could not be.

        What is known is in the findings, however this ends; their `unsearched` is the count of
        the subjects.
        """
        batches = aiter(subjects)
        left: list[_Open] = []
        wait = self._reconciler.rules.wait
        for _ in range(1 + self._policy.rules.passes):
            if not await self._switch.sleep(wait):
                break
            left = await self._pass(left, batches, findings)
            if findings.unsearched == self._given_up or self._is_refused:
                break
            wait = self._policy.rules.cooldown
        self._reasons.update(each.why for each in left if each.why)
        if findings.unsearched and self._reasons:
            findings.why = self._most()
        findings.ended_by(self._switch.stop)

    async def _pass(
        self, left: list[_Open], batches: AsyncIterator[Sequence[Subject]], findings: Findings
    ) -> list[_Open]:
        """Search each once, and repeat at the end what may show something else.

        What could not be searched is returned.
        """
        self._failed = 0
        for each in left:
            each.failed = 0
        left = await self._round(left, findings)
        while not self._is_stuck and (batch := await anext(batches, None)) is not None:
            left += await self._round([_Open(subject) for subject in batch], findings)
        ends = self._clock.monotonic() + self._policy.rules.elapsed
        for attempt in count(1):
            delay = self._policy.backoff(attempt)
            late = self._clock.monotonic() + delay > ends
            again = [each for each in left if self._may_repeat(each, late=late)]
            if not again or self._is_stuck:
                break
            if any(each.seen for each in again):
                delay = max(delay, self._reconciler.rules.wait)
            if not await self._switch.sleep(delay):
                break
            repeated = set(map(id, again))
            spent = [each for each in left if id(each) not in repeated]
            left = spent + await self._round(again, findings)
        return left

    def _may_repeat(self, each: _Open, *, late: bool) -> bool:
        """Whether another search in this pass may come to more."""
        if not each.failed:
            return True  # it was answered, and what it showed is not believed yet
        return not late and not self._policy.spent(each.failed)

    @property
    def _is_refused(self) -> bool:
        return self._refused >= _REFUSED

    @property
    def _is_stuck(self) -> bool:
        """Whether going on in this pass is in vain."""
        stopped = self._switch.stop is not None
        return stopped or self._is_refused or self._failed >= _FAILED_IN_A_ROW

    async def _round(self, todo: Sequence[_Open], findings: Findings) -> list[_Open]:
        """Search each once; those that are still open are returned."""
        devices = _by_device(todo)
        queue = iter(devices)
        closed: set[int] = set()

        async def labour() -> None:
            for spellings in queue:  # of one device: one after another
                for each in spellings:
                    if self._is_stuck:
                        return
                    try:
                        if await self._settled(each, findings):
                            closed.add(id(each))
                    except Halted:
                        return

        async with anyio.create_task_group() as group:
            for _ in range(min(self._concurrency, len(devices))):
                group.start_soon(labour)
        return [each for each in todo if id(each) not in closed]

    async def _settled(self, each: _Open, findings: Findings) -> bool:
        """Search one target; whether it needs no further search."""
        target = each.subject.target
        case = Case(target, 0)
        case.told = each.subject.told
        search = self._reconciler.cached(case, oldest_ms=0)  # nothing stays cached for long
        cached = await stay(search, self._wait)
        each.subject = Subject(target, case.told)
        if cached is SearchTrouble.OTHER_NAMES:
            self.misnamed.append((target, case.told))
            self._given_up += 1
            return True
        if cached is SearchTrouble.DENIED and _is_absent(case):
            findings.absent += 1
            cached = []  # what does not exist has nothing cached
        if isinstance(cached, SearchTrouble):
            return self._is_in_vain(each, case, cached, findings)
        self._answered = True
        self._failed = self._refused = each.failed = 0
        each.why = None
        return self._is_believed(each, cached, findings)

    def _is_in_vain(
        self, each: _Open, case: Case, trouble: SearchTrouble, findings: Findings
    ) -> bool:
        """A search that was not answered; whether a repetition is not worth it."""
        reply = case.unanswered
        said = trouble.value if reply is None else in_words(reply)
        if trouble is SearchTrouble.DENIED and isinstance(reply, Refused):
            if not self._answered or turned_down(reply):  # else it is about this device
                self._refused += 1
            self._given_up += 1
            findings.refused = reply
            self._reasons[f"searches were refused ({said})"] += 1
            return True
        each.why = f"searches failed ({said})"
        each.failed += 1
        if not (isinstance(reply, Refused) and reply.cause == "throttled"):  # a 429 makes all wait
            self._failed += 1
        return False

    def _is_believed(self, each: _Open, cached: Iterable[Command], findings: Findings) -> bool:
        """A search that was answered; False: a later try may show something else."""
        scope = each.subject.target.scope
        asked = scope.commandIds if isinstance(scope, Listed) else None
        ours = [c for c in cached if asked is None or c.commandId in asked]
        began = self._began()
        old = [c for c in ours if not began.precedes(c.created_ms)]
        each.seen += 1
        if old and each.seen < self._reconciler.rules.tries:
            return False
        findings.targets += 1
        findings.unsearched -= 1
        findings.newer += len(ours) - len(old)
        if old:
            ids = tuple(c.commandId for c in old)
            findings.still_cached.append(StillCached(each.subject.target, ids))
        return True

    def _most(self) -> str:
        """Why most of those that were not searched were not."""
        (most, _), *others = self._reasons.most_common(2)
        return f"{most}, and others for other reasons" if others else most

    async def _wait(self, moment: float) -> None:
        await self._switch.sleep(moment - self._clock.monotonic())


def _is_absent(case: Case) -> bool:
    return isinstance(case.unanswered, Refused) and case.unanswered.cause == "not_found"


def _by_device(todo: Sequence[_Open]) -> list[list[_Open]]:
    """What is to be searched, that of one device together as far as replies told."""
    groups: dict[tuple[str | None, ...], list[_Open]] = {}
    for each in todo:
        names = [name for name in _names(each.subject) if name in groups]
        known = {id(groups[name]): groups[name] for name in names}  # two where this one joins them
        alike = [*chain.from_iterable(known.values()), each]
        for one in alike:
            groups.update(dict.fromkeys(_names(one.subject), alike))
    return list({id(group): group for group in groups.values()}.values())


def _names(subject: Subject) -> set[tuple[str | None, ...]]:
    """Every name of the device: the job's, and those that replies gave it."""
    named = (spelled(subject.target.device), subject.told)
    pairs = {(each.productKey, each.deviceKey) for each in named}
    return {name for name in pairs | {(each.assetId,) for each in named} if None not in name}
