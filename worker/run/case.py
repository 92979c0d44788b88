"""An open target: what was tried, what is proven, and which outcome follows from it.

A case is the only mutable thing on the path of a target. It belongs to one worker at a time, and
`verdict` and `as_it_stands` are pure functions of what it holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from worker.model import (
    Ambiguous,
    Answered,
    AssetId,
    CancelCall,
    CancelOne,
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


class Standing(StrEnum):
    """What one call came to."""

    OPEN = "open"  # proven not executed, or never sent
    CANCELLED = "cancelled"
    EMPTY = "empty"  # it cancelled nothing
    INCOMPLETE = "incomplete"  # cancelled something; about the rest nothing is proven
    UNKNOWN = "unknown"
    FAILED = "failed"  # not executed, repetitions spent
    REJECTED = "rejected"
    NOT_FOUND = "not_found"
    ANOMALOUS = "anomalous"


_UNRESOLVED = (Standing.UNKNOWN, Standing.FAILED, Standing.REJECTED, Standing.NOT_FOUND)
_RESULTS: dict[Standing, Result] = {
    Standing.EMPTY: "not_cached",
    Standing.UNKNOWN: "unknown",
    Standing.FAILED: "failed",
    Standing.REJECTED: "rejected",
    Standing.NOT_FOUND: "rejected",
}


class Call:
    """One cancel call of a target and its attempts in this pass."""

    __slots__ = (
        "attempts",
        "cause",
        "commandId",
        "first_sent",
        "first_sent_ms",
        "in_doubt",
        "known",
        "last",
        "last_sent",
        "last_sent_ms",
        "looked_up",
        "request",
        "sending",
        "spent",
        "standing",
        "started",
        "state",
        "tainted",
    )

    def __init__(self, request: CancelCall, known: Command | None = None) -> None:
        self.request = request
        self.commandId = request.commandId if isinstance(request, CancelOne) else None
        self.known = known  # what a search told of the command
        self.standing = Standing.OPEN
        self.attempts = 0
        self.started = 0.0  # monotonic, first attempt of this pass
        self.first_sent: float | None = None  # monotonic, first send of this pass
        self.last_sent: float | None = None  # monotonic, last send or not before
        self.first_sent_ms: int | None = None  # gateway's clock, first send in doubt
        self.last_sent_ms: int | None = None  # gateway's clock, last send
        self.tainted = False  # an attempt was ambiguous, ever
        self.in_doubt = False  # and no look-up has been made since the last attempt
        self.looked_up = False  # a look-up settled it, or showed it not executed
        self.sending = False  # a request is on its way
        self.spent = False  # failed, but never in doubt: a later pass may send it again
        self.last: Evidence | None = None
        self.cause: str | None = None
        self.state: int | None = None  # of the command, where a search told it

    def sent(self, at: float, at_ms: int) -> None:
        """It went out at this monotonic moment, that of the gateway's clock."""
        if self.first_sent is None:
            self.first_sent = at
        self.last_sent = at
        self.first_sent_ms = min(at_ms, self.first_sent_ms or at_ms)
        self.last_sent_ms = max(at_ms, self.last_sent_ms or at_ms)

    def doubt(self, first_sent_ms: int, last_sent_ms: int, until: float) -> None:
        """An earlier run or process may have executed it, until this monotonic moment."""
        self.tainted = self.in_doubt = True
        self.last_sent = until
        self.first_sent_ms = min(first_sent_ms, self.first_sent_ms or first_sent_ms)
        self.last_sent_ms = max(last_sent_ms, self.last_sent_ms or last_sent_ms)


