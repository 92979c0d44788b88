"""The course of one target, from its first call to its last, told step by step.

It sends through the wire, keeps in the case what is proven, asks `retry` whether to repeat and
`reconcile` what became of a call in doubt. Nothing here knows of batches, counts or other targets.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from itertools import count
from typing import Any, Protocol

from worker.clock import Clock
from worker.model import (
    Ambiguous,
    Answered,
    CancelAll,
    CancelCall,
    CancelOne,
    Command,
    Evidence,
    Listed,
    NotSent,
    Refused,
    Target,
)
from worker.run.auth import turned_down
from worker.run.case import OTHER_NAMES, Call, Case, Standing
from worker.run.course import aside
from worker.run.reconcile import Reconciler, SearchTrouble, oldest_ms
from worker.run.retry import Budget, RetryPolicy
from worker.run.wire import Gateway, Halted, Landed, Wire


class Sink(Protocol):
    """Who is told of a case on its way; plain calls."""

    def progress(self, case: Case) -> None:
        """Keep the case's fresh commands, and its doubt if there is any."""

    def retried(self, case: Case, call: Call, delay: float) -> None:
        """A call will be repeated in so many seconds."""


class Executor:
    """Runs courses; one for the whole run, with no state of its own."""

    def __init__(
        self,
        wire: Wire,
        gateway: Gateway,
        reconciler: Reconciler,
        policy: RetryPolicy,
        budget: Budget,
        search_budget: Budget,
        clock: Clock,
        sink: Sink,
        *,
        by_id: bool = False,
    ) -> None:
        """by_id: this gateway cancels single commands only, so all_cached searches first."""
        self._wire = wire
        self._gateway = gateway
        self._reconciler = reconciler
        self._policy = policy
        self._budget = budget
        self._clock = clock
        self._sink = sink
        self._search_budget = search_budget
        self._by_id = by_id

    def launch(self, target: Target, now: float, landed: Landed) -> bool:
        """Send the one call of a target without a past now, if nothing has to be waited for.

        False: nothing was sent, its course has to. Else `landed` hears what the call proved.
        """
        call = self._only_call(target)
        if call is None or not self._wire.launch(call, now, landed):
            return False
        self._budget.called()
        return True

    def landed(self, case: Case, evidence: Evidence | None, sent: float) -> bool:
        """Keep what a launched call proved; True: the case is done, else its course goes on.

        None: its token was turned down, which is no attempt.
        """
        call = self._only(case)
        call.started = sent  # and it has earned its share of the budget
        if evidence is None:
            call.turned_down = True
            return False
        self._keep(case, call, evidence, sent)
        if call.standing is Standing.OPEN and not call.in_doubt and self._is_final(call):
            self._settle_spent(case, call)
        return call.standing is not Standing.OPEN

    def broke(self, case: Case) -> None:
        """A bug of ours met a launched call: it may have been sent."""
        self._only(case).sending = True

    def _only_call(self, target: Target) -> CancelCall | None:
        """The call that does for a target, where one does and is known before any search."""
        if isinstance(target.scope, Listed):
            ids = target.scope.commandIds
            return CancelOne(target.device, target.orgId, ids[0]) if len(ids) == 1 else None
        return None if self._by_id else CancelAll(target.device, target.orgId)

    def _only(self, case: Case) -> Call:
        """The only call of a case; made, if it is not there yet."""
        if not case.calls and (request := self._only_call(case.target)) is not None:
            case.calls.append(Call(request))
        return case.calls[0]

    def course(self, case: Case) -> Coroutine[Any, Any, None]:
        """All that is done for one target, or is left to do of it.

        Halted when the run stops on the way.
        """
        target = case.target
        if isinstance(target.scope, Listed):
            return self._listed(case, target.scope)
        if self._by_id:
            return self._by_search(case, self._reconciler.rules.tries)
        return self._call(case, self._only(case))

    async def _listed(self, case: Case, scope: Listed) -> None:
        doubtful = {call.commandId for call in case.calls if call.in_doubt}
        left = [i for i in scope.commandIds if i not in case.recorded or i in doubtful]
        await self._calls(case, _by_id(case, map(Command, left)))

    async def _calls(self, case: Case, calls: list[Call]) -> None:
        for call in calls:
            if case.attempts:
                self._sink.progress(case)
                await aside(self._clock.monotonic())  # so that what is cancelled is counted
            await self._call(case, call)
            if call.standing in _ENDS:
                break

    async def _call(self, case: Case, call: Call) -> None:
        """Send one call until something is proven of it, or repetitions are spent."""
        if call.in_doubt:
            await self._reconciler.look_up(case, call)
        while call.standing is Standing.OPEN:
            if call.attempts:
                delay = self._delay(call)
                if delay is None:
                    await self._give_up(case, call)
                    return
                self._sink.retried(case, call, delay)
                await aside(self._clock.monotonic() + delay)
            await self._attempt(case, call)
            if call.in_doubt and isinstance(call.last, Answered | Ambiguous):
                await self._reconciler.look_up(case, call)

    async def _attempt(self, case: Case, call: Call) -> None:
        """Send once and keep what the reply proves."""
        if call.started is None:
            call.started = self._clock.monotonic()
            self._budget.called()
        sent = call.started

        def departs() -> None:
            nonlocal sent
            sent, call.sending = self._clock.monotonic(), True
            case.departs(sent)

        try:
            evidence = await self._send(call, departs)
            if turned_down(evidence) and not call.turned_down:  # the first time is no attempt
                call.turned_down = True
                evidence = await self._send(call, departs)
        except Halted:  # not before a reply proved that nothing was executed
            call.sending = False
            raise
        self._keep(case, call, evidence, sent)

    def _send(self, call: Call, departs: Callable[[], None]) -> Coroutine[Any, Any, Evidence]:
        return self._wire.cancel(
            call.request,
            again=call.attempts > 0,
            refused_before=call.turned_down,
            departs=departs,
        )

    def _keep(self, case: Case, call: Call, evidence: Evidence, sent: float) -> None:
        """Keep what an attempt that went out at this moment proved."""
        call.attempts += 1
        case.attempts += 1
        if isinstance(evidence, Ambiguous) or (call.tainted and isinstance(evidence, Answered)):
            call.sent(sent, self._gateway.moment(sent).latest_ms)
        _learn(case, call, evidence)
        if case.names_differ:
            call.standing, call.cause, call.in_doubt = Standing.ANOMALOUS, OTHER_NAMES, False
            self._wire.names_differ(getattr(evidence, "requestId", None))
        call.sending = False
        if call.in_doubt:
            self._sink.progress(case)

    def _delay(self, call: Call) -> float | None:
        """Seconds before the next attempt of a call proven not executed; None: give up."""
        if self._is_final(call) or call.started is None:
            return None
        last = call.last
        late = not self._policy.may_repeat_cancel_all(call.first_sent)
        if call.tainted and call.commandId is None and late:
            return None
        delay = self._policy.delay(call.attempts, call.started, self._budget)
        # after a 429 the gate makes everybody wait
        throttled = isinstance(last, Refused) and last.cause == "throttled"
        return 0.0 if delay is not None and throttled else delay

    async def _give_up(self, case: Case, call: Call) -> None:
        """Repetitions are spent: settle by what is proven, after a last look if there is doubt."""
        if call.in_doubt:
            await self._reconciler.look_up(case, call)
        if call.standing is Standing.OPEN:
            self._settle_spent(case, call)

    def _is_final(self, call: Call) -> bool:
        """Whether the last attempt was the last, whatever time and budget are left."""
        last = call.last
        if isinstance(last, NotSent) and not last.retryable:
            return True
        if isinstance(last, Refused) and not last.transient:
            return True
        return self._policy.spent(call.attempts)

    def _settle_spent(self, case: Case, call: Call) -> None:
        """Settle a call that is not repeated any more, and of which no doubt is left."""
        last = call.last
        if case.recorded_for(call):
            call.standing = Standing.INCOMPLETE
        elif isinstance(last, Refused) and not last.transient:
            call.standing = _refusal(last)
        elif last is not None and turned_down(last):
            call.standing = Standing.REJECTED
            call.spent = not (call.tainted or self._policy.spent(call.attempts))
        else:
            call.standing = Standing.FAILED
            call.spent = not call.tainted and (not isinstance(last, NotSent) or last.retryable)

    async def _by_search(self, case: Case, tries: int) -> None:
        """Cancel what a search shows, until nothing older than the first search is cached."""
        case.by_id = True
        if not await self._settle_doubt(case):
            return
        first = self._clock.monotonic()
        for again in range(tries + 1):
            if again:
                await aside(self._clock.monotonic() + self._reconciler.rules.wait)
            cached = await self._discover(case, first)
            if isinstance(cached, SearchTrouble):
                case.discovery = _undiscovered(case, cached, first=again == 0)
                return
            left = [c for c in cached if c.commandId not in case.recorded]
            if not left:
                return
            if again == tries:
                case.discovery = Standing.INCOMPLETE if case.recorded else Standing.UNKNOWN
                case.cause = "still_cached"
                return
            await self._calls(case, _by_id(case, left))
            if any(call.standing not in _DONE for call in case.calls):
                return

    async def _settle_doubt(self, case: Case) -> bool:
        """Look up what an earlier pass or run left in doubt; False: that was all there is to do."""
        for doubtful in case.calls:
            await self._reconciler.look_up(case, doubtful)
            if doubtful.standing is not Standing.OPEN:
                return False
        case.calls.clear()
        return True

    async def _discover(self, case: Case, first: float) -> list[Command] | SearchTrouble:
        """What was cached at the first search and still is, oldest first; searched until it works.

        A search executes nothing, so it is repeated whatever went wrong, except when refused.
        first is the monotonic moment of the first search.
        """
        started = self._clock.monotonic()
        self._search_budget.called()
        oldest = oldest_ms(self._gateway.moment(first))
        for attempt in count(1):
            cached = await self._reconciler.cached(case, oldest)
            if not isinstance(cached, SearchTrouble) or cached in _FINAL:
                break
            delay = self._policy.delay(attempt, started, self._search_budget)
            if delay is None:
                break
            await aside(self._clock.monotonic() + delay)
        if isinstance(cached, SearchTrouble):
            return cached
        began = self._gateway.moment(first)  # a reply has shown the gateway's clock by now
        older = [c for c in cached if not began.precedes(c.created_ms)]
        return sorted(older, key=lambda c: (c.created_ms or 0, c.commandId))


