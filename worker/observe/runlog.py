"""What a run writes into the log: its events, their fields, and how many of them.

Apart from the log so that every event of a run stands on one page. Plain calls from the
loop, after the ledger's commit; nothing here waits or fails. Names of events are constants,
data stands in fields only, text from the gateway is cut to 512 characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from worker.clock import Clock
from worker.model import (
    UNNAMED,
    AssetId,
    Command,
    CommandResult,
    Device,
    Identity,
    Outcome,
    OutcomeKind,
    RunEnd,
    Spent,
    Stop,
    Target,
)
from worker.observe.fastlogger import LEVELS
from worker.observe.log import LogSink
from worker.observe.render import stamp
from worker.text import capped

COMMAND_CANCELLED = "command.cancelled"
TARGET_SETTLED = "target.settled"
TARGETS_SUPPRESSED = "targets.suppressed"
RUN_STARTED = "run.started"
RUN_PAUSED = "run.paused"
RUN_STOPPING = "run.stopping"
RUN_FINISHED = "run.finished"
RUN_EMPTY = "run.empty"
REQUEST_RETRIED = "request.retried"
GATEWAY_THROTTLED = "gateway.throttled"
CLOCKS_APART = "clocks.apart"
INTERNAL_ERROR = "internal.error"

IN_FULL = 100  # warnings of one code that are written in full
SUPPRESSED_EVERY = 60.0  # seconds between two lines that count the others
_CODES = 1000  # codes that are counted apart; a gateway may invent as many as it likes

_QUIET = frozenset(
    {
        OutcomeKind.NOTHING_CACHED,
        OutcomeKind.NOTHING_MATCHED,
        OutcomeKind.NOT_FOUND,
        OutcomeKind.NOT_ATTEMPTED,
    }
)


class RunLog:
    """The observer of one run that writes its events."""

    def __init__(self, sink: LogSink, clock: Clock, run_id: str, job: str, orgId: str) -> None:
        bound = {"run_id": run_id, "job": job, "orgId": orgId}
        self._clock = clock
        self._log = sink.logger.bind(**bound)
        self._record = sink.record.bind(**bound)
        self._debug = self._log.is_enabled_for(LEVELS["debug"])
        self._info = self._log.is_enabled_for(LEVELS["info"])
        self._warnings = _Warnings(clock)

    def committed(
        self,
        target: Target,
        commands: Iterable[CommandResult],
        outcome: Outcome | None,
    ) -> None:
        """What became durable of a target: `command.cancelled` first, then `target.settled`."""
        for result in commands:
            if result.result == "cancelled":
                told = UNNAMED if outcome is None else outcome.told
                self._cancelled(target, told, result)
        if outcome is not None:
            self._settled(outcome)

    def told(self) -> None:
        """All that a commit made durable is written: is it time for a line that counts?"""
        if self._warnings.due():
            self._suppressed()

    def run_started(
        self,
        *,
        targets: int,
        digest: str,
        gateway: str,
        actor: str,
        version: str,
        resumed: bool = False,
        rehearsal: str | None = None,
    ) -> None:
        """`targets` still to do; `rehearsal` is the name of the simulator's profile."""
        self._log.info(
            RUN_STARTED,
            targets=targets,
            digest=digest,
            gateway=gateway,
            actor=actor,
            version=version,
            resumed=resumed,
            rehearsal=rehearsal,
        )

    def run_paused(self, *, seconds: float, cause: str) -> None:
        """Nothing is sent for so long; `cause` is a constant such as `retry_after`."""
        self._log.warning(RUN_PAUSED, seconds=seconds, cause=cause)

    def run_stopping(self, stop: Stop) -> None:
        """No further request starts."""
        self._log.warning(
            RUN_STOPPING,
            rule=stop.rule,
            count=stop.count,
            of=stop.of,
            message=capped(stop.message),
            requestIds=[capped(text) for text in stop.request_ids[:20]],
        )

    def run_finished(self, end: RunEnd, outcomes: Mapping[OutcomeKind, int], spent: Spent) -> None:
        """The run has ended and its record is complete."""
        self._suppressed()
        self._log.info(
            RUN_FINISHED,
            exit_code=end.exit_code,
            exit_reasons=list(end.exit_reasons),
            rule=end.stop.rule if end.stop else None,
            outcomes={kind.value: outcomes.get(kind, 0) for kind in OutcomeKind},
            requests=spent.requests,
            log_dropped=end.log_dropped,
        )

    def run_empty(self) -> None:
        """The list was exhausted before it began: nothing is sent."""
        self._log.info(RUN_EMPTY)

    def request_retried(
        self,
        target: Target,
        *,
        attempt: int,
        wait: float,
        cause: str,
        http_status: int | None = None,
        code: int | None = None,
        requestId: str | None = None,
    ) -> None:
        """A request goes out again: the number of the new attempt, the wait before it in s."""
        if self._info:
            key, device, asset = _identity(target.device, UNNAMED)
            self._log.info(
                REQUEST_RETRIED,
                productKey=key,
                deviceKey=device,
                assetId=asset,
                attempt=attempt,
                wait_s=wait,
                cause=cause,
                http_status=http_status,
                code=code,
                requestId=capped(requestId),
            )

    def internal_error(self, target: Target, kind: str) -> None:
        """A bug of ours ended the course of a target; `kind` is the exception's class."""
        key, device, asset = _identity(target.device, UNNAMED)
        self._log.error(INTERNAL_ERROR, productKey=key, deviceKey=device, assetId=asset, kind=kind)

    def gateway_throttled(
        self,
        *,
        http_status: int,
        wait: float,
        concurrency: int,
        retry_after: float | None = None,
        requestId: str | None = None,
    ) -> None:
        """The gateway asked for less: the pause in s, the concurrency from now on."""
        self._log.warning(
            GATEWAY_THROTTLED,
            http_status=http_status,
            wait_s=wait,
            concurrency=concurrency,
            retry_after=retry_after,
            requestId=capped(requestId),
        )

    def clocks_apart(self, *, seconds: int) -> None:
        """Local clock, Date and createTime differ by so much: no command counts as new."""
        self._log.warning(CLOCKS_APART, seconds=seconds)

    # ------------------------------------------------------------ one line each

    def _cancelled(self, target: Target, told: Identity, result: CommandResult) -> None:
        command = result.command
        key, device, asset = _named(command, *_identity(target.device, told))
        other = command.orgId is not None and command.orgId != target.orgId
        elsewhere = {"orgId": capped(command.orgId)} if other else {}
        self._record.info(
            COMMAND_CANCELLED,
            productKey=capped(key),
            deviceKey=capped(device),
            assetId=capped(asset),
            commandId=capped(command.commandId),
            requestId=capped(result.requestId),
            name=capped(command.name),
            type=command.type,
            created_at=None if command.created_ms is None else stamp(command.created_ms),
            attempt=result.attempt,
            evidence=result.evidence,
            **elsewhere,
        )

    def _settled(self, outcome: Outcome) -> None:
        if outcome.kind in _QUIET:
            write, wanted = self._log.debug, self._debug
        elif outcome.kind is OutcomeKind.CANCELLED:
            write, wanted = self._log.info, self._info
        else:
            write, wanted = self._log.warning, self._warnings.in_full(outcome)
        if not wanted:
            return
        key, device, asset = _identity(outcome.target.device, outcome.told)
        write(
            TARGET_SETTLED,
            productKey=key,
            deviceKey=device,
            assetId=asset,
            outcome=outcome.kind,
            commandIds=[
                capped(c.command.commandId) for c in outcome.commands if c.result == "cancelled"
            ],
            attempts=outcome.attempts,
            http_status=outcome.http_status,
            code=outcome.code,
            requestId=capped(outcome.requestId),
            duration_ms=outcome.duration_ms,
            cause=outcome.cause,
        )

    def _suppressed(self) -> None:
        counts = self._warnings.take()
        if counts:
            self._log.warning(TARGETS_SUPPRESSED, targets=sum(counts.values()), codes=counts)


