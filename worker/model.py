"""The words of the trade: what every layer says to the others, frozen.

Nothing here does anything. Identity fields keep the gateway's own spelling (`orgId`,
`deviceKey`, `commandId`); all else is snake_case. A duration is a float of seconds unless its
name ends in `_ms`; a moment named `*_at` or `*_ms` is Unix time in milliseconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, Protocol

from msgspec import Struct


class Secret:
    """A value that must not be read by accident: `reveal()` is the only way to it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


# ---------------------------------------------------------------- what to cancel


class AssetId(Struct, frozen=True, gc=False):
    """A device by the platform's own id."""

    assetId: str


class DeviceKey(Struct, frozen=True, gc=False):
    """A device by product and key."""

    productKey: str
    deviceKey: str


Device = AssetId | DeviceKey


class AllCached(Struct, frozen=True, gc=False):
    """Every cached command of the device."""


class Listed(Struct, frozen=True, gc=False):
    """Exactly these commands, in this order; never empty."""

    commandIds: tuple[str, ...]


Scope = AllCached | Listed


class Target(Struct, frozen=True, gc=False):
    """One device of a frozen plan and what of it is to be cancelled."""

    ordinal: int  # 0, 1, 2 … in the order of the plan
    device: Device
    orgId: str
    scope: Scope
    source: str  # file:line that named it first


class CancelAll(Struct, frozen=True, gc=False):
    """The call that empties a device's cache. A type of its own: a lost id cannot become this."""

    device: Device
    orgId: str


class CancelOne(Struct, frozen=True, gc=False):
    """The call that cancels one command."""

    device: Device
    orgId: str
    commandId: str


CancelCall = CancelAll | CancelOne


# ---------------------------------------------------------------- what the gateway said


class Command(Struct, frozen=True, gc=False):
    """A command as the gateway described it; a field it left out is None."""

    commandId: str
    orgId: str | None = None
    productKey: str | None = None
    deviceKey: str | None = None
    assetId: str | None = None
    created_ms: int | None = None  # createTime, the gateway's clock
    type: int | None = None  # 1 measurement point setting, 2 service invocation
    name: str | None = None  # tslIdentifier, else commandName.defaultValue
    tslIdentifier: str | None = None
    state: int | None = None  # 1 created … 7 response timed out
    timeout: int | None = None  # s
    pendingTtl: int | None = None  # s
    inputData: bytes | None = None  # JSON as received; never in a log


class NotSent(Struct, frozen=True):
    """Proven: not one byte of the request went out."""

    cause: str  # constant: refused, dns, connect_timeout, tls, proxy, no_token, …
    retryable: bool = True
    rule: str | None = None  # the safety rule that stops the run: tls, no_token, auth
    message: str | None = None  # for people


class Refused(Struct, frozen=True):
    """Proven: read and turned down before anything was executed."""

    status: int
    code: int | None
    cause: str  # constant: bad_request, forbidden, not_found, throttled, token, wrong_path, …
    transient: bool = False  # it may be sent again
    retry_after: float | None = None  # seconds; inf for what nobody waits for
    message: str | None = None  # the gateway's msg, at most 512 characters
    requestId: str | None = None
    fresh_tokens: int = 0  # so many in a row were turned down, this one too, and no success between


class Answered(Struct, frozen=True, gc=False):
    """Complete, strictly valid and about this device."""

    commands: tuple[Command, ...]
    requestId: str | None
    anomaly: str | None = None  # other_device, other_command, malformed_id: the contract is broken
    warnings: tuple[str, ...] = ()  # identity_missing, numeric_id, over_50, repeated_id


class Ambiguous(Struct, frozen=True):
    """All else: it may have been executed."""

    cause: str  # constant: disconnected, request_timeout, truncated, http_503, code_99500, …
    status: int | None = None
    code: int | None = None
    partial: tuple[Command, ...] = ()  # complete structs of a body that broke off
    retry_after: float | None = None
    message: str | None = None
    requestId: str | None = None
    rule: str | None = None  # redirect


