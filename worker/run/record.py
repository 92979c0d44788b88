"""What a run leaves behind: each case's facts on their way into the ledger, and who sees them.

Facts are handed to the writer at once and told to the observer when they are durable; a target
stays known here between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from worker.ledger.entry import ID_OF_OTHER_DEVICE, Conflict, Deferral, DoubtMark, Entry
from worker.model import Ambiguous, CommandResult, Outcome, Refused, Stop, Target
from worker.run.case import Call, Case
from worker.run.stop import Switch


class Writer(Protocol):
    """Where entries go (`ledger.writer.Writer`); a plain call."""

    def put(self, entry: Entry) -> None:
        """Record it with the next group."""


class Observer(Protocol):
    """Who watches a run; plain calls that neither wait nor raise."""

    def settled(self, outcome: Outcome) -> None:
        """A target has its outcome, not durable yet."""

    def recorded(
        self, target: Target, commands: Sequence[CommandResult], outcome: Outcome | None
    ) -> None:
        """Cancelled commands, and perhaps the outcome, are durable."""

    def told(self) -> None:
        """That was all of one commit."""

    def put_off(self, target: Target, cause: str) -> None:
        """A target waits for a later pass."""

    def retried(self, case: Case, call: Call, delay: float) -> None:
        """A call will be repeated in so many seconds."""

    def throttled(self, reply: Refused | Ambiguous, seconds: float, concurrency: int) -> None:
        """Everybody waits for so long, and then so many may be in flight."""

    def resting(self, seconds: float) -> None:
        """Nothing is sent for so long: an earlier process was asked for it."""

    def broke(self, target: Target, bug: BaseException) -> None:
        """The course of a target ended with a bug of ours."""


class Recorder:
    """Turns cases into entries, and committed entries into what observers see."""

    writer: Writer  # set once it is there: it is made with `committed`

    def __init__(self, observer: Observer, switch: Switch) -> None:
        self._observer = observer
        self._switch = switch
        self._open: dict[int, Target] = {}  # of cases with something not durable yet
        self.commands = 0  # recorded as cancelled, handed over so far

    def progress(self, case: Case) -> None:
        """Keep the case's fresh commands, and its doubt if there is any."""
        doubt = _doubt(case)
        if case.fresh or doubt is not None:
            self._put(case, doubt)

    def settle(self, case: Case, outcome: Outcome) -> None:
        """The end of a case."""
        self._put(case, outcome)
        self._observer.settled(outcome)

    def settle_at_once(self, outcome: Outcome, pass_no: int) -> None:
        """The end of a target of which nothing was kept before."""
        commands = outcome.commands
        self.commands += len(commands)
        self.writer.put(Entry(outcome.target.ordinal, pass_no, commands, outcome))
        self._observer.settled(outcome)

    def replace(self, outcome: Outcome, pass_no: int) -> None:
        """A settled target ends otherwise: a record of a further pass replaces the first."""
        self.writer.put(Entry(outcome.target.ordinal, pass_no, (), outcome))

    def put_off(self, case: Case, cause: str) -> None:
        """Back to the plan: all of it is proven unsent."""
        self._put(case, Deferral(cause, case.attempts, case.told))
        self._observer.put_off(case.target, cause)

    def retried(self, case: Case, call: Call, delay: float) -> None:
        """A call will be repeated in so many seconds."""
        self._observer.retried(case, call, delay)

    def committed(self, entries: Sequence[Entry], conflicts: Sequence[Conflict]) -> None:
        """The writer made these durable; an id of another device stops the run."""
        for conflict in conflicts:
            if conflict.cause == ID_OF_OTHER_DEVICE:
                said = f"commandId {conflict.commandId} was already cancelled for another device"
                self._switch.throw(Stop("anomaly", said, count=1, of=1))
        recorded = self._observer.recorded
        for entry in entries:
            verdict = entry.verdict
            if isinstance(verdict, Outcome):
                if self._open:
                    self._open.pop(entry.ordinal, None)
                recorded(verdict.target, entry.commands, verdict)
                continue
            known = self._open.pop if isinstance(verdict, Deferral) else self._open.get
            target = known(entry.ordinal, None)
            if target is not None:
                recorded(target, entry.commands, None)
        self._observer.told()

    def _put(self, case: Case, verdict: Outcome | DoubtMark | Deferral | None) -> None:
        fresh = tuple(case.fresh)
        case.fresh.clear()
        self.commands += len(fresh)
        self._open[case.target.ordinal] = case.target
        self.writer.put(Entry(case.target.ordinal, case.pass_no, fresh, verdict))


def _doubt(case: Case) -> DoubtMark | None:
    calls = [call for call in case.calls if call.in_doubt]
    if not calls:
        return None
    return DoubtMark(
        first_sent_ms=min(call.first_sent_ms or 0 for call in calls),
        last_sent_ms=max(call.last_sent_ms or 0 for call in calls),
        attempts=case.attempts,
        cause=calls[-1].cause or "in_doubt",
    )
