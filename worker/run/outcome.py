"""Which outcome follows from what a case holds: pure functions.

`verdict` is for a case whose calls are all done, `as_it_stands` for one that the run's end cut
short, `of_answer` for the usual target, of which nothing has to be kept.
"""

from __future__ import annotations

from worker.model import (
    UNNAMED,
    AllCached,
    Answered,
    Command,
    CommandResult,
    Evidence,
    Identity,
    Listed,
    NotSent,
    Outcome,
    OutcomeKind,
    Proof,
    Refused,
    Result,
    Target,
)
from worker.run.case import OTHER_NAMES, Call, Case, Standing

_WORST_FIRST = (
    (Standing.ANOMALOUS, OutcomeKind.ANOMALOUS),
    (Standing.INCOMPLETE, OutcomeKind.CANCELLED_INCOMPLETE),
    (Standing.UNKNOWN, OutcomeKind.UNKNOWN),
    (Standing.FAILED, OutcomeKind.FAILED),
    (Standing.REJECTED, OutcomeKind.REJECTED),
    (Standing.NOT_FOUND, OutcomeKind.NOT_FOUND),
)
_RESULTS: dict[Standing, Result] = {
    Standing.EMPTY: "not_cached",
    Standing.UNKNOWN: "unknown",
    Standing.FAILED: "failed",
    Standing.REJECTED: "rejected",
    Standing.NOT_FOUND: "rejected",
}


def verdict(case: Case, now: float) -> Outcome:
    """The outcome of a case whose calls are all done, or of which no more will be asked."""
    done = Standing.CANCELLED if case.recorded else Standing.EMPTY
    if len(case.calls) == 1 and case.calls[0].standing is done and case.discovery is None:
        return _outcome(case, _good(case), now, case.calls[0])  # nearly every target
    for call in case.calls:
        if call.in_doubt and call.standing is Standing.OPEN:  # nobody may call that a good end
            call.standing = Standing.UNKNOWN
    standings = [call.standing for call in case.calls]
    if case.discovery is not None:
        standings.append(case.discovery)
    for standing, kind in _WORST_FIRST:
        if standing in standings:
            in_part = case.recorded and standing is not Standing.ANOMALOUS
            ends = OutcomeKind.CANCELLED_INCOMPLETE if in_part else kind
            return _outcome(case, ends, now, _first(case, standing))
    return _outcome(case, _good(case), now, _first(case, done))


def of_answer(target: Target, answered: Answered, sent: float, now: float) -> Outcome | None:
    """What `verdict` says of a target whose only call was answered so, at a fraction of the price.

    None where there is more to it than commands that were cancelled, or none that was cached.
    """
    if answered.anomaly is not None or answered.warnings or not isinstance(target.scope, AllCached):
        return None
    if len({command.commandId for command in answered.commands}) < len(answered.commands):
        return None
    kind = OutcomeKind.NOTHING_CACHED
    results: list[CommandResult] = []
    told = UNNAMED
    if answered.commands:
        kind = OutcomeKind.CANCELLED
    for command in answered.commands:
        results.append(CommandResult(command, "cancelled", "response", answered.requestId, 1))
        if (joined := told.joined(command)) is None:
            return None  # it names two devices
        told = joined
    return Outcome(
        target,
        kind,
        tuple(results),
        told,
        None,
        1,
        False,
        "response",
        200,
        0,
        None,
        answered.requestId,
        round((now - sent) * 1000),
    )


def misnamed(target: Target, told: Identity) -> Outcome:
    """What becomes of a settled target when a later reply names another device for it."""
    return Outcome(target, OutcomeKind.ANOMALOUS, told=told, cause=OTHER_NAMES)


def _good(case: Case) -> OutcomeKind:
    """The outcome when every call came to an answer."""
    if case.recorded:
        return OutcomeKind.CANCELLED
    if isinstance(case.target.scope, Listed):
        return OutcomeKind.TOO_LATE
    return OutcomeKind.NOTHING_MATCHED if case.by_id else OutcomeKind.NOTHING_CACHED


def _first(case: Case, standing: Standing) -> Call | None:
    """The call that explains the outcome."""
    return next((call for call in case.calls if call.standing is standing), None)


def as_it_stands(case: Case, now: float, cause: str) -> Outcome | None:
    """The outcome of a case that the run's end cut short; None: not attempted.

    cause says why, for what stays open: aborted, signal, deadline, window.
    """
    for call in case.calls:
        if call.in_doubt and call.standing in (Standing.OPEN, Standing.EMPTY):
            call.standing = Standing.UNKNOWN
            call.cause = call.cause or cause
    unsent = any(call.standing is Standing.OPEN for call in case.calls) or not case.calls
    unsent = unsent or case.by_id
    unsure = any(c.standing in (Standing.UNKNOWN, Standing.ANOMALOUS) for c in case.calls)
    if not unsent or unsure:
        return verdict(case, now)
    if case.recorded:
        for call in case.calls:
            if call.standing is Standing.OPEN:
                call.cause = cause
        kind = OutcomeKind.CANCELLED_INCOMPLETE
        return _outcome(case, kind, now, _first(case, Standing.OPEN))
    return None


def _outcome(case: Case, kind: OutcomeKind, now: float, call: Call | None) -> Outcome:
    """The outcome as explained by `call`, or by no call of its own."""
    status, code, message, requestId = _said(None if call is None else call.last)
    return Outcome(
        target=case.target,
        kind=kind,
        commands=_results(case),
        told=case.told,
        cause=case.cause or (None if call is None else call.cause),
        attempts=case.attempts,
        tainted=case.tainted,
        evidence=_proof(case, call),
        http_status=status,
        code=code,
        message=message,
        requestId=requestId,
        duration_ms=0 if case.first_sent is None else round((now - case.first_sent) * 1000),
    )


def _said(last: Evidence | None) -> tuple[int | None, int | None, str | None, str | None]:
    """Status, code, message and requestId of the last reply."""
    if isinstance(last, Answered):
        return 200, 0, None, last.requestId
    if isinstance(last, NotSent):
        return None, None, last.message, None
    return (None,) * 4 if last is None else (last.status, last.code, last.message, last.requestId)


def _results(case: Case) -> tuple[CommandResult, ...]:
    """Everything recorded, and what became of each other id that was asked for."""
    results = list(case.recorded.values())
    for call in case.calls:
        if call.commandId is None or call.commandId in case.recorded:
            continue
        if (result := _RESULTS.get(call.standing)) is not None:
            known = call.known or Command(call.commandId)
            state = call.state if call.state is not None else known.state
            told = Command(
                commandId=known.commandId,
                created_ms=known.created_ms,
                type=known.type,
                name=known.name,
                tslIdentifier=known.tslIdentifier,
                state=state,
            )
            requestId = _said(call.last)[3]
            results.append(CommandResult(told, result, _told(call), requestId, call.attempts))
    return tuple(results)


def _proof(case: Case, call: Call | None) -> Proof | None:
    if case.recorded:
        searched = any(found.evidence == "search" for found in case.recorded.values())
        return "search" if searched else "response"
    if call is None:
        return "search" if case.by_id else None
    return _told(call)


def _told(call: Call) -> Proof | None:
    if call.standing is Standing.UNKNOWN:
        return None
    if call.looked_up:
        return "search"
    return "response" if isinstance(call.last, Answered | Refused) else None
