"""The only way to the ledger while a run is on: group commits, and claims granted inside them.

Recording a result is a plain call, so that nothing can come between a reply's last byte and its
record. One background task commits in groups: when a claim, a question or a flush waits, at the
latest 50 ms after the first result. No more targets are claimed than may be in doubt, so that
a slow disk slows the run by itself and never widens what a crash leaves open.
A commit that fails is final: whoever waits is told, what was not durable is kept for the last
resort, and nothing is tried again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import anyio
from msgspec import Struct

from worker.clock import Clock
from worker.errors import LedgerError
from worker.ledger.entry import Claim, ClaimedTarget, Conflict, Deferral, Entry, Granted
from worker.ledger.rate import SettleRate
from worker.ledger.store import Store
from worker.ledger.waiting import Ask, PassList, Submit, Waiter
from worker.model import Spent

T = TypeVar("T")

SPENT_EVERY = 1.0  # seconds between two notes of what the run has used
PATIENCE = 0.05  # seconds a result may wait for others before it is committed
NOT_STARTED = "not_started"  # cause of a claim that was granted and fetched by nobody


class Writer:
    """The record of one run while it is on; made for one event loop."""

    def __init__(
        self,
        store: Store,
        run_id: str,
        submit: Submit,
        clock: Clock,
        concurrency: int,
        on_commit: Callable[[Sequence[Entry], Sequence[Conflict]], None],
    ) -> None:
        """`on_commit` hears, on the loop, what has become durable, as it was written."""
        self._store = store
        self._run_id = run_id
        self._submit = submit
        self._clock = clock
        self._concurrency = concurrency
        self._on_commit = on_commit
        self._rate = SettleRate(clock)
        self._ahead = concurrency  # how many may be claimed beyond those in flight
        self._entries: list[Entry] = []
        self._committing: list[Entry] = []
        self._open: set[int] = set()  # ordinals claimed, nothing durable of them yet
        self._settling: set[int] = set()  # of those, put since
        self._enough = 0  # so many of these make room for a claim
        self._list: PassList | None = None
        self._clock_apart_ms = 0  # the greatest that was put
        self._grown_apart_ms = 0  # the same, if it is not committed yet
        self._claims: deque[Waiter[list[ClaimedTarget]]] = deque()
        self._asks: list[Ask[Any]] = []
        self._unfetched: list[ClaimedTarget] = []
        self._wake = anyio.Event()
        self._dirty = anyio.Event()  # there is a result to commit
        self._first_put = 0.0  # monotonic, of the results that wait
        self._due = False
        self._closing = False
        self._ended = False
        self._failure: LedgerError | None = None
        self.spent: Callable[[], Spent] | None = None  # what the run has used by now
        self._spent_noted = clock.monotonic()

    def open_pass(
        self,
        pass_no: int,
        members: Sequence[int] | None = None,
        limit: int | None = None,
        *,
        in_doubt: bool = False,
    ) -> None:
        """Say what `claim` hands out from now on: `members`, else the plan up to `limit`.

        in_doubt: an earlier pass may have sent them.
        """
        self._list = PassList(pass_no, members, limit, in_doubt=in_doubt)

    def put(self, entry: Entry) -> None:
        """Record `entry` with the next group. Never waits, never raises.

        After a failure it is kept for `pending`.
        """
        if not self._entries:
            self._first_put = self._clock.monotonic()
            self._dirty.set()
        self._entries.append(entry)
        if entry.verdict is not None and entry.ordinal in self._open:
            self._settling.add(entry.ordinal)
            if self._claims and len(self._settling) >= self._enough:
                self._wake.set()

    def put_clock_apart(self, ms: int) -> None:
        """Record with the next group that clocks were seen so far apart, if never so far before."""
        if ms > self._clock_apart_ms:
            self._clock_apart_ms = self._grown_apart_ms = ms

    async def claim(self) -> list[ClaimedTarget]:
        """The next targets of the pass, durably claimed; [] when its list is exhausted.

        Waits while as many are open as may be in doubt. Raises LedgerError.
        """
        if self._unfetched:
            handed, self._unfetched = self._unfetched, []
            return handed
        self._check()
        if self._closing or self._list is None or self._list.exhausted:
            return []
        waiter = Waiter[list[ClaimedTarget]]()
        self._claims.append(waiter)
        self._wake.set()
        try:
            return await waiter.wait()
        except BaseException:  # a cancellation, or the end of a loop that was torn down
            self._give_up(waiter)
            raise

    async def ask(self, fn: Callable[[], T]) -> T:
        """The answer of `fn`, run after all that was put before is durable.

        Raises LedgerError, or whatever `fn` raises.
        """
        self._check()
        ask = Ask(fn)
        self._asks.append(ask)
        self._wake.set()
        return await ask.wait()

    def tell(self, fn: Callable[[], object]) -> None:
        """Run `fn` as `ask` does, soon; nothing waits for it. Never waits, never raises."""
        if not (self._failure or self._ended):
            self._asks.append(Ask(fn))
            self._wake.set()

    async def flush(self) -> None:
        """Return when all that was put is durable. Raises LedgerError."""
        if self._entries or self._committing or self._grown_apart_ms or self._failure:
            await self.ask(_nothing)

    def close(self) -> None:
        """Let `serve` end once all is committed."""
        self._closing = True
        self._wake.set()

    def pending(self) -> Sequence[Entry]:
        """What was put and is not known to be durable."""
        return [*self._committing, *self._entries]

    @property
    def open(self) -> int:
        """Targets claimed of which nothing is durable yet: so many a crash now leaves in doubt."""
        return len(self._open)

    async def serve(self) -> None:
        """Commit until closed. A failure ends it quietly: the waiters are who must know."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._tick)
                while self._failure is None and not (self._closing and self._idle()):
                    if self._ready():
                        await self._commit()
                    else:
                        self._wake = anyio.Event()
                        await self._wake.wait()
                group.cancel_scope.cancel()
        finally:
            self._ended = True

    # ------------------------------------------------------------ when to commit

    async def _tick(self) -> None:
        """See that no result waits longer than PATIENCE."""
        while True:
            await self._dirty.wait()
            left = self._first_put + PATIENCE - self._clock.monotonic()
            if self._entries and left > 0:
                await self._clock.sleep(left)
                continue
            self._dirty = anyio.Event()
            if self._entries:
                self._due = True
                self._wake.set()

    def _ready(self) -> bool:
        """Whether a commit is worth its sync now."""
        if self._due or self._asks or self._closing:
            return True
        return bool(self._claims) and len(self._settling) >= self._enough

    def _idle(self) -> bool:
        waiting = self._asks or self._claims or self._unfetched
        return not (self._entries or self._grown_apart_ms or waiting)

    def _batch(self) -> int:
        return max(1, self._ahead * 2 // 3)

    def _room(self) -> int:
        """How many may be claimed by a commit that settles what was put."""
        left = len(self._open) - len(self._settling)
        return self._concurrency + self._ahead - left

    def _weigh(self) -> None:
        """How many results are worth a commit: then there is room for a batch."""
        self._enough = self._batch() + len(self._open) - self._concurrency - self._ahead

    # ------------------------------------------------------------ one commit

    async def _commit(self) -> None:
        if self._closing:
            self._put_back()
        group = _Group(
            self._list,
            self._next_claim(),
            self._settling,
            self._asks,
            self._grown_apart_ms,
            self._spent(),
        )
        self._committing, self._entries = self._entries, []
        self._settling, self._asks, self._due, self._grown_apart_ms = set(), [], False, 0
        now_ms = self._clock.wall_ms()
        try:
            with anyio.CancelScope(shield=True):  # what was written must be known as written
                granted = await self._submit(lambda: self._write(group, now_ms))
        except LedgerError as failure:
            self._fail(failure, group.asks)
            return
        committed, self._committing = self._committing, []
        self._open -= group.settling
        self._rate.settled(len(group.settling))
        self._ahead = max(self._concurrency, math.ceil(PATIENCE * self._rate.per_second))
        self._grant(group, granted.targets)
        self._weigh()
        for ask in group.asks:
            ask.event.set()
            if isinstance(ask.error, LedgerError):
                self._fail(ask.error, [])
        if committed:
            self._on_commit(granted.entries, granted.conflicts)

    def _spent(self) -> Spent | None:
        """What the run has used, for a commit of results that comes a while after the last note."""
        now = self._clock.monotonic()
        if self.spent is None or not self._entries or now < self._spent_noted + SPENT_EVERY:
            return None
        self._spent_noted = now
        return self.spent()

    def _next_claim(self) -> Claim | None:
        if self._closing or not self._claims or self._list is None:
            return None
        count = min(self._batch(), self._room())
        return self._list.next(count) if count > 0 else None

    def _write(self, group: _Group, now_ms: int) -> Granted:
        """In the writer's thread: the group and its claim, then the questions."""
        granted = Granted([], [], [])
        if self._committing or group.claim or group.clock_apart_ms:
            granted = self._store.commit(
                self._run_id,
                self._committing,
                group.claim,
                now_ms=now_ms,
                clock_apart_ms=group.clock_apart_ms,
                spent=group.spent,
            )
        for ask in group.asks:
            ask.answer()
        return granted

    def _grant(self, group: _Group, targets: list[ClaimedTarget]) -> None:
        """Hand a claim to whoever waited for it, and tell the others when nothing is left."""
        self._open.update(each.target.ordinal for each in targets)
        if group.claim and group.source:
            group.source.claimed(group.claim, len(targets))
            if targets and self._claims:
                self._claims.popleft().give(targets)
            else:
                self._unfetched += targets
        if self._closing or self._list is None or self._list.exhausted:
            while self._claims:
                self._claims.popleft().give([])

    def _give_up(self, waiter: Waiter[list[ClaimedTarget]]) -> None:
        """What was granted to one who waits no longer is for the next."""
        self._unfetched += waiter.value or []
        with suppress(ValueError):
            self._claims.remove(waiter)

    def _put_back(self) -> None:
        """Nobody fetches these any more: they are proven not to be sent.

        What was in doubt before it was claimed stays so: that this pass did not send it proves
        nothing of an earlier one.
        """
        if self._list is not None and not self._list.in_doubt:
            for claimed in self._unfetched:
                self.put(
                    Entry(claimed.target.ordinal, claimed.pass_no, (), Deferral(cause=NOT_STARTED))
                )
        self._unfetched = []

    def _fail(self, failure: LedgerError, asks: Sequence[Ask[Any]]) -> None:
        self._failure = failure
        waiting: list[Waiter[Any]] = [*self._claims, *asks, *self._asks]
        for waiter in waiting:
            waiter.error = failure
            waiter.event.set()
        self._claims.clear()

    def _check(self) -> None:
        if self._failure:
            raise self._failure
        if self._ended:
            raise LedgerError(f"the record of run {self._run_id} is closed")


class _Group(Struct):
    """What one commit is about."""

    source: PassList | None
    claim: Claim | None
    settling: set[int]
    asks: list[Ask[Any]]
    clock_apart_ms: int  # 0: not greater than before
    spent: Spent | None  # None: noted a moment ago


def _nothing() -> None:
    """What a flush asks for."""
