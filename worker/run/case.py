"""An open target: what was tried, and what is proven of it.

A case is the only mutable thing on the path of a target. It belongs to one worker at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from worker.model import (
    UNNAMED,
    Ambiguous,
    CancelCall,
    CancelOne,
    Command,
    CommandResult,
    Evidence,
    NotSent,
    Proof,
    Refused,
    Target,
)

OTHER_SPELLING = "other_spelling"  # cause: rows without the identity that was asked for
OTHER_NAMES = "other_names"  # cause: replies about a target named two devices


class Standing(StrEnum):
    """What one call came to."""

    __hash__ = str.__hash__  # in C; looked up for every target

    OPEN = "open"  # proven not executed, or never sent
    CANCELLED = "cancelled"
    EMPTY = "empty"  # it cancelled nothing
    INCOMPLETE = "incomplete"  # cancelled something; about the rest nothing is proven
    UNKNOWN = "unknown"
    FAILED = "failed"  # not executed, repetitions spent
    REJECTED = "rejected"
    NOT_FOUND = "not_found"
    ANOMALOUS = "anomalous"


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
        "turned_down",
    )

    def __init__(self, request: CancelCall, known: Command | None = None) -> None:
        self.request = request
        self.commandId = request.commandId if isinstance(request, CancelOne) else None
        self.known = known  # what a search told of the command
        self.standing = Standing.OPEN
        self.attempts = 0
        self.started: float | None = None  # monotonic, first attempt of this pass
        self.first_sent: float | None = None  # monotonic, first send of this pass
        self.last_sent: float | None = None  # monotonic, last send or not before
        self.first_sent_ms: int | None = None  # gateway's clock, first send in doubt
        self.last_sent_ms: int | None = None  # gateway's clock, last send
        self.tainted = False  # an attempt was ambiguous, ever
        self.in_doubt = False  # and no look-up has been made since the last attempt
        self.looked_up = False  # a look-up settled it, or showed it not executed
        self.sending = False  # a request is on its way
        self.turned_down = False  # a token of it was; the first time is no attempt
        self.spent = False  # not executed and never in doubt: a later pass may send it again
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
        "first_sent",
        "fresh",
        "names_differ",
        "pass_no",
        "recorded",
        "target",
        "told",
        "unanswered",
    )

    def __init__(self, target: Target, pass_no: int, first_sent: float | None = None) -> None:
        self.target = target
        self.pass_no = pass_no
        self.first_sent = first_sent  # monotonic, first request of any kind; None: not yet
        self.by_id = False  # all_cached by search and ids
        self.attempts = 0
        self.calls: list[Call] = []
        self.recorded: dict[str, CommandResult] = {}  # cancelled, by id
        self.fresh: list[CommandResult] = []  # of these, not yet handed to the ledger
        self.told = UNNAMED  # what replies named
        self.names_differ = False  # two of them named two devices
        self.cause: str | None = None
        self.unanswered: NotSent | Refused | Ambiguous | None = None  # to the last search
        self.discovery: Standing | None = None  # by id: what the searches came to, if not well

    def departs(self, now: float) -> None:
        """A request about the target goes out now (monotonic)."""
        if self.first_sent is None:
            self.first_sent = now

    @property
    def may_be_put_off(self) -> bool:
        """Whether a later pass may do what this one could not: all of it is proven unsent."""
        if self.discovery is not Standing.FAILED and not any(c.spent for c in self.calls):
            return False
        anomalous = any(c.standing is Standing.ANOMALOUS for c in self.calls)
        barred = self.cause in ("search_denied", "internal_error")
        return not (anomalous or self.tainted or barred)

    @property
    def tainted(self) -> bool:
        return True in [call.tainted for call in self.calls]  # asked for every target

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
        """Keep how a row of a reply names the device."""
        told = self.told.joined(command)
        if told is None:
            self.names_differ = True
        else:
            self.told = told

    def recorded_for(self, call: Call) -> frozenset[str]:
        """The ids on record that this call could have cancelled."""
        if call.commandId is None:
            return frozenset(self.recorded)
        return frozenset({call.commandId} & self.recorded.keys())