_ENDS = (Standing.ANOMALOUS, Standing.NOT_FOUND)  # other calls would be about the same device
_FINAL = (SearchTrouble.DENIED, SearchTrouble.OTHER_NAMES)  # not worth another search
_DONE = (Standing.CANCELLED, Standing.EMPTY)  # a fresh search may show that there is more to do


def _by_id(case: Case, commands: Iterable[Command]) -> list[Call]:
    """The calls that cancel these commands; one that cancelled nothing before is made anew."""
    made = {call.commandId: call for call in case.calls}
    calls = []
    for command in commands:
        call = made.get(command.commandId)
        if call is None or call.standing is Standing.EMPTY:
            if call is not None:
                case.calls.remove(call)
            request = CancelOne(case.target.device, case.target.orgId, command.commandId)
            call = Call(request, command)
            case.calls.append(call)
        calls.append(call)
    return calls


def _learn(case: Case, call: Call, evidence: Evidence) -> None:
    """What one attempt proved, in the words of the case."""
    call.last = evidence
    match evidence:
        case Answered():
            case.record(call, evidence.commands, "response", evidence.requestId)
            call.cause = evidence.anomaly or next(iter(evidence.warnings), None)
            if evidence.anomaly is not None:
                call.standing = Standing.ANOMALOUS
            elif not call.tainted:
                call.standing = Standing.CANCELLED if evidence.commands else Standing.EMPTY
        case NotSent():
            call.cause = evidence.cause
        case Refused():
            if evidence.cause != "throttled" or call.cause is None:
                call.cause = evidence.cause  # throttled only when nothing else was said
            if not evidence.transient and not call.tainted:
                call.standing = _refusal(evidence)
        case Ambiguous():
            call.cause = evidence.cause
            call.tainted = True
            case.record(call, evidence.partial, "response", evidence.requestId)
    call.in_doubt = call.tainted and call.standing is Standing.OPEN
    call.looked_up &= not call.in_doubt


def _refusal(refused: Refused) -> Standing:
    return Standing.NOT_FOUND if refused.cause == "not_found" else Standing.REJECTED


def _undiscovered(case: Case, trouble: SearchTrouble, *, first: bool) -> Standing:
    """A target whose commands could not be searched: before the first call nothing is executed."""
    case.cause = trouble.value
    if trouble is SearchTrouble.OTHER_NAMES:
        return Standing.ANOMALOUS
    if first:
        return Standing.FAILED
    return Standing.INCOMPLETE if case.recorded else Standing.UNKNOWN
