"""The token service: hands out, renews and withdraws access tokens.

A second get within the life of a token returns the same one with the seconds left; an
encryption may be used once. What a withdrawn or expired token meets is the app's to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from worker.clock import Clock
from worker.simulator.chance import key64
from worker.simulator.signature import expected_encryption, same

_YOUNG = 20  # uses below which a token is never withdrawn, so that a fresh one always works


class TokenReply(Struct, frozen=True):
    """What the service answers, always with HTTP 200."""

    status: int
    msg: str
    data: dict[str, Any] | None = None


class _Token(Struct):
    ends: float  # on the monotonic clock
    uses: int = 0


class TokenService:
    """One application's access key, and the tokens that it was given."""

    def __init__(
        self,
        clock: Clock,
        seed: int,
        access_key: str,
        secret_key: str,
        life: float,
        uses: int | None = None,
    ) -> None:
        """`life`: s; `uses`: requests after which a token is withdrawn, None is never."""
        self._clock = clock
        self._seed = seed
        self._access_key = access_key
        self._secret_key = secret_key
        self._life = life
        self._uses = None if uses is None else max(uses, _YOUNG)
        self._spent: set[str] = set()  # encryptions
        self._tokens: dict[str, _Token] = {}
        self._current: str | None = None
        self.issued = 0

    def get(self, body: Mapping[str, Any]) -> TokenReply:
        """`token/get`: the current token or, when there is none, a new one."""
        refusal = self._refusal(body)
        if refusal:
            return refusal
        current = self._tokens.get(self._current or "")
        if current is None or current.ends <= self._clock.monotonic():
            return self._issue()
        return self._reply(self._current or "", current)

    def refresh(self, body: Mapping[str, Any]) -> TokenReply:
        """`token/refresh`: a new token for one that still lives."""
        refusal = self._refusal(body)
        if refusal:
            return refusal
        if not body.get("accessToken"):
            return TokenReply(1202, "accessToken is empty")
        if not self.alive(str(body["accessToken"])):
            return TokenReply(1203, "token expired")
        return self._issue()

    def alive(self, token: str) -> bool:
        known = self._tokens.get(token)
        return known is not None and known.ends > self._clock.monotonic()

    def use(self, token: str) -> bool:
        """Count a request with the token; False when it is withdrawn by that."""
        known = self._tokens[token]
        known.uses += 1
        if self._uses is None or known.uses <= self._uses:
            return True
        self.withdraw()
        return False

    def withdraw(self) -> None:
        """End all tokens now: the next get returns a fresh one."""
        self._tokens.clear()

    def _refusal(self, body: Mapping[str, Any]) -> TokenReply | None:
        given = [body.get(name) for name in ("appKey", "encryption", "timestamp")]
        if any(value is None or value == "" for value in given):
            return TokenReply(1202, "appKey, encryption and timestamp are required")
        key, encryption, timestamp = map(str, given)
        if not re.fullmatch(r"[0-9]{13}", timestamp):
            return TokenReply(1004, "timestamp is not in milliseconds")
        if key != self._access_key:
            return TokenReply(1002, "unknown appKey")
        if not same(encryption, expected_encryption(key, timestamp, self._secret_key)):
            return TokenReply(1003, "bad encryption")
        if encryption in self._spent:
            return TokenReply(1001, "encryption was used before")
        self._spent.add(encryption)
        return None

    def _issue(self) -> TokenReply:
        self.issued += 1
        now = self._clock.monotonic()
        self._tokens = {text: token for text, token in self._tokens.items() if token.ends > now}
        self._current = f"sim-{key64(self._seed, 'token', self.issued):016x}"
        self._tokens[self._current] = _Token(now + self._life)
        return self._reply(self._current, self._tokens[self._current])

    def _reply(self, text: str, token: _Token) -> TokenReply:
        left = max(1, int(token.ends - self._clock.monotonic()))
        return TokenReply(0, "SUCCESS", {"accessToken": text, "expire": left})
