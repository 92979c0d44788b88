"""The look-up: what became of a call that may have been executed.

Two searches, cached commands first, then cancelled ones: a command that moves between the two is
then seen in the second and never missed by both. `compare` concludes, purely; `Reconciler` asks.
Found in state 2 means found cancelled, not proven cancelled by us: evidence `search`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import StrEnum

from msgspec import Struct

from worker.clock import Clock
from worker.model import (
    Ambiguous,
    Command,
    Moment,
    NotSent,
    Page,
    Refused,
    SearchReply,
    Target,
)
from worker.run.auth import turned_down
from worker.run.case import OTHER_NAMES, OTHER_SPELLING, Call, Case, Standing
from worker.run.course import aside
from worker.run.retry import RetryPolicy
from worker.run.wire import Gateway, Wire

#: How long before the first send a command may have been cached: its longest life and a margin.
LOOK_BACK_MS = (48 * 60 + 10) * 60 * 1000

_CACHED, _CANCELLED = 1, 2  # states of a command
_MOST_PAGES = 200  # of one search

#: Of the ids given, those that an earlier run or another target of this run has on record.
RecordedElsewhere = Callable[[Target, list[str]], Awaitable[set[str]]]


class LookupRules(Struct, frozen=True):
    """The `lookup` section of the configuration."""

    wait: float = 2.0  # seconds before each try: searches lag behind updates
    tries: int = 2


class SearchTrouble(StrEnum):
    """Why a search settles nothing."""

    FAILED = "search_failed"
    DENIED = "search_denied"
    OTHER_SPELLING = OTHER_SPELLING
    OTHER_NAMES = OTHER_NAMES


_SETTLES_NOTHING_LATER = (SearchTrouble.DENIED, SearchTrouble.OTHER_NAMES)


class Finding(StrEnum):
    """What one try showed of a call that may have been executed."""

    DONE = "done"  # nothing of it is cached any more
    NOT_DONE = "not_done"  # still cached, and nothing is cancelled
    PARTLY = "partly"  # some of each


class Sight(Struct, frozen=True):
    """What one try of a look-up saw."""

    finding: Finding
    found: tuple[Command, ...]  # newly found in state 2: cancelled, by us or by somebody
    states: Mapping[str, int]  # the state each command was seen in
    newer: bool = False  # commands were cached after the last send


def compare(
    cached: Iterable[Command],
    cancelled: Iterable[Command],
    *,
    asked: str | None,
    recorded: frozenset[str],
    elsewhere: frozenset[str],
    last_sent: Moment,
) -> Sight:
    """Conclude from the commands seen in state 1 and then in state 2.

    asked is the id of a call by id, None for a cancel-all; recorded holds the ids that this target
    has on record, elsewhere those that another target or an earlier run has; commands younger
    than last_sent do not count.
    """
    cached = [c for c in cached if asked is None or c.commandId == asked]
    cancelled = [c for c in cancelled if asked is None or c.commandId == asked]
    gone = {c.commandId for c in cancelled} | recorded
    still = [c for c in cached if c.commandId not in gone]
    left = [c for c in still if asked is not None or not last_sent.precedes(c.created_ms)]
    found = tuple(c for c in cancelled if c.commandId not in recorded | elsewhere)
    if not left:
        finding = Finding.DONE
    elif found or recorded:
        finding = Finding.PARTLY
    else:
        finding = Finding.NOT_DONE
    states = {c.commandId: 1 for c in cached} | {c.commandId: 2 for c in cancelled}
    return Sight(finding, found, states, newer=len(left) < len(still))


class Reconciler:
    """Looks calls up; waiting for the search to catch up holds no worker."""

    def __init__(
        self,
        wire: Wire,
        gateway: Gateway,
        rules: LookupRules,
        policy: RetryPolicy,
        clock: Clock,
        recorded_elsewhere: RecordedElsewhere,
    ) -> None:
        self._wire = wire
        self._gateway = gateway
        self.rules = rules
        self._policy = policy
        self._clock = clock
        self._recorded_elsewhere = recorded_elsewhere

    async def look_up(self, case: Case, call: Call) -> None:
        """Settle a call in doubt by what searches show, or leave it open: not executed.

        Still cached concludes only from the last try, since the search may lag.
        """
        seen: Sight | SearchTrouble = SearchTrouble.FAILED
        for _ in range(self.rules.tries):
            await aside(self._clock.monotonic() + self.rules.wait)
            seen = await self._sight(case, call)
            if seen in _SETTLES_NOTHING_LATER:
                break
            if isinstance(seen, Sight):
                case.record(call, seen.found, "search", None)
                if seen.finding is Finding.DONE:
                    break
        _conclude(case, call, seen)

    async def search(self, case: Case, state: int, oldest_ms: int) -> list[Command] | SearchTrouble:
        """All commands of a target's device in a state, back to oldest_ms (gateway's clock)."""
        found: dict[str, Command] = {}
        page_no, read, total = 1, 0, 0

        def departs() -> None:
            case.departs(self._clock.monotonic())

        for _ in range(_MOST_PAGES):
            page = await self.page(case.target, state, page_no, departs)
            if not isinstance(page, Page):
                case.unanswered = page
                return _trouble(page)
            if page.total < total:  # rows moved up meanwhile: one may be on no page
                found.clear()
                page_no, read, total = 1, 0, 0
                continue
            for command in page.commands:
                case.meet(command)
                if command.created_ms is None or command.created_ms >= oldest_ms:
                    found[command.commandId] = command
            if case.names_differ:
                self._wire.names_differ(page.requestId)
                return SearchTrouble.OTHER_NAMES
            read += len(page.commands)
            oldest = page.commands[-1].created_ms if page.commands else None
            if not page.commands or read >= page.total or (oldest or oldest_ms) < oldest_ms:
                return list(found.values())
            page_no, total = page_no + 1, page.total
        return SearchTrouble.FAILED

    async def page(
        self, target: Target, state: int, page: int, departs: Callable[[], None] | None = None
    ) -> SearchReply:
        """One page (1, 2 …); while its token is turned down it is asked for again, as a cancel is.

        The first time at once, then as an attempt, with its wait. `departs` is called the moment
        before a request goes out.
        """
        reply = await self._wire.search(
            target.device, target.orgId, state, page, refused_before=False, departs=departs
        )
        attempts = 0
        while turned_down(reply) and not self._policy.spent(attempts):
            if attempts:
                await aside(self._clock.monotonic() + self._policy.backoff(attempts))
            reply = await self._wire.search(
                target.device, target.orgId, state, page, refused_before=True, departs=departs
            )
            attempts += 1
        return reply

    async def cached(self, case: Case, oldest_ms: int) -> list[Command] | SearchTrouble:
        """What is cached for a target's device now."""
        return await self.search(case, _CACHED, oldest_ms)

    async def _sight(self, case: Case, call: Call) -> Sight | SearchTrouble:
        cached = await self.search(case, _CACHED, self._oldest(call))
        if isinstance(cached, SearchTrouble):
            return cached
        cancelled = await self.search(case, _CANCELLED, self._oldest(call))  # by a clock just told
        if isinstance(cancelled, SearchTrouble):
            return cancelled
        ids = [c.commandId for c in cancelled if c.commandId not in case.recorded]
        elsewhere = await self._recorded_elsewhere(case.target, ids) if ids else set()
        return compare(
            cached,
            cancelled,
            asked=call.commandId,
            recorded=case.recorded_for(call),
            elsewhere=frozenset(elsewhere),
            last_sent=self._moment(call.last_sent),
        )

    def _oldest(self, call: Call) -> int:
        return oldest_ms(self._moment(call.first_sent), call.first_sent_ms)

    def _moment(self, at: float | None) -> Moment:
        """A monotonic moment, None: now."""
        return self._gateway.moment(self._clock.monotonic() if at is None else at)