Evidence = NotSent | Refused | Answered | Ambiguous


AGREE_MS: Final = 2_000  # clocks that differ by no more are taken for one
MOST_APART_MS: Final = 26 * 3600 * 1000  # of a difference that counts; docs/faults.md, row 96


class Moment(Struct, frozen=True):
    """A moment by the gateway's clock, and how far ages may be told by it.

    Date headers, createTime and the local clock may come from three clocks.
    """

    earliest_ms: int  # it read no less then, Unix ms; 0: not known
    latest_ms: int  # and no more
    apart_ms: int = AGREE_MS  # the greatest difference of the three that the run saw, 2 s to 26 h

    def precedes(self, created_ms: int | None) -> bool:
        """Whether a command with this createTime is certainly younger than the moment.

        Never where the clocks differ: then no command is known to be new.
        """
        agree = self.apart_ms <= AGREE_MS
        return agree and created_ms is not None and created_ms > self.latest_ms + AGREE_MS


class Page(Struct, frozen=True):
    """One page of a command search, newest first."""

    commands: tuple[Command, ...]
    total: int  # of all pages, as the gateway counted
    requestId: str | None = None


SearchReply = Page | NotSent | Refused | Ambiguous


# ---------------------------------------------------------------- what became of it


class OutcomeKind(StrEnum):
    """Each target ends in exactly one of these (docs/job-format.md has the promises)."""

    __hash__ = str.__hash__  # in C; looked up for every target

    CANCELLED = "cancelled"
    NOTHING_CACHED = "nothing_cached"
    NOTHING_MATCHED = "nothing_matched"
    TOO_LATE = "too_late"
    CANCELLED_INCOMPLETE = "cancelled_incomplete"
    UNKNOWN = "unknown"
    ANOMALOUS = "anomalous"
    NOT_FOUND = "not_found"
    REJECTED = "rejected"
    FAILED = "failed"
    NOT_ATTEMPTED = "not_attempted"


Result = Literal["cancelled", "not_cached", "rejected", "failed", "unknown"]
Proof = Literal["response", "search"]


class CommandResult(Struct, frozen=True, gc=False):
    """One command of one target and what became of it."""

    command: Command
    result: Result
    evidence: Proof | None  # None where no reply told it
    requestId: str | None
    attempt: int  # which attempt of its call told it, 1 …


class Named(Protocol):
    """Whatever says of a device who it is."""

    @property
    def productKey(self) -> str | None: ...
    @property
    def deviceKey(self) -> str | None: ...
    @property
    def assetId(self) -> str | None: ...


class Identity(Struct, frozen=True, gc=False):
    """All that is known of who a device is."""

    productKey: str | None = None
    deviceKey: str | None = None
    assetId: str | None = None

    def completed_by(self, named: Named) -> Identity:
        """What is missing, filled in from names that do not contradict these."""
        return self.joined(named) or self

    def joined(self, named: Named) -> Identity | None:
        """Both together; None when they name two devices.

        The two keys come together or not at all: one of them names no device.
        """
        pair, other = (self.productKey, self.deviceKey), (named.productKey, named.deviceKey)
        if None not in pair and None not in other and pair != other:
            return None
        if None not in (self.assetId, named.assetId) and self.assetId != named.assetId:
            return None
        if None in pair and None not in other:
            pair = other
        return Identity(*pair, self.assetId or named.assetId)


UNNAMED = Identity()  # replies named no device


def spelled(device: Device) -> Identity:
    """A device as the plan names it."""
    if isinstance(device, AssetId):
        return Identity(assetId=device.assetId)
    return Identity(device.productKey, device.deviceKey)


class Outcome(Struct, frozen=True, gc=False):
    """What became of one target: the record from the call to the report."""

    target: Target
    kind: OutcomeKind
    commands: tuple[CommandResult, ...] = ()
    told: Identity = UNNAMED  # what replies named; never used to send
    cause: str | None = None
    attempts: int = 0  # cancel calls sent or tried, over all calls of the target
    tainted: bool = False  # an attempt was ambiguous
    evidence: Proof | None = None
    http_status: int | None = None
    code: int | None = None
    message: str | None = None
    requestId: str | None = None
    duration_ms: int = 0


