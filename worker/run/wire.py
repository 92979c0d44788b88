"""One paced request to the gateway, and what its reply means for the whole run.

Between a target and the gateway: a token first, then a place at the gate, then the request. Who
need not wait for any of them launches, and is told by a plain call. A 429 or a Retry-After pauses
everybody; evidence that names a safety rule, or makes one apply, throws the switch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from math import isinf
from typing import NoReturn, Protocol, TypeVar

from worker.clock import Clock
from worker.model import (
    Ambiguous,
    Answered,
    AssetId,
    CancelAll,
    CancelCall,
    Device,
    Evidence,
    Moment,
    NotSent,
    Page,
    Refused,
    Requests,
    SearchReply,
    Stop,
)
from worker.run.auth import AuthRule, turned_down
from worker.run.case import OTHER_NAMES, OTHER_SPELLING
from worker.run.pace import Pace
from worker.run.retry import RetryPolicy
from worker.run.stop import Bounds, Switch
from worker.run.words import in_words

_BAD_ARGUMENT = 99400
_CONGESTED = {429, 503}

R = TypeVar("R", Evidence, SearchReply)


class Gateway(Protocol):
    """What a run asks of the gateway (`gateway.client.GatewayClient`)."""

    async def authorize(self) -> NotSent | None:
        """Wait for a usable token; a NotSent says why there is none."""

    def authorized(self, now: float) -> bool:
        """Whether `authorize` would find a usable token at once; now is monotonic."""

    async def cancel(self, call: CancelCall, *, refused_before: bool = False) -> Evidence:
        """Send one cancel request; refused_before: a token of this call was turned down."""

    def launch(
        self, call: CancelCall, sent: float, told: Callable[[Evidence | Exception], None]
    ) -> None:
        """Send one now (monotonic); told once, never before this returns, and of bugs, too."""

    async def search(
        self, device: Device, orgId: str, state: int, page: int, *, refused_before: bool = False
    ) -> SearchReply:
        """Ask for one page of a device's commands in a state, newest first."""

    def moment(self, at: float) -> Moment:
        """What the gateway's clock read at a monotonic moment, now or past."""


class Watcher(Protocol):
    """Who is told of pauses."""

    def asked_for(self, seconds: float) -> None:
        """A Retry-After came, whatever follows from it; inf is for what nobody waits for."""

    def throttled(self, reply: Refused | Ambiguous, seconds: float, concurrency: int) -> None:
        """Everybody waits for so long, and then so many may be in flight."""


class Halted(Exception):  # noqa: N818 - not an error: the run is stopping
    """No further request starts; raised where one would have."""


#: Told what a launched call proved. None: its token was turned down, the first time of its call.
#: An exception: a bug of ours.
Landed = Callable[[Evidence | Exception | None], None]


