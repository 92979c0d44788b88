"""A gateway in memory that keeps the truth and misbehaves as a script says.

It holds the commands of each device and what became of them, executes a cancel whether or not its
reply arrives, and shows searches the world as it was `lag` seconds ago. Each request takes the
next `Fate` of its device's script; a device without one is answered well.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from worker.clock import Clock
from worker.model import (
    AGREE_MS,
    Ambiguous,
    Answered,
    CancelCall,
    CancelOne,
    Command,
    Device,
    Evidence,
    Identity,
    Moment,
    NotSent,
    Page,
    Refused,
    SearchReply,
)

PAGE = 50
LATENCY = 0.05  # seconds a request takes


class Fate(Struct, frozen=True):
    """What becomes of one request: whether it is executed, and what is said of it."""

    executed: bool = True
    said: NotSent | Refused | Ambiguous | None = None  # None: the truth
    anomaly: str | None = None  # the answer breaks the contract in this way
    partial: int | None = None  # the body broke off behind so many structs
    takes: float = LATENCY  # seconds; it is executed half-way
    bug: bool = False  # a bug of ours while the request is out


# ------------------------------------------------------------ the vocabulary of scripts

OK = Fate()
BUG = Fate(bug=True)
TOKEN_GONE = Fate(executed=False, said=NotSent("no_token"))
STALE_TOKEN = Fate(executed=False, said=Refused(401, None, "token", transient=True))


def fresh_token(in_a_row: int) -> Fate:
    """A 401 for the so many-th fresh token in a row."""
    said = Refused(401, None, "token", transient=True, message="no", fresh_tokens=in_a_row)
    return Fate(executed=False, said=said)


REDIRECT = Fate(executed=False, said=Ambiguous("redirect", 302, rule="redirect"))
TLS = Fate(executed=False, said=NotSent("tls", retryable=False, rule="tls", message="bad name"))


def slow(seconds: float) -> Fate:
    """Answered well, after so long."""
    return Fate(takes=seconds)


def lost(cause: str = "disconnected", *, takes: float = LATENCY) -> Fate:
    """Executed, and the reply is lost."""
    return Fate(said=Ambiguous(cause), takes=takes)


def swallowed(cause: str = "disconnected", *, takes: float = LATENCY) -> Fate:
    """Went out and was never executed; nobody says so."""
    return Fate(executed=False, said=Ambiguous(cause), takes=takes)


def unavailable(*, executed: bool = False, retry_after: float | None = None) -> Fate:
    """503, from before or behind the execution."""
    return Fate(executed=executed, said=Ambiguous("http_503", 503, retry_after=retry_after))


def unsent(cause: str = "refused") -> Fate:
    """Not one byte went out."""
    return Fate(executed=False, said=NotSent(cause))


def throttled(retry_after: float | None = None) -> Fate:
    return Fate(
        executed=False,
        said=Refused(429, None, "throttled", transient=True, retry_after=retry_after),
    )


def refused(status: int, code: int | None, cause: str, *, transient: bool = False) -> Fate:
    return Fate(
        executed=False,
        said=Refused(status, code, cause, transient=transient, message="no", requestId="r-no"),
    )


NOT_FOUND = refused(200, 99404, "not_found")
BAD_REQUEST = refused(200, 99400, "bad_request")
FORBIDDEN = refused(403, None, "forbidden")
WRONG_PATH = refused(404, None, "wrong_path")


def foreign(anomaly: str = "other_device") -> Fate:
    return Fate(anomaly=anomaly)


def partial(structs: int, *, executed: bool = True) -> Fate:
    return Fate(executed=executed, partial=structs)


# ------------------------------------------------------------ the truth


class Cached(Struct, eq=False):
    """A command and what became of it; moments are monotonic seconds."""

    commandId: str
    created_ms: int  # the gateway's clock
    shown_from: float
    cancelled_at: float | None = None
    gone_at: float | None = None  # sent to the device, or expired
    ours: bool = False  # cancelled by a request of the run

    def state(self, at: float) -> int | None:
        """What a search shows at that moment; None: not there yet."""
        if at < self.shown_from:
            return None
        if self.cancelled_at is not None and self.cancelled_at <= at:
            return 2
        return 5 if self.gone_at is not None and self.gone_at <= at else 1


class Sent(Struct, frozen=True):
    """One request as the gateway's side saw it."""

    kind: Literal["cancel", "search"]
    device: Device
    at: float
    commandId: str | None = None
    state: int | None = None