def is_denied(reply: SearchReply) -> bool:
    """Whether the gateway refuses this search for good."""
    return isinstance(reply, Refused) and (not reply.transient or turned_down(reply))


def oldest_ms(first_sent: Moment, known_ms: int | None = None) -> int:
    """How far back commands matter to a call that was first sent then, Unix ms.

    known_ms is what an earlier pass or process noted of it, gateway's clock; it may have been read
    while the local clock was wrong, so that it never moves the end towards now.
    """
    sent_ms = min(first_sent.earliest_ms, known_ms or first_sent.earliest_ms)
    return sent_ms - LOOK_BACK_MS - first_sent.apart_ms


def _trouble(reply: NotSent | Refused | Ambiguous) -> SearchTrouble:
    if is_denied(reply):
        return SearchTrouble.DENIED
    other = isinstance(reply, Ambiguous) and reply.cause == SearchTrouble.OTHER_SPELLING
    return SearchTrouble.OTHER_SPELLING if other else SearchTrouble.FAILED


def _conclude(case: Case, call: Call, seen: Sight | SearchTrouble) -> None:
    recorded = bool(case.recorded_for(call))
    if isinstance(seen, SearchTrouble):
        call.standing = Standing.INCOMPLETE if recorded else Standing.UNKNOWN
        if seen is SearchTrouble.OTHER_NAMES:
            call.standing = Standing.ANOMALOUS
        call.cause = seen.value
        return
    call.in_doubt = False
    call.looked_up = True
    if call.commandId is not None:
        call.state = seen.states.get(call.commandId)
    if seen.finding is Finding.DONE:
        call.standing = Standing.CANCELLED if recorded else Standing.EMPTY
        if seen.newer and not recorded:
            call.cause = "newer_cached"
