"""The access token: fetched once for everybody, renewed ahead, thrown away when turned down.

Whoever finds no usable token fetches it while the others wait for the result; as long as the
old one is good nobody but the one who renews it waits. Source: the vendor's token page.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from itertools import count
from typing import Any, Final, Protocol

from msgspec import Struct

from worker.clock import Clock
from worker.gateway import causes
from worker.gateway.command import integer
from worker.gateway.exchange import Reply, Transport
from worker.gateway.headers import retry_after
from worker.gateway.signing import Timestamps, encryption
from worker.gateway.strict_json import Digits, Fraction, NotStrictError, read_object
from worker.model import NotSent, Secret

PATH: Final = "/apim-token-service/v2.0/token/get"

_RENEW_AT: Final = 0.8  # of its life
_LIFE_UNKNOWN: Final = 300.0  # s; where `expire` says nothing usable
_LONGEST_LIFE: Final = 30 * 86_400.0  # s; more is no statement
_SLEPT: Final = 60_000  # ms that wall clock and monotonic clock may drift apart
_LONGEST_WAIT: Final = 300.0  # s a Retry-After of the token service is followed
_BAD_KEYS: Final = {1002: "unknown access key", 1003: "the secret key does not fit"}
_USABLE: Final = re.compile(r"[\x21-\x7e]{1,4096}")  # what a header can carry


class Credentials(Struct, frozen=True):
    """The application's keys."""

    access_key: Secret
    secret_key: Secret


class Patience(Protocol):
    """How often and how long to try."""

    def delays(self) -> Iterator[float]:
        """The waits between tries, in seconds; ends when they are spent."""

    async def wait(self, seconds: float) -> bool:
        """Wait so long before a try, if at all; False: the run is stopping, try no more."""


class Token(Struct, eq=False):
    """One fetched token and what is known of it; two fetches of the same text are two tokens."""

    text: Secret
    expires_at: float  # monotonic, counted from before it was asked for
    drift: float  # ms, wall clock minus monotonic clock when it was fetched
    is_fresh: bool  # fetched because the one before it was turned down
    refused_before: int  # fresh tokens turned down in a row before it, without a success between
    has_worked: bool = False  # a request signed with it succeeded


class _Problem(Struct, frozen=True):
    """A fetch that brought no token."""

    what: str  # for people
    rule: str | None = None  # set: no use in trying again
    retry_after: float = 0.0  # s


class Tokens:
    """The run's one token."""

    def __init__(
        self,
        transport: Transport,
        credentials: Credentials,
        clock: Clock,
        patience: Patience,
        request_timeout: float,
    ) -> None:
        self._transport = transport
        self._credentials = credentials
        self._clock = clock
        self._patience = patience
        self._request_timeout = request_timeout  # s
        self._stamps = Timestamps(clock)
        self._fetching = asyncio.Lock()
        self._token: Token | None = None
        self._renew_at = 0.0  # monotonic
        self._turned_down: Token | None = None  # the token to come replaces this one
        self._failed: NotSent | None = None

    @property
    def current(self) -> Token | None:
        """The token to sign with, whatever its age; None: `ready` comes first."""
        return self._token

    def at_hand(self, now: float) -> bool:
        """Whether `ready` would say None at once (now, monotonic), and nobody is renewing it."""
        return now < self._renew_at and self._failed is None and self._usable(now) is not None

    async def ready(self) -> NotSent | None:
        """None once a usable token is at hand; a failure holds for the rest of the run."""
        while self._failed is None:
            now = self._clock.monotonic()
            token = self._usable(now)
            if token is not None and (now < self._renew_at or self._fetching.locked()):
                return None
            async with self._fetching:
                if self._usable(self._clock.monotonic()) is token:  # else somebody was first
                    await self._renew(token)
            if self._usable(self._clock.monotonic()) is not None:
                return None
        return self._failed

    def refused(self, token: Token, *, again: bool) -> int:
        """A 401 or 1203 came for a token; again: not the first one of its call.

        How many fresh tokens were turned down in a row, this one included, without a success
        between; 0 when this says nothing of a fresh token.
        """
        if token is not self._token:
            return 0  # replaced already: the call is signed anew
        if again and token.has_worked:
            return 0  # it works for others: no other token would help this call
        self._token, self._turned_down = None, token
        return token.refused_before + 1 if _is_unproven(token) else 0

    def _usable(self, now: float) -> Token | None:
        token = self._token
        if token is None or now >= token.expires_at:
            return None
        # The machine slept, or its clock was set: what is left of a life is anybody's guess.
        drift = self._clock.wall_ms() - now * 1000
        return token if -_SLEPT <= drift - token.drift <= _SLEPT else None

    async def _renew(self, old: Token | None) -> None:
        """One try while the old token is good, else as many as patience gives."""
        if self._failed is not None:
            return  # somebody else tried, for everybody
        delays = self._patience.delays() if old is None else iter(())
        wait = 0.0
        for tries in count(1):
            if not await self._patience.wait(wait):
                self._failed = _failure(causes.STOPPING)
                return
            problem = await self._fetch()
            if problem is None:
                return
            if problem.rule is not None:
                self._failed = _failure(problem.rule, problem.what)
                return
            if old is not None:
                # After half of what is left: a token service that is down is not hammered.
                now = self._clock.monotonic()
                self._renew_at = now + max(1.0, (old.expires_at - now) / 2)
                return
            delay = next(delays, None)
            if delay is None or problem.retry_after > _LONGEST_WAIT:
                what = f"no token after {tries} tries: {problem.what}"
                self._failed = _failure(causes.RULE_NO_TOKEN, what)
                return
            wait = max(delay, problem.retry_after)

    async def _fetch(self) -> _Problem | None:
        """Ask for a token once; None: it is at hand."""
        asked = self._clock.monotonic()
        reply = await self._transport.post(
            PATH,
            {"Content-Type": "application/json"},
            self._request(),
            asked + self._request_timeout,
        )
        read = _read(reply)
        if isinstance(read, _Problem):
            return read
        text, life = read
        # Not over before it has begun, however short it is and however long this took.
        life = max(life, self._clock.monotonic() - asked + 1.0)
        self._renew_at = asked + life * _RENEW_AT
        before, is_refused = self._turned_down or self._token, self._turned_down is not None
        unproven = before is not None and _is_unproven(before)
        self._token = Token(
            text=Secret(text),
            expires_at=asked + life,
            drift=self._clock.wall_ms() - self._clock.monotonic() * 1000,
            is_fresh=is_refused or unproven,
            refused_before=before.refused_before + is_refused if before and unproven else 0,
        )
        self._turned_down = None
        return None

    def _request(self) -> bytes:
        """The body; its timestamp is never used again, retries included (code 1001)."""
        access_key = self._credentials.access_key.reveal()
        stamp = self._stamps.take(access_key)
        proof = encryption(access_key, stamp, self._credentials.secret_key.reveal())
        return json.dumps({"appKey": access_key, "encryption": proof, "timestamp": stamp}).encode()