class FakeGateway:
    """`run.wire.Gateway`, with a truth to check against."""

    def __init__(self, clock: Clock, *, lag: float = 0.0, skew_ms: int = 0) -> None:
        self._clock = clock
        self._lag = lag
        self._skew_ms = skew_ms  # the gateway's clock is ahead of ours
        self._has_seen_date = False
        self.apart_ms = AGREE_MS  # the greatest difference of clocks that replies showed
        self.devices: dict[Device, list[Cached]] = defaultdict(list)
        self.cancels: dict[Device, list[Fate]] = {}  # scripts, consumed from the front
        self.searches: dict[Device, list[Fate]] = {}
        self.tokens: list[NotSent] = []  # what the next authorizations come to
        self.every_cancel: Callable[[], Fate] = lambda: OK  # behind a script's end
        self.every_search: Callable[[], Fate] = lambda: OK
        self.names: dict[Device, list[Identity]] = {}  # of the next rows about a device
        self.log: list[Sent] = []
        self.fetched = 0  # tokens
        self._stale = False
        self.in_flight = 0
        self.most_in_flight = 0
        self._busy: Counter[Device] = Counter()
        self.most_per_device = 0
        self._requests = 0
        self._launched: set[asyncio.Task[Evidence]] = set()

    # ---- setting the scene

    def seed(self, device: Device, *ids: str, age: float = 3600.0) -> None:
        """Commands that have been cached for so many seconds, the first the oldest."""
        for index, commandId in enumerate(ids):
            created = self._now_ms() - round(age * 1000) + index
            self.devices[device].append(Cached(commandId, created, -1e9))

    def cache_later(self, device: Device, commandId: str, seconds: float) -> None:
        """Somebody caches a command in so many seconds."""

        def cache() -> None:
            now = self._clock.monotonic()
            self.devices[device].append(Cached(commandId, self._now_ms(), now))

        asyncio.get_running_loop().call_later(seconds, cache)

    def cancelled(self, device: Device) -> set[str]:
        """The truth: what was cancelled, by whomever."""
        return {c.commandId for c in self.devices[device] if c.cancelled_at is not None}

    def taken(self, device: Device) -> set[str]:
        """The truth: what requests of the run cancelled."""
        return {c.commandId for c in self.devices[device] if c.ours}

    def sent(self, kind: str, device: Device | None = None) -> list[Sent]:
        return [s for s in self.log if s.kind == kind and device in (None, s.device)]

    # ---- run.wire.Gateway

    async def authorize(self) -> NotSent | None:
        if self.tokens:
            return self.tokens.pop(0)
        if self._stale:
            self._stale = False
            self.fetched += 1
            await asyncio.sleep(LATENCY)
        return None

    def authorized(self, now: float) -> bool:
        return not (self.tokens or self._stale)

    def launch(
        self, call: CancelCall, sent: float, told: Callable[[Evidence | Exception], None]
    ) -> None:
        task = asyncio.get_running_loop().create_task(self.cancel(call))
        self._launched.add(task)

        def done(task: asyncio.Task[Evidence]) -> None:
            self._launched.discard(task)
            if not task.cancelled():
                bug = task.exception()
                told(bug if isinstance(bug, Exception) else task.result())

        task.add_done_callback(done)

    async def cancel(self, call: CancelCall, *, refused_before: bool = False) -> Evidence:
        commandId = call.commandId if isinstance(call, CancelOne) else None
        fate = _next(self.cancels, call.device, self.every_cancel)
        self.log.append(Sent("cancel", call.device, self._clock.monotonic(), commandId))
        requestId = await self._travel(call.device, fate, 0.5)
        taken = self._execute(call.device, commandId) if fate.executed else ()
        await asyncio.sleep(fate.takes / 2)
        self._arrived(call.device, fate)
        if fate.partial is not None:
            some = taken[: fate.partial]
            return Ambiguous("partial_reply" if some else "truncated", 200, 0, some)
        if fate.said is not None:
            return fate.said
        return Answered(taken, requestId, fate.anomaly)

    async def search(
        self, device: Device, orgId: str, state: int, page: int, *, refused_before: bool = False
    ) -> SearchReply:
        fate = _next(self.searches, device, self.every_search)
        self.log.append(Sent("search", device, self._clock.monotonic(), state=state))
        requestId = await self._travel(device, fate, 1.0)
        self._arrived(device, fate)
        if fate.said is not None:
            return fate.said
        at = self._clock.monotonic() - self._lag
        shown = sorted(
            (c for c in self.devices[device] if c.state(at) == state),
            key=lambda c: c.created_ms,
            reverse=True,
        )
        rows = tuple(self._told(device, c, state) for c in shown[PAGE * (page - 1) : PAGE * page])
        return Page(rows, len(shown), requestId)

    def gateway_ms(self) -> int:
        """Right once a reply carried a Date; until then our own clock is all there is."""
        return self._now_ms() if self._has_seen_date else self._clock.wall_ms()

    def moment(self, at: float) -> Moment:
        """As exact as the clock that is known, and never trusted further than `apart_ms`."""
        at_ms = self.gateway_ms() - int((self._clock.monotonic() - at) * 1000)
        return Moment(at_ms, at_ms, self.apart_ms)

    # ---- how it works

    async def _travel(self, device: Device, fate: Fate, share: float) -> str:
        self.in_flight += 1
        self._busy[device] += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.most_per_device = max(self.most_per_device, self._busy[device])
        self._requests += 1
        requestId = f"r{self._requests}"
        if fate.bug:
            self._arrived(device, fate)
            msg = "a bug of ours"
            raise RuntimeError(msg)
        await asyncio.sleep(fate.takes * share)
        return requestId

    def _arrived(self, device: Device, fate: Fate) -> None:
        self.in_flight -= 1
        self._busy[device] -= 1
        said = fate.said
        self._stale |= isinstance(said, Refused) and said.cause == "token"
        if not isinstance(said, NotSent) and getattr(said, "status", 200) is not None:
            self._has_seen_date = True

    def _execute(self, device: Device, commandId: str | None) -> tuple[Command, ...]:
        now = self._clock.monotonic()
        taken = [
            c
            for c in self.devices[device]
            if c.state(now) == 1 and commandId in (None, c.commandId)
        ]
        for command in taken:
            command.cancelled_at, command.ours = now, True
        return tuple(self._told(device, command, 1) for command in taken)

    def _told(self, device: Device, command: Cached, state: int) -> Command:
        scripted = self.names.get(device)
        who = scripted.pop(0) if scripted else Identity()
        return Command(
            command.commandId,
            productKey=who.productKey,
            deviceKey=who.deviceKey,
            assetId=who.assetId,
            created_ms=command.created_ms,
            state=state,
        )

    def _now_ms(self) -> int:
        return self._clock.wall_ms() + self._skew_ms


def _next(scripts: dict[Device, list[Fate]], device: Device, otherwise: Callable[[], Fate]) -> Fate:
    script = scripts.get(device)
    return script.pop(0) if script else otherwise()
