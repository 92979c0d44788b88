"""The gateway in the trade's words: one call in, one piece of evidence out.

A method sends one request, never more. Waiting, pacing and trying again are the caller's, who
asks for a token before each of them; how late the gateway's clock is is measured on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from worker.clock import Clock
from worker.gateway import causes
from worker.gateway.evidence import read_cancel, read_search
from worker.gateway.exchange import Reply, Transport
from worker.gateway.signing import Timestamps, sign
from worker.gateway.skew import Skew
from worker.gateway.spelling import Spelled, spell_cancel, spell_search
from worker.gateway.token import Credentials, Patience, Token, Tokens
from worker.model import (
    Answered,
    CancelCall,
    Device,
    Evidence,
    Moment,
    NotSent,
    Page,
    Refused,
    SearchReply,
)

COMMANDS: Final = "/connect-service/v2.1/commands"

_Read = TypeVar("_Read", Evidence, SearchReply)

#: Who is told what a call proved; an exception is a bug of ours.
Told = Callable[[Evidence | Exception], None]


class GatewayClient:
    """EnOS commands of one organization's devices, over one transport and one token."""

    def __init__(
        self,
        transport: Transport,
        credentials: Credentials,
        clock: Clock,
        patience: Patience,
        request_timeout: float,
        refused_codes: Collection[int] = frozenset(),
    ) -> None:
        self._transport = transport
        self._secret_key = credentials.secret_key
        self._clock = clock
        self._request_timeout = request_timeout  # s
        self._refused_codes = refused_codes
        self._tokens = Tokens(transport, credentials, clock, patience, request_timeout)
        self._stamps = Timestamps(clock)
        self.skew = Skew(clock)

    def authorize(self) -> Coroutine[Any, Any, NotSent | None]:
        """None once a usable token is at hand; else why there is none, for the whole run."""
        return self._tokens.ready()

    def authorized(self, now: float) -> bool:
        """Whether a usable token is at hand (now, monotonic) and nobody has to renew it."""
        return self._tokens.at_hand(now)

    async def cancel(self, call: CancelCall, *, refused_before: bool = False) -> Evidence:
        """Cancel every cached command of a device, or one; one request.

        Refused(cause="token") asks for `authorize` and the same call again. refused_before: that
        came for an earlier request of this call.
        """
        token = self._tokens.current
        if token is None:
            return _NO_TOKEN
        sent = self._clock.monotonic()
        reply = await self._transport.post(
            *self._request(token, spell_cancel(call)), sent + self._request_timeout
        )
        return self._read(token, call, sent, reply, refused_before=refused_before)

    def launch(self, call: CancelCall, sent: float, told: Told) -> None:
        """As `cancel`, told by a plain call: once, from the loop, never before this returns.

        sent is now, monotonic. The first request of its call; only while `authorized`.
        """
        token = self._tokens.current
        assert token is not None  # noqa: S101 - it is at hand
        self._transport.launch(
            *self._request(token, spell_cancel(call)),
            sent + self._request_timeout,
            partial(self._replied, token, call, sent, told),
        )

    async def search(
        self, device: Device, orgId: str, state: int, page: int, *, refused_before: bool = False
    ) -> SearchReply:
        """One page (1, 2 …) of a device's commands in a state, newest first; one request."""
        token = self._tokens.current
        if token is None:
            return _NO_TOKEN
        sent = self._clock.monotonic()
        reply = await self._transport.post(
            *self._request(token, spell_search(device, orgId, state, page)),
            sent + self._request_timeout,
        )
        if reply.status is not None:
            self.skew.note(reply.headers.get("date"), sent)
        read = read_search(device, orgId, state, page, reply, self._refused_codes)
        if isinstance(read, Page):
            self.skew.note_created(read.commands, reply.headers.get("date"))
        return self._judge(token, read, refused_before=refused_before)

    def moment(self, at: float) -> Moment:
        """What the gateway's clock read at a monotonic moment, now or past."""
        return self.skew.moment(at)

    def _request(self, token: Token, spelled: Spelled) -> tuple[str, Mapping[str, str], bytes]:
        """Path and query, headers, body: what every transport is asked to post."""
        query, parameters, body = spelled
        stamp = self._stamps.take(query, body)
        text, secret = token.text.reveal(), self._secret_key.reveal()
        headers = {
            "apim-accesstoken": text,
            "apim-timestamp": str(stamp),
            "apim-signature": sign(text, parameters, body, stamp, secret),
        }
        if body:
            headers["Content-Type"] = "application/json"
        return f"{COMMANDS}?{query}", headers, body

    def _replied(
        self, token: Token, call: CancelCall, sent: float, told: Told, reply: Reply | Exception
    ) -> None:
        said: Evidence | Exception
        try:
            said = (
                reply
                if isinstance(reply, Exception)
                else self._read(token, call, sent, reply, refused_before=False)
            )
        except Exception as bug:  # noqa: BLE001 - one device's, and to be told as such
            said = bug
        told(said)

    def _read(
        self,
        token: Token,
        call: CancelCall,
        sent: float,
        reply: Reply,
        *,
        refused_before: bool = False,
    ) -> Evidence:
        if reply.status is not None:
            self.skew.note(reply.headers.get("date"), sent)
        read = read_cancel(call, reply, self._refused_codes)
        if type(read) is Answered:
            if read.commands:
                self.skew.note_created(read.commands, reply.headers.get("date"))
            token.has_worked = True
            return read
        return self._judge(token, read, refused_before=refused_before)

    def _judge(self, token: Token, read: _Read, *, refused_before: bool) -> _Read:
        """What the reply says of its own token, and what the clocks say of a refusal."""
        if isinstance(read, _GRANTED):
            token.has_worked = True
            return read
        if not isinstance(read, Refused) or read.cause not in _TIME_MATTERS:
            return read
        fresh_tokens = 0
        if read.cause == causes.TOKEN:
            fresh_tokens = self._tokens.refused(token, again=refused_before)
        said = filter(None, (read.message, self.skew.in_words()))
        return replace(read, fresh_tokens=fresh_tokens, message="; ".join(said) or None)


_GRANTED: Final = (Answered, Page)  # a tuple: asked for every device
_TIME_MATTERS: Final = frozenset({causes.TOKEN, causes.BAD_REQUEST})
_NO_TOKEN: Final = NotSent(cause=causes.NO_TOKEN)
