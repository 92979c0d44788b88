"""How a call is said so that the gateway believes it: query, signature, timestamp. No I/O.

The query is encoded once, by yarl, from pairs, and the signature is computed from the same
pairs: what is signed and what is sent cannot differ, and no value can add a parameter.
Source: the vendor's signature and token pages; tests/gateway/vectors/signing.json.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256

from yarl import URL

from worker.clock import Clock

Pairs = Sequence[tuple[str, str]]

is_plain = re.compile(r"[0-9A-Za-z._-]+").fullmatch  # yarl encodes these as themselves
_AHEAD_MS = 1_000  # how far a timestamp may run ahead of the wall clock


def encode_query(pairs: Pairs) -> str:
    """The query as it goes over the wire; form decoders read back exactly these pairs.

    Raises ValueError for a repeated name or an empty value: a lost value must not become a
    call that means more than was asked.
    """
    query = dict(pairs)
    if len(query) != len(pairs) or not all(query.values()):
        raise ValueError("a parameter is repeated or has no value")
    if is_plain("".join([*query, *query.values()])):
        return "&".join([f"{name}={value}" for name, value in pairs])
    return URL.build(query=query).raw_query_string


def joined(pairs: Pairs) -> str:
    """The parameters of a query as they are signed."""
    return "".join([name + value for name, value in sorted(pairs)])


def sign(token: str, parameters: str, body: bytes, timestamp: int, secret: str) -> str:
    """The value of `apim-signature`; `timestamp` is Unix time in ms."""
    if not body:
        return sha256(f"{token}{parameters}{timestamp}{secret}".encode()).hexdigest()
    signed = f"{token}{parameters}".encode() + body + f"{timestamp}{secret}".encode()
    return sha256(signed).hexdigest()


def encryption(access_key: str, timestamp: int, secret: str) -> str:
    """What the token service wants as proof of the keys; it takes each value once (code 1001)."""
    return sha256(f"{access_key}{timestamp}{secret}".encode()).hexdigest()


class Timestamps:
    """Gives out timestamps so that no two requests carry the same signature.

    They do not fall, and requests that are alike share none. None is more than a second ahead of
    the wall clock; when that is set back by more, or a thousand are asked for while it stands
    still, they start again from it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = 0  # ms
        self._given: set[object] = set()  # what the last timestamp was given to

    def take(self, *request: object) -> int:
        """The timestamp (ms) for a request made of these parts."""
        now = self._clock.wall_ms()
        if now > self._last or now + _AHEAD_MS <= self._last:
            self._last = now
            self._given.clear()
        elif request in self._given:
            self._last += 1
            self._given.clear()
        self._given.add(request)
        return self._last