class _Warnings:
    """Which warnings are written in full, and how many of each code were not."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, int] = {}
        self._left_out: dict[str, int] = {}
        self._next = 0.0  # monotonic: when the next line that counts may be written

    def in_full(self, outcome: Outcome) -> bool:
        """Count one; False when it is one too many of its code."""
        code = str(outcome.code) if outcome.code else outcome.cause or outcome.kind.value
        if code not in self._seen and len(self._seen) >= _CODES:
            code = "other"
        seen = self._seen[code] = self._seen.get(code, 0) + 1
        if seen <= IN_FULL:
            return True
        if not self._left_out:
            self._next = max(self._next, self._clock.monotonic())
        self._left_out[code] = self._left_out.get(code, 0) + 1
        return False

    def due(self) -> bool:
        return bool(self._left_out) and self._clock.monotonic() >= self._next

    def take(self) -> dict[str, int]:
        """What was left out since the last time, by code."""
        counts, self._left_out = self._left_out, {}
        self._next = self._clock.monotonic() + SUPPRESSED_EVERY
        return counts


def _identity(device: Device, told: Identity) -> tuple[str | None, str | None, str | None]:
    """productKey, deviceKey, assetId: as the job gave them, the others as replies told them."""
    if isinstance(device, AssetId):
        return told.productKey, told.deviceKey, device.assetId
    return device.productKey, device.deviceKey, told.assetId


def _named(
    command: Command, key: str | None, device: str | None, asset: str | None
) -> tuple[str | None, str | None, str | None]:
    """What is known of a command's device; a command of another device stands for itself."""
    told = (command.productKey, command.deviceKey, command.assetId)
    known = (key, device, asset)
    if told == known:
        return known
    if any(None not in pair and pair[0] != pair[1] for pair in zip(told, known, strict=True)):
        return told
    return key or told[0], device or told[1], asset or told[2]