class Wire:
    """Sends requests one by one, each when the gate lets it."""

    def __init__(
        self,
        gateway: Gateway,
        pace: Pace,
        policy: RetryPolicy,
        switch: Switch,
        bounds: Bounds,
        clock: Clock,
        watcher: Watcher,
        auth: AuthRule,
    ) -> None:
        self._gateway = gateway
        self._pace = pace
        self._policy = policy
        self._switch = switch
        self._bounds = bounds
        self._clock = clock
        self._watcher = watcher
        self._auth = auth
        self._throttled_in_a_row = 0
        self._answered = False  # a cancel was
        self._cancel_all_answered = False
        self._named_as_asked = False  # a row of a reply had the identity that was asked for
        self._named_otherwise: Device | None = None  # the first whose rows had only the other
        self._cancels = self._searches = self._repeated = 0

    @property
    def requests(self) -> Requests:
        """How many were sent so far."""
        return Requests(self._cancels, self._searches, self._repeated)

    def advice(self) -> str | None:
        """What to change in the list: no row of a reply had the identity that was asked for."""
        if self._named_as_asked or self._named_otherwise is None:
            return None
        by_asset = isinstance(self._named_otherwise, AssetId)
        other = "productKey and deviceKey" if by_asset else "assetId"
        return f"no row of a reply had the identity asked for: list these devices by {other}"

    def launch(self, call: CancelCall, now: float, landed: Landed) -> bool:
        """Send a first attempt now (monotonic); False where anything has to be waited for.

        Then nothing was sent. Else landed is called once, from the loop, never before this returns.
        """
        if self._switch.stop is not None or not self._gateway.authorized(now):
            return False
        if self._bounds.passed() or (ticket := self._pace.enter(now)) is None:
            return False
        try:
            self._gateway.launch(call, now, partial(self._landed, call, ticket, landed))
        except Exception:
            self._pace.release(ticket, congested=False)
            raise
        return True

    async def cancel(
        self,
        call: CancelCall,
        *,
        again: bool,
        departs: Callable[[], None],
        refused_before: bool = False,
    ) -> Evidence:
        """Send a cancel; Halted when the run is stopping before it could go out, or go again.

        again: it repeats an attempt. refused_before: a token of this call was turned down.
        departs is called the moment before a request goes out, however long it waited.
        """
        request = partial(self._gateway.cancel, call, refused_before=refused_before)
        evidence = await self._send(request, departs)
        self._count(again=again)
        self._note_names(call.device, evidence)
        self._weigh(evidence, call.device)
        self._check_first(call, evidence)
        self._check_halted(evidence)
        return evidence

    async def search(
        self,
        device: Device,
        orgId: str,
        state: int,
        page: int,
        *,
        departs: Callable[[], None] | None = None,
        refused_before: bool = False,
    ) -> SearchReply:
        """Ask for one page; Halted when the run is stopping. departs is as in `cancel`."""
        search = partial(self._gateway.search, device, orgId, state, page)
        reply = await self._send(partial(search, refused_before=refused_before), departs)
        self._searches += 1
        self._note_names(device, reply)
        self._weigh(reply, None)
        self._check_halted(reply)
        return reply

    async def _send(
        self, request: Callable[[], Awaitable[R]], departs: Callable[[], None] | None = None
    ) -> R:
        while _is_unsent(reply := await self._try_to_send(request, departs)):
            pass  # somebody's 401 took the token away: another one first
        return reply

    async def _try_to_send(
        self, request: Callable[[], Awaitable[R]], departs: Callable[[], None] | None
    ) -> R:
        if self._switch.stop is not None:
            raise Halted  # not even a token is asked for
        if (trouble := await self._gateway.authorize()) is not None:
            self._unauthorized(trouble)
        ticket = self._pace.enter(self._clock.monotonic())
        if ticket is None and (ticket := await self._pace.acquire()) is None:
            raise Halted
        congested = False
        try:
            self._check_bounds()
            if departs is not None:
                departs()
            reply = await request()
            congested = _is_congested(reply)
        finally:
            self._pace.release(ticket, congested=congested)
        return reply

    def _landed(
        self,
        call: CancelCall,
        ticket: int,
        landed: Landed,
        said: Evidence | Exception,
    ) -> None:
        if type(said) is Answered and said.anomaly is None:  # nearly always
            self._pace.release(ticket, congested=False)
            self._cancels += 1
            self._throttled_in_a_row = 0
            if said.commands:
                self._named_as_asked = True
            if not self._answered:
                self._check_first(call, said)
            landed(said)
            return
        told: Evidence | Exception | None = said
        try:
            if isinstance(said, Exception):
                self._pace.release(ticket, congested=False)
            else:
                self._pace.release(ticket, congested=_is_congested(said))
                self._count(again=False)
                self._note_names(call.device, said)
                self._weigh(said, call.device)
                self._check_first(call, said)
                told = None if turned_down(said) else said
        except Exception as bug:  # noqa: BLE001 - one call's, and to be told as such
            told = bug
        landed(told)

    def _note_names(self, device: Device, reply: Evidence | SearchReply) -> None:
        if isinstance(reply, Answered | Page):
            self._named_as_asked |= bool(reply.commands)
        elif reply.cause == OTHER_SPELLING and self._named_otherwise is None:
            self._named_otherwise = device

    def _count(self, *, again: bool) -> None:
        self._cancels += 1
        self._repeated += again

    def _weigh(self, reply: Evidence | SearchReply, device: Device | None) -> None:
        """What a reply means for everybody; device is the one of a cancel, None of a search."""
        if isinstance(reply, Answered) and reply.anomaly is None:
            self._throttled_in_a_row = 0
            return
        self._heed(reply)
        if isinstance(reply, Page):
            self._auth.has_worked = True
        elif isinstance(reply, Refused) and (stop := self._auth.judge(reply, device)):
            self._switch.throw(stop)

    def _check_halted(self, reply: Evidence | SearchReply) -> None:
        """A call whose token was turned down is open; when the run stops it stays so."""
        if turned_down(reply) and self._switch.stop is not None:
            raise Halted

    def _unauthorized(self, trouble: NotSent) -> NoReturn:
        if trouble.rule is not None:
            self._throw(trouble.rule, trouble.message or "no token", None)
        raise Halted

    def _check_bounds(self) -> None:
        if stop := self._bounds.passed():
            self._switch.throw(stop)
            raise Halted

    def _heed(self, reply: Evidence | SearchReply) -> None:
        """Draw the consequences for everybody."""
        if isinstance(reply, Answered):
            if reply.anomaly is not None:
                self._throw("anomaly", _ANOMALIES[reply.anomaly], reply.requestId)
        elif isinstance(reply, NotSent | Ambiguous) and reply.rule is not None:
            requestId = None if isinstance(reply, NotSent) else reply.requestId
            self._throw(reply.rule, reply.message or reply.cause, requestId)
        if isinstance(reply, Refused | Ambiguous):
            self._pause(reply)
        if not (isinstance(reply, Refused) and reply.cause == "throttled"):
            self._throttled_in_a_row = 0

    def _pause(self, reply: Refused | Ambiguous) -> None:
        throttled = isinstance(reply, Refused) and reply.cause == "throttled"
        seconds = reply.retry_after
        if seconds is not None:
            self._watcher.asked_for(seconds)
        else:
            if not throttled:
                return
            self._throttled_in_a_row += 1
            seconds = self._policy.backoff(self._throttled_in_a_row)
        longest = self._policy.rules.retry_after_max
        if seconds > longest:
            asked = "longer than a year" if isinf(seconds) else f"{seconds:.0f} s"
            self._throw(
                "retry_after",
                f"the gateway asks for a pause of {asked} (Retry-After); "
                f"retry.retry_after_max is {longest:.0f} s. Run it later, at a lower rate, or "
                "raise that",
                reply.requestId,
            )
            return
        if stop := self._bounds.passed(ahead=seconds):
            self._switch.throw(stop)
            return
        self._pace.pause(seconds)
        self._watcher.throttled(reply, seconds, self._pace.window)

    def _check_first(self, call: CancelCall, evidence: Evidence) -> None:
        """Whether this gateway takes a cancel of everything at all: its first answer tells."""
        if isinstance(evidence, Answered):
            self._answered = self._auth.has_worked = True
        if self._cancel_all_answered or not isinstance(call, CancelAll):
            return
        if not isinstance(evidence, Answered | Refused):
            return
        if isinstance(evidence, Refused):
            if evidence.transient:
                return
            if evidence.code == _BAD_ARGUMENT:
                self._throw(
                    "cancel_all_refused",
                    f"the gateway refused the first cancel-all ({in_words(evidence)}): is orgId "
                    f"{call.orgId} right? Only if it is, and this gateway requires a commandId, "
                    "set gateway.cancel_all: by_id",
                    evidence.requestId,
                )
        self._cancel_all_answered = True

    def names_differ(self, requestId: str | None) -> None:
        """Replies about one target named two devices: which one is cancelled is not known."""
        self._throw("anomaly", _ANOMALIES[OTHER_NAMES], requestId)

    def _throw(self, rule: str, message: str, requestId: str | None) -> None:
        ids = (requestId,) if requestId else ()
        self._switch.throw(Stop(rule, message, count=1, of=1, request_ids=ids))


_ANOMALIES = {
    "other_device": "a reply was about another device than the one asked for",
    "other_command": "a reply was about another command than the one asked for",
    "malformed_id": "a reply held a commandId that is not a number of 1 to 32 digits",
    "too_many_commands": "a reply listed more than 1,000 commands; a device holds 50",
    OTHER_NAMES: "two replies about one target named two devices",
}


def _is_unsent(reply: Evidence | SearchReply) -> bool:
    """Whether there was no token to sign with after all, so that nothing went out."""
    return isinstance(reply, NotSent) and reply.cause == "no_token"


def _is_congested(reply: Evidence | SearchReply) -> bool:
    if isinstance(reply, Answered):
        return False
    match reply:
        case Refused(status=status) | Ambiguous(status=status) if status in _CONGESTED:
            return True
        case (
            Ambiguous(cause="request_timeout") | NotSent(cause="connect_timeout" | "no_descriptors")
        ):
            return True
        case _:
            return False
