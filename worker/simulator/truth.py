"""What the simulator saw and did: the record that a report is compared with.

Kept apart from the world's rules so that no rule can forget to count. Times are on the
monotonic clock, because the wall clock may jump.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Literal

from msgspec import Struct

from worker.clock import Clock
from worker.simulator.commands import Identity

Kind = Literal["cancel", "search", "get", "devices", "token", "refresh", "other"]
Delivery = Literal["told", "lost", "cut"]

_NAMED = 100  # strays that are kept by name; all are counted
_ON_THE_WAY = 0.2  # s in which requests sent before a Retry-After was read still arrive
_CONNECT = ("cancel", "search", "get", "devices")


class Executed(Struct, frozen=True, gc=False):
    """One command that a request cancelled."""

    order: int  # 1, 2, 3 … over all devices
    commandId: str
    delivery: Delivery  # of the reply that named it: sent whole, not sent, broken off


class Truth(Struct, frozen=True):
    """A view of the record at one moment."""

    cancelled: Mapping[Identity, tuple[Executed, ...]]
    requests: Mapping[str, int]  # by kind
    answers: Mapping[int, int]  # by HTTP status; 0 is an answer that was withheld or cut
    faults: Mapping[str, int]  # by kind of fault
    stray_count: int
    strays: tuple[str, ...]  # the first of them, in words
    max_in_flight: int
    overlaps: int  # requests for a device while another for it was in flight
    peak: int  # most connect requests in any second
    early: int  # requests before a promised Retry-After had passed
    replays: int  # requests whose signature had been used


class Book:
    """Counts what arrives and what is answered."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.requests: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.stray_count = 0
        self.strays: list[str] = []
        self.max_in_flight = 0
        self.overlaps = 0
        self.peak = 0
        self.early = 0
        self.replays = 0
        self.order = 0  # of the last command cancelled
        self._recent: deque[float] = deque()
        self._flights: dict[int, tuple[int, Callable[[], bool]]] = {}
        self._tickets = 0
        self._quiet = (0.0, 0.0)  # from, until: nobody should send

    def arrive(self, kind: Kind, key: int, alive: Callable[[], bool]) -> int:
        """Count a request; `key` is its device or 0, `alive` whether its sender still waits."""
        self.requests[kind] += 1
        if kind not in _CONNECT:
            return 0
        now = self._clock.monotonic()
        self.early += self._quiet[0] < now < self._quiet[1]
        self._recent.append(now)
        while self._recent[0] <= now - 1.0:
            self._recent.popleft()
        self.peak = max(self.peak, len(self._recent))
        waiting = [other for other, lives in self._flights.values() if lives()]
        self.overlaps += key != 0 and key in waiting
        self.max_in_flight = max(self.max_in_flight, len(waiting) + 1)
        self._tickets += 1
        self._flights[self._tickets] = (key, alive)
        return self._tickets

    def leave(self, ticket: int) -> None:
        self._flights.pop(ticket, None)

    def suffer(self, kind: str, *, slow: bool) -> None:
        """Count a fault."""
        if kind != "none":
            self.faults[kind] += 1
        if slow:
            self.faults["slow"] += 1

    def stray(self, sentence: str) -> None:
        self.stray_count += 1
        if len(self.strays) < _NAMED:
            self.strays.append(sentence)

    def promise_quiet(self, seconds: float) -> None:
        """A Retry-After was said: who comes before it has passed comes early."""
        now = self._clock.monotonic()
        until = max(self._quiet[1], now + seconds)
        start = self._quiet[0] if self._quiet[1] > now else now + _ON_THE_WAY
        self._quiet = (start, until)

    def next_order(self) -> int:
        self.order += 1
        return self.order
