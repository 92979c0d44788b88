"""What a person reads when a run has ended, perhaps at two in the morning.

Apart from the document because it answers other questions: did it work, what is uncertain,
and what to type next. The first line is the verdict. Text that came from outside is shown
with its control characters escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

from worker.model import OutcomeKind, RunState
from worker.report.summary import Summary
from worker.text import escaped

_MEANING = {
    OutcomeKind.CANCELLED: "",
    OutcomeKind.NOTHING_CACHED: "no command was cached",
    OutcomeKind.NOTHING_MATCHED: "a search found nothing to cancel",
    OutcomeKind.TOO_LATE: "the listed commands were no longer cached",
    OutcomeKind.CANCELLED_INCOMPLETE: "some are certain, more may have been cancelled",
    OutcomeKind.UNKNOWN: "may have been executed",
    OutcomeKind.ANOMALOUS: "the answer named another device or command; kept as received",
    OutcomeKind.NOT_FOUND: "no such device; nothing executed",
    OutcomeKind.REJECTED: "refused for good; nothing executed",
    OutcomeKind.FAILED: "retries spent; nothing executed",
    OutcomeKind.NOT_ATTEMPTED: "not sent; nothing executed",
}
_SIGNALS = {130: "SIGINT (Ctrl-C)", 143: "SIGTERM"}
_RESUME = (OutcomeKind.UNKNOWN, OutcomeKind.CANCELLED_INCOMPLETE, OutcomeKind.NOT_ATTEMPTED)
_RETRY = (OutcomeKind.FAILED, OutcomeKind.REJECTED, OutcomeKind.NOT_FOUND)


def text(
    summary: Summary,
    *,
    state: RunState = "finished",
    notes: Sequence[str] = (),
    unverified: str | None = None,
) -> str:
    """Some lines for people, each ended by a newline; `notes` are shown before the exit code.

    `unverified` says why there is no verification, or why some targets were not searched.

    In a rehearsal every line begins with `REHEARSAL `.
    """
    lines = [_verdict(summary, state), *_head(summary), *_outcomes(summary)]
    lines += [*_figures(summary, unverified or _no_reason(state)), *notes]
    if summary.rehearsal is None:
        lines += _next(summary)
    lines += _exit(summary)
    mark = "REHEARSAL " if summary.rehearsal else ""
    return "".join(f"{mark}{escaped(line)}\n" for line in lines)


def _verdict(summary: Summary, state: RunState) -> str:
    code, stop = summary.exit_code, summary.stop
    why = f"{stop.rule}: {stop.message}" if stop else ""
    if state == "planned":
        return "PLANNED: nothing was sent yet"
    if state == "running":
        return "RUNNING: the figures are of this moment"
    if state == "interrupted" or code is None:
        return "INTERRUPTED: the run ended without a word; what it may have touched is unknown"
    if code == 6:
        return f"THE RECORD IS INCOMPLETE: {why or 'it could not be made durable'}"
    if code == 5:
        return f"STOPPED FOR SAFETY: {why}"
    if code == 1:
        return "INTERNAL ERROR: " + "; ".join(summary.exit_reasons)
    if code == 7:
        return "REFUSED: nothing was cancelled"
    if code > 128:
        return f"STOPPED BY {_SIGNALS.get(code, f'SIGNAL {code - 128}')}"
    if code == 8:
        return f"OUT OF TIME: {why}"
    if code == 4:
        return "DONE, BUT UNCERTAIN: " + "; ".join(summary.exit_reasons)
    if code == 3:
        return "DONE, BUT NOT ALL WELL: " + "; ".join(summary.exit_reasons)
    return "DONE" + (f": {why}" if stop else "")


def _head(summary: Summary) -> list[str]:
    lines = [
        f"run       {summary.run_id} of job {summary.job} by {summary.actor}",
        f"where     orgId {summary.orgId} at {summary.gateway}",
    ]
    if summary.reason:
        lines.append(f"reason    {summary.reason}")
    if summary.rehearsal:
        told = summary.rehearsal
        line = f"rehearsal profile {told.profile}, seed {told.seed}: nothing real was touched"
        if told.truth_matches is not None:
            agrees = "agrees" if told.truth_matches else "DIFFERS"
            line += f"; the report {agrees} with the simulator"
        lines.append(line)
        lines += [f"          {difference}" for difference in told.differences]
    return lines


def _outcomes(summary: Summary) -> list[str]:
    counted = [(kind, count(summary, kind)) for kind in OutcomeKind if count(summary, kind)]
    width = len(str(summary.targets))
    return [
        f"targets   {summary.targets}",
        *(
            f"  {number:>{width}}  {kind.value:<20}  {_MEANING[kind]}".rstrip()
            for kind, number in counted
        ),
    ]


def count(summary: Summary, kind: OutcomeKind) -> int:
    """How many targets ended so."""
    number: int = getattr(summary.outcomes, kind.value)
    return number


def _no_reason(state: RunState) -> str:
    """Why there is no verification of a run that kept no reason."""
    if state in ("finished", "stopped"):
        return "the version that ran it kept no reason"
    return "the run was interrupted" if state == "interrupted" else "the run has not ended"


def _verified(summary: Summary, why: str) -> str:
    found = summary.verified
    if found is None or (found.unsearched and not found.targets):
        return f"verified  not verified: {why}"
    if not found.targets:
        return "verified  there was no target to search again"
    line = (
        f"verified  {found.targets} targets searched again: {found.still_cached} older "
        f"commands still cached, {found.newer} newer"
    )
    return f"{line}; {found.unsearched} not searched: {why}" if found.unsearched else line


def _figures(summary: Summary, unverified: str) -> list[str]:
    asked = summary.requests
    least = "" if asked.complete else "at least "
    lines = [
        f"commands  {summary.commands} cancelled",
        f"requests  {least}{asked.cancel} cancel ({asked.retried} repeated), {asked.search} search",
    ]
    if summary.duration_s is not None:
        done = summary.targets - summary.outcomes.not_attempted
        rate = f", {done / summary.duration_s:.1f} targets/s" if summary.duration_s else ""
        lines.append(f"time      {least}{summary.duration_s:.1f} s{rate}")
    lines.append(_verified(summary, unverified))
    if summary.log_dropped:
        lines.append(f"log       {summary.log_dropped} lines lost; the ledger has all")
    lines += [f"report    {path}  sha256 {digest}" for path, digest in summary.reports.items()]
    return lines


def _next(summary: Summary) -> list[str]:
    lines = []
    if any(count(summary, kind) for kind in _RESUME):
        lines.append(f"next      cancel-worker resume {summary.run_id}")
    again = [kind.value for kind in _RETRY if count(summary, kind)]
    if again:
        lines.append(
            f"next      cancel-worker resume {summary.run_id} --retry {','.join(again)}"
            "  (once the cause is gone)"
        )
    if summary.outcomes.anomalous:
        lines.append(
            f"next      cancel-worker report {summary.run_id} --format ndjson"
            "  (see what the gateway answered)"
        )
    found = summary.verified
    if found and (found.still_cached or found.unsearched):
        lines.append(f"next      cancel-worker verify {summary.run_id}")
    return lines


def _exit(summary: Summary) -> list[str]:
    if summary.exit_code is None:
        return []
    why = "; ".join(summary.exit_reasons)
    return [f"exit code {summary.exit_code}" + (f": {why}" if why else "")]
