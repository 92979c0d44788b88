"""The observer of a run: its log, and on a terminal its progress bar."""

from __future__ import annotations

from collections.abc import Sequence

from worker.model import (
    AGREE_MS,
    MOST_APART_MS,
    Ambiguous,
    CommandResult,
    Outcome,
    Refused,
    Stop,
    Target,
)
from worker.observe.progress import Progress
from worker.observe.runlog import RunLog
from worker.run.case import Call, Case


def clocks_in_words(apart_ms: int) -> str | None:
    """What a difference of the clocks means for a run; None while they agree."""
    if apart_ms <= AGREE_MS:
        return None
    seconds = apart_ms // 1000
    sizes = ((7200, 3600, "h"), (120, 60, "min"), (0, 1, "s"))
    size, unit = next((size, unit) for least, size, unit in sizes if seconds >= least)
    by = f"up to {-(-seconds // size)} {unit}"
    local = ""
    if apart_ms >= MOST_APART_MS:
        by, local = "26 h or more", "; this machine's clock is ignored"
    return (
        f"clocks (this machine, Date, createTime) differ by {by}{local}: no command counts as new"
    )


class Watch:
    """Passes on what happens; see `run.record.Observer`."""

    def __init__(self, log: RunLog, progress: Progress) -> None:
        self._log = log
        self._progress = progress

    def settled(self, outcome: Outcome) -> None:
        self._progress.settled(outcome)

    def recorded(
        self, target: Target, commands: Sequence[CommandResult], outcome: Outcome | None
    ) -> None:
        self._log.committed(target, commands, outcome)

    def told(self) -> None:
        self._log.told()

    def put_off(self, target: Target, cause: str) -> None:
        """Nothing to show: a later pass tells."""

    def retried(self, case: Case, call: Call, delay: float) -> None:
        last = call.last if isinstance(call.last, Refused | Ambiguous) else None
        self._log.request_retried(
            case.target,
            attempt=call.attempts + 1,
            wait=round(delay, 3),
            cause=call.cause or "unknown",
            http_status=last.status if last else None,
            code=last.code if last else None,
            requestId=last.requestId if last else None,
        )

    def throttled(self, reply: Refused | Ambiguous, seconds: float, concurrency: int) -> None:
        self._log.gateway_throttled(
            http_status=reply.status or 0,
            wait=round(seconds, 3),
            concurrency=concurrency,
            retry_after=reply.retry_after,
            requestId=reply.requestId,
        )
        if reply.retry_after is not None:
            self._log.run_paused(seconds=seconds, cause="retry_after")
        if seconds >= 1.0:
            self._progress.note(f"paused {seconds:.0f} s by the gateway")

    def resting(self, seconds: float) -> None:
        self._log.run_paused(seconds=round(seconds, 3), cause="retry_after_kept")
        self._progress.note(f"paused {seconds:.0f} s: the gateway asked an earlier run to wait")

    def stopping(self, stop: Stop) -> None:
        """The run's switch was thrown."""
        self._log.run_stopping(stop)
        self._progress.note(f"stopping: {stop.rule}")

    def clocks_apart(self, apart_ms: int) -> None:
        """The gateway's clocks and this machine's differ more than was known."""
        self._log.clocks_apart(seconds=apart_ms // 1000)
        self._progress.note(clocks_in_words(apart_ms) or "")

    def broke(self, target: Target, bug: BaseException) -> None:
        self._log.internal_error(target, type(bug).__name__)
