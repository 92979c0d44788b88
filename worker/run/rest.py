"""The rest that a gateway asked for, beyond the process that heard it.

A Retry-After is kept in the ledger under the gateway's URL. The next process waits it out before
its first request, one for a token included, and then forgets it: a moment that cannot be right,
because a clock was set, is waited for once, and never longer than `retry_after_max`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from worker.clock import Clock
from worker.model import Ambiguous, Refused
from worker.run.record import Observer
from worker.run.stop import Bounds, Switch
from worker.run.wire import Halted

_MOST = 366 * 86_400.0  # s; what is asked for beyond is not to the second

T = TypeVar("T")


class Memory(Protocol):
    """Where a rest is kept; called where the ledger's commits run."""

    def pause(self) -> int | None:
        """Until when the gateway asked for rest, Unix ms."""

    def keep_pause(self, until_ms: int) -> None:
        """Keep it for the next process; the later of two moments holds."""

    def forget_pause(self, until_ms: int) -> None:
        """It is over; one that ends later is kept."""


class Ledger(Protocol):
    """How the ledger is asked (`ledger.writer.Writer`)."""

    async def ask(self, fn: Callable[[], T], /) -> T: ...
    def tell(self, fn: Callable[[], object], /) -> None: ...


class Rest:
    """Keeps what this process is asked for, waits out what an earlier one was."""

    def __init__(
        self,
        ledger: Ledger,
        memory: Memory,
        clock: Clock,
        switch: Switch,
        bounds: Bounds,
        observer: Observer,
    ) -> None:
        self._ledger = ledger
        self._memory = memory
        self._clock = clock
        self._switch = switch
        self._bounds = bounds
        self._observer = observer
        self._until_ms = 0  # kept by this process

    def asked_for(self, seconds: float) -> None:
        """A Retry-After came: durable at once, for the process may not live to see its end."""
        until_ms = self._clock.wall_ms() + int(min(seconds, _MOST) * 1000) + 1
        until_ms += -until_ms % 1000  # several replies of one moment ask for the same second
        if until_ms > self._until_ms:
            self._until_ms = until_ms
            self._ledger.tell(partial(self._memory.keep_pause, until_ms))

    def throttled(self, reply: Refused | Ambiguous, seconds: float, concurrency: int) -> None:
        """Everybody waits for so long, and then so many may be in flight."""
        self._observer.throttled(reply, seconds, concurrency)

    async def wait_out(self, longest: float) -> None:
        """Wait for the end of a rest that is kept, at most for so many seconds.

        Halted when the run stops meanwhile, or its end comes first.
        """
        ends = self._clock.monotonic() + longest
        while (until_ms := await self._ledger.ask(self._memory.pause)) is not None:
            left = (until_ms - self._clock.wall_ms()) / 1000
            left = min(left, ends - self._clock.monotonic())
            if left <= 0:
                await self._ledger.ask(partial(self._memory.forget_pause, until_ms))
                return
            await self._wait(left)

    async def _wait(self, seconds: float) -> None:
        if stop := self._bounds.passed(ahead=seconds):
            self._switch.throw(stop)
        else:
            self._observer.resting(seconds)
        if not await self._switch.sleep(seconds):
            raise Halted


def rest_of(until_ms: int, now_ms: int, longest: float) -> int | None:
    """Until when a process that begins now will wait, Unix ms; None: it need not."""
    until_ms = min(until_ms, now_ms + round(longest * 1000))
    return until_ms if until_ms > now_ms else None