class Case:
    """A target between its claim and its outcome."""

    __slots__ = (
        "attempts",
        "by_id",
        "calls",
        "cause",
        "discovery",
        "fresh",
        "identity",
        "opened",
        "pass_no",
        "recorded",
        "target",
    )

    def __init__(self, target: Target, pass_no: int, opened: float) -> None:
        self.target = target
        self.pass_no = pass_no
        self.opened = opened  # monotonic
        self.by_id = False  # all_cached by search and ids
        self.attempts = 0
        self.calls: list[Call] = []
        self.recorded: dict[str, CommandResult] = {}  # cancelled, by id
        self.fresh: list[CommandResult] = []  # of these, not yet handed to the ledger
        self.identity = _spelled(target)
        self.cause: str | None = None
        self.discovery: Standing | None = None  # by id: what the searches came to, if not well

    @property
    def may_be_put_off(self) -> bool:
        """Whether a later pass may do what this one could not: all of it is proven unsent."""
        failed = any(c.spent for c in self.calls) or self.discovery is Standing.FAILED
        anomalous = any(c.standing is Standing.ANOMALOUS for c in self.calls)
        barred = anomalous or self.tainted or self.cause in ("search_denied", "internal_error")
        return failed and not barred

    @property
    def tainted(self) -> bool:
        return any(call.tainted for call in self.calls)

    def give_up_broken(self) -> None:
        """A bug of ours ended the course: what was sent is unknown, the rest failed."""
        for call in self.calls:
            if call.standing is Standing.OPEN:
                unknown = call.sending or call.in_doubt
                call.standing = Standing.UNKNOWN if unknown else Standing.FAILED
                call.cause = "internal_error"
        if self.by_id or not self.calls:
            self.discovery, self.cause = Standing.FAILED, "internal_error"

    def record(
        self, call: Call, commands: Iterable[Command], evidence: Proof, requestId: str | None
    ) -> int:
        """Keep commands as cancelled, each once; how many were new."""
        before = len(self.fresh)
        for command in commands:
            self.meet(command)
            if command.commandId not in self.recorded:
                result = CommandResult(command, "cancelled", evidence, requestId, call.attempts)
                self.recorded[command.commandId] = result
                self.fresh.append(result)
        return len(self.fresh) - before

    def meet(self, command: Command) -> None:
        """Learn from a reply who the device is."""
        known = self.identity
        if known.assetId is None or known.deviceKey is None:
            self.identity = known.completed_by(command)

    def recorded_for(self, call: Call) -> frozenset[str]:
        """The ids on record that this call could have cancelled."""
        if call.commandId is None:
            return frozenset(self.recorded)
        return frozenset({call.commandId} & self.recorded.keys())


def verdict(case: Case, now: float) -> Outcome:
    """The outcome of a case whose calls are all done, or of which no more will be asked."""
    standings = [call.standing for call in case.calls]
    if case.discovery is not None:
        standings.append(case.discovery)
    if Standing.ANOMALOUS in standings:
        return _outcome(case, OutcomeKind.ANOMALOUS, now, Standing.ANOMALOUS)
    if Standing.INCOMPLETE in standings:
        return _outcome(case, OutcomeKind.CANCELLED_INCOMPLETE, now, Standing.INCOMPLETE)
    for unresolved in _UNRESOLVED:
        if unresolved in standings:
            kind = OutcomeKind(unresolved.value)
            if case.recorded:
                kind = OutcomeKind.CANCELLED_INCOMPLETE
            return _outcome(case, kind, now, unresolved)
    if case.recorded:
        return _outcome(case, OutcomeKind.CANCELLED, now, Standing.CANCELLED)
    if isinstance(case.target.scope, Listed):
        return _outcome(case, OutcomeKind.TOO_LATE, now, Standing.EMPTY)
    nothing = OutcomeKind.NOTHING_MATCHED if case.by_id else OutcomeKind.NOTHING_CACHED
    return _outcome(case, nothing, now, Standing.EMPTY)


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
        return _outcome(case, OutcomeKind.CANCELLED_INCOMPLETE, now, Standing.OPEN)
    return None


def _outcome(case: Case, kind: OutcomeKind, now: float, because: Standing) -> Outcome:
    call = next((c for c in case.calls if c.standing is because), None)
    last = call.last if call else None
    return Outcome(
        target=case.target,
        kind=kind,
        commands=_results(case),
        identity=case.identity,
        cause=case.cause or (call.cause if call else None),
        attempts=case.attempts,
        tainted=case.tainted,
        evidence=_proof(case, call),
        http_status=_status(last),
        code=_code(last),
        message=None if last is None or isinstance(last, Answered) else last.message,
        requestId=None if last is None or isinstance(last, NotSent) else last.requestId,
        duration_ms=round((now - case.opened) * 1000),
    )


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
            last = call.last
            requestId = None if last is None or isinstance(last, NotSent) else last.requestId
            results.append(CommandResult(told, result, _told(call), requestId, call.attempts))
    return tuple(results)


def _proof(case: Case, call: Call | None) -> Proof | None:
    if any(found.evidence == "search" for found in case.recorded.values()):
        return "search"
    if case.recorded or call is None:
        return "response" if case.recorded else ("search" if case.by_id else None)
    return _told(call)


def _told(call: Call) -> Proof | None:
    if call.standing is Standing.UNKNOWN:
        return None
    if call.looked_up:
        return "search"
    return "response" if isinstance(call.last, Answered | Refused) else None


def _status(last: Evidence | None) -> int | None:
    match last:
        case Answered():
            return 200
        case Refused(status=status) | Ambiguous(status=status):
            return status
        case _:
            return None


def _code(last: Evidence | None) -> int | None:
    match last:
        case Answered():
            return 0
        case Refused(code=code) | Ambiguous(code=code):
            return code
        case _:
            return None


def _spelled(target: Target) -> Identity:
    """Who the device is, as the job says."""
    device = target.device
    if isinstance(device, AssetId):
        return Identity(assetId=device.assetId)
    return Identity(device.productKey, device.deviceKey)
