"""The gateway in the trade's words: one call in, one piece of evidence out.

A method sends one request, never more. Waiting, pacing and trying again are the caller's, who
asks for a token before each of them; how late the gateway's clock is is measured on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Coroutine
from typing import Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from worker.clock import Clock
from worker.gateway import causes
from worker.gateway.evidence import PAGE_SIZE, read_cancel, read_search
from worker.gateway.exchange import Reply, Transport
from worker.gateway.headers import imf_date_ms
from worker.gateway.signing import Pairs, Timestamps, encode_query, sign
from worker.gateway.token import Credentials, Patience, Token, Tokens
from worker.model import (
    Answered,
    AssetId,
    CancelCall,
    CancelOne,
    Device,
    Evidence,
    NotSent,
    Page,
    Refused,
    SearchReply,
)

COMMANDS: Final = "/connect-service/v2.1/commands"

_WORTH_SAYING: Final = 5_000  # ms of skew
_AUTH_MESSAGE: Final = (
    "the gateway turned down a token that it had just given: are the keys for this gateway, is "
    "this machine's clock right?"
)
_Read = TypeVar("_Read", Evidence, SearchReply)


class SkewBounds(Struct, frozen=True):
    """Between what the gateway's clock is ahead of the local monotonic clock."""

    low: float  # ms
    high: float  # ms


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
        self._skew = _Skew(clock)

    def authorize(self) -> Coroutine[Any, Any, NotSent | None]:
        """None once a usable token is at hand; else why there is none, for the whole run."""
        return self._tokens.ready()

    async def cancel(self, call: CancelCall) -> Evidence:
        """Cancel every cached command of a device, or one; one request.

        Refused(cause="token") asks for `authorize` and the same call again.
        """
        pairs = [("action", "cancel"), ("orgId", call.orgId), *_identity(call.device)]
        if isinstance(call, CancelOne):
            pairs.append(("commandId", call.commandId))
        token = self._tokens.current
        if token is None:
            return _NO_TOKEN
        reply = await self._post(token, pairs, b"")
        return self._judge(token, read_cancel(call, reply, self._refused_codes))

    async def search(self, device: Device, orgId: str, state: int, page: int) -> SearchReply:
        """One page (1, 2 …) of a device's commands in a state, newest first; one request."""
        pairs = [("action", "search"), ("orgId", orgId), *_identity(device)]
        body = (
            f'{{"expression":"state = {state:d}",'
            f'"pagination":{{"pageNo":{page:d},"pageSize":{PAGE_SIZE}}}}}'
        ).encode()
        token = self._tokens.current
        if token is None:
            return _NO_TOKEN
        reply = await self._post(token, pairs, body)
        read = read_search(device, orgId, state, page, reply, self._refused_codes)
        return self._judge(token, read)

    def skew(self) -> SkewBounds | None:
        """How far the gateway's clock is ahead of the local monotonic clock; None: not seen."""
        return self._skew.bounds

    def gateway_ms(self) -> int:
        """The latest that the gateway's clock can read now, in Unix ms."""
        return self._skew.gateway_ms()

    def earliest_ms(self) -> int:
        """The earliest that the gateway's clock can read now, in Unix ms."""
        return self._skew.earliest_ms()

    async def _post(self, token: Token, pairs: Pairs, body: bytes) -> Reply:
        query = encode_query(pairs)
        stamp = self._stamps.take(query, body)
        headers = {
            "apim-accesstoken": token.text.reveal(),
            "apim-timestamp": str(stamp),
            "apim-signature": sign(
                token.text.reveal(), pairs, body, stamp, self._secret_key.reveal()
            ),
        }
        if body:
            headers["Content-Type"] = "application/json"
        sent = self._clock.monotonic()
        reply = await self._transport.post(
            f"{COMMANDS}?{query}", headers, body, sent + self._request_timeout
        )
        if reply.status is not None:
            self._skew.note(reply.headers.get("date"), sent)
        return reply

    def _judge(self, token: Token, read: _Read) -> _Read:
        """What the reply says of the token, and what the clocks say of a refusal."""
        if isinstance(read, _GRANTED):
            self._tokens.accepted(token)
            return read
        if not isinstance(read, Refused) or read.cause not in _TIME_MATTERS:
            return read
        fatal = read.cause == causes.TOKEN and self._tokens.rejected(token)
        said = [_AUTH_MESSAGE if fatal else read.message, self._skew.in_words()]
        return replace(
            read,
            rule=causes.RULE_AUTH if fatal else None,
            message="; ".join(filter(None, said)) or None,
        )


_GRANTED: Final = (Answered, Page)  # a tuple: asked for every device
_TIME_MATTERS: Final = frozenset({causes.TOKEN, causes.BAD_REQUEST})
_NO_TOKEN: Final = NotSent(cause=causes.NO_TOKEN)


class _Skew:
    """What Date headers tell of the gateway's clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.bounds: SkewBounds | None = None
        self._drift = 0.0  # ms, wall clock minus monotonic clock at the last Date

    def note(self, date: str | None, sent: float) -> None:
        """A reply carries this Date, its request went out at this moment (monotonic)."""
        at = imf_date_ms(date)
        if at is None:
            return
        received_ms = self._clock.monotonic() * 1000
        low, high, old = at - received_ms, at + 1000 - sent * 1000, self.bounds
        if old is not None and max(old.low, low) <= min(old.high, high):
            low, high = max(old.low, low), min(old.high, high)
        # Else one of the clocks was set: what was known before is no longer true.
        if old is None or low != old.low or high != old.high:
            self.bounds = SkewBounds(low, high)
        self._drift = self._clock.wall_ms() - received_ms

    def earliest_ms(self) -> int:
        if self.bounds is None:
            return 0  # the local clock may be years ahead
        return int(self._clock.monotonic() * 1000 + self.bounds.low)

    def gateway_ms(self) -> int:
        if self.bounds is None:
            return self._clock.wall_ms()
        now_ms = self._clock.monotonic() * 1000
        # The monotonic clock stands still while the machine sleeps, the gateway's does not.
        slept = max(0.0, self._clock.wall_ms() - now_ms - self._drift)
        return int(now_ms + self.bounds.high + slept) + 1

    def in_words(self) -> str | None:
        """The skew against this machine's wall clock, when it is worth a word."""
        if self.bounds is None:
            return None
        local = self._clock.wall_ms() - self._clock.monotonic() * 1000
        ahead = (self.bounds.low + self.bounds.high) / 2 - local
        if abs(ahead) < _WORTH_SAYING:
            return None
        way = "ahead of" if ahead > 0 else "behind"
        return f"the gateway's clock is {abs(ahead) / 1000:.0f} s {way} this machine"


def _identity(device: Device) -> Pairs:
    if isinstance(device, AssetId):
        return [("assetId", device.assetId)]
    return [("productKey", device.productKey), ("deviceKey", device.deviceKey)]