def _is_unproven(token: Token) -> bool:
    """Whether it replaced one that was turned down, and no request succeeded with it yet."""
    return token.is_fresh and not token.has_worked


def _failure(rule: str, message: str | None = None) -> NotSent:
    if rule == causes.STOPPING:  # the run has its reason already
        return NotSent(cause=causes.STOPPING, retryable=False)
    return NotSent(cause=causes.NO_TOKEN, retryable=False, rule=rule, message=message)


def _read(reply: Reply) -> tuple[str, float] | _Problem:
    """The token and its life in seconds, or why there is none; never the reply's own text."""
    if reply.fault == causes.CUT:
        return _Problem("the run is stopping", causes.STOPPING)
    if reply.fault == causes.TLS:
        what = "TLS failed on the way to the token service"
        return _Problem(f"{what}: check gateway.url and gateway.ca_file", causes.RULE_TLS)
    if reply.status is not None and 300 <= reply.status <= 399:
        what = f"the token service answered with a redirect (HTTP {reply.status}): "
        return _Problem(what + "check gateway.url", causes.RULE_REDIRECT)
    wait = retry_after(reply.headers.get("retry-after"), reply.headers.get("date")) or 0.0
    if reply.fault is not None or reply.status is None:
        return _Problem(f"the token service was not reached ({reply.fault})", retry_after=wait)
    try:
        envelope = read_object(reply.body)
    except NotStrictError:
        return _Problem(f"HTTP {reply.status} without a token", retry_after=wait)
    said = envelope.get("status", envelope.get("stauts"))  # the vendor's own sample misspells it
    status = integer(said) if isinstance(said, Digits) else None
    if status in _BAD_KEYS:
        what = f"{_BAD_KEYS[status]} (code {status} of the token service)"
        return _Problem(what, causes.RULE_AUTH)
    token = _token(envelope.get("data"))
    if reply.status != 200 or status != 0 or token is None:
        what = f"HTTP {reply.status}, code {status} of the token service"
        return _Problem(what, retry_after=wait)
    return token


def _token(data: Any) -> tuple[str, float] | None:
    """Token and life from the reply's `data`; `expire` is a number or a string of one."""
    if not isinstance(data, dict):
        return None
    text, expire = data.get("accessToken"), data.get("expire")
    if type(text) is not str or _USABLE.fullmatch(text) is None:
        return None
    try:
        life = float(expire) if isinstance(expire, str | Fraction) else 0.0
    except ValueError:
        life = 0.0
    return text, life if 0 < life <= _LONGEST_LIFE else _LIFE_UNKNOWN
