"""What stands between the loop and the ledger: who waits for what, and how a call is run.

A waiter is one event and one value; the writer resolves it after a commit, on the loop. How a
call is run is given to the writer: in a thread of its own in production, at once in a
simulated world.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar, cast

import anyio
from anyio import to_thread

from worker.ledger.entry import Claim

T = TypeVar("T")


class Submit(Protocol):
    """How a call to the ledger is run: one after another, never two at a time."""

    def __call__(self, fn: Callable[[], T], /) -> Awaitable[T]: ...


class OneThread:
    """Run each call in a worker thread, one at a time: the loop never waits for the disk."""

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(1)

    async def __call__(self, fn: Callable[[], T], /) -> T:
        return await to_thread.run_sync(fn, limiter=self._limiter)


class Waiter(Generic[T]):
    """One who waits for a value or an error."""

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.value: T | None = None
        self.error: Exception | None = None

    async def wait(self) -> T:
        await self.event.wait()
        if self.error:
            raise self.error
        return cast("T", self.value)

    def give(self, value: T) -> None:
        self.value = value
        self.event.set()


class Ask(Waiter[T]):
    """A question for the ledger."""

    def __init__(self, fn: Callable[[], T]) -> None:
        super().__init__()
        self._fn = fn

    def answer(self) -> None:
        try:
            self.value = self._fn()
        except Exception as failure:  # noqa: BLE001  # it is raised where the question was asked
            self.error = failure


class PassList:
    """The list of a pass, and how far it is claimed."""

    def __init__(
        self,
        pass_no: int,
        members: Sequence[int] | None,
        limit: int | None,
        *,
        in_doubt: bool = False,
    ) -> None:
        self.in_doubt = in_doubt  # before this pass
        self._pass_no = pass_no
        self._members = members
        self._limit = limit
        self._at = 0
        self.exhausted = members is not None and not members

    def next(self, count: int) -> Claim | None:
        if self.exhausted:
            return None
        if self._members is None:
            return Claim(self._pass_no, count=count, limit=self._limit)
        part = tuple(self._members[self._at : self._at + count])
        return Claim(self._pass_no, members=part)

    def claimed(self, claim: Claim, granted: int) -> None:
        """So many targets of `claim` were there; fewer than asked for were the last."""
        if self._members is None:
            self.exhausted = granted < claim.count
        else:
            self._at += granted
            self.exhausted = self._at >= len(self._members)