class Stop(Struct, frozen=True):
    """Why a run ended before its list did: the first reason wins."""

    rule: str  # auth, no_token, tls, …, signal, window, deadline, limit (interface: stop.rule)
    message: str
    count: int = 0
    of: int = 0
    request_ids: tuple[str, ...] = ()


# ---------------------------------------------------------------- what is kept of a run


class Requests(Struct, frozen=True):
    """How many requests of a run went to the connect service."""

    cancel: int = 0
    search: int = 0
    retried: int = 0  # of the cancels: repeated attempts


class Spent(Struct, frozen=True):
    """What a run has used, over all of its starts."""

    requests: Requests = Requests()
    active_ms: int = 0  # between start and end
    complete: bool = True  # False: a start was killed, and its last second is not counted

    def plus(self, requests: Requests, active_ms: int) -> Spent:
        """With what one more start has used."""
        before = self.requests
        summed = Requests(
            before.cancel + requests.cancel,
            before.search + requests.search,
            before.retried + requests.retried,
        )
        return Spent(summed, self.active_ms + active_ms, self.complete)


class Verified(Struct, frozen=True):
    """What searching again afterwards showed."""

    targets: int  # searched
    still_cached: int  # commands older than the run that are still cached
    newer: int  # commands cached since
    unsearched: int = 0  # targets whose searches failed or were refused, or that were not reached


class Rehearsal(Struct, frozen=True):
    """How a rehearsal was set up and whether its report agreed with the simulator."""

    profile: str
    seed: int
    truth_matches: bool | None = None
    differences: tuple[str, ...] = ()


#: stopped: it ended with work left.
RunState = Literal["planned", "running", "finished", "stopped", "interrupted"]


class RunEnd(Struct, frozen=True):
    """How a run ended."""

    finished_ms: int
    exit_code: int
    exit_reasons: tuple[str, ...] = ()
    stop: Stop | None = None
    verified: Verified | None = None
    unverified: str | None = None  # why there is no verification, or some were not searched
    log_dropped: int = 0
    reports: dict[str, str] = {}  # path -> sha256 of the written file


class RunRecord(Struct, frozen=True):
    """The head of a run as the ledger keeps it."""

    run_id: str
    job: str
    reason: str | None
    actor: str  # --actor, CI's user variable or user@host
    orgId: str
    gateway: str  # name and URL
    scope: str  # all_cached | listed
    digest: str  # sha256 of the frozen list
    version: str  # of cancel-worker
    planned_ms: int
    targets: int
    settings: bytes  # JSON: all that a resume needs, without secrets
    state: RunState = "planned"
    started_ms: int | None = None  # of the last start; the gateway sees nothing before the first
    first_started_ms: int | None = None
    rehearsal: Rehearsal | None = None
    end: RunEnd | None = None
    clock_apart_ms: int = 0  # the greatest difference of clocks that the run saw
    spent: Spent = Spent()


class ReportRow(Struct, frozen=True):
    """One target of a run as reports show it, in the order of the plan."""

    ordinal: int
    orgId: str
    productKey: str | None
    deviceKey: str | None
    assetId: str | None
    outcome: OutcomeKind
    cause: str | None
    attempts: int
    evidence: Proof | None
    http_status: int | None
    code: int | None
    message: str | None
    requestId: str | None
    duration_ms: int | None
    source: str
    scope: Scope
    commands: tuple[CommandResult, ...] = ()
    told: Identity = UNNAMED  # what replies named; productKey, deviceKey, assetId are the job's

    @property
    def commandIds(self) -> tuple[str, ...]:
        """The commands recorded as cancelled."""
        return tuple(c.command.commandId for c in self.commands if c.result == "cancelled")
