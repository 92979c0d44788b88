"""Group commits and the claims inside them: order, bounds, failures."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeVar

import anyio
import pytest
from sqlalchemy import event

from tests.ledger.plans import claim, counted, devices, mark, outcome, plan, put_off, told
from tests.simulation.clock import VirtualClock
from worker.errors import LedgerError
from worker.ledger.entry import Conflict, Entry
from worker.ledger.store import Store
from worker.ledger.writer import Writer
from worker.model import OutcomeKind, Requests, Spent

T = TypeVar("T")


class Disk:
    """Runs each call after so many seconds of virtual time; fails when told to."""

    def __init__(self, seconds: float = 0.0, fail_at: int = 0) -> None:
        self.seconds = seconds
        self.fail_at = fail_at
        self.calls = 0
        self.at: list[float] = []

    async def __call__(self, fn: Callable[[], T], /) -> T:
        self.calls += 1
        if self.seconds:
            await anyio.sleep(self.seconds)
        self.at.append(anyio.current_time())
        if self.calls == self.fail_at:
            raise LedgerError("ledger x: disk full")
        return fn()


class Heard:
    """What on_commit was told."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.conflicts: list[Conflict] = []

    def __call__(self, entries: Sequence[Entry], conflicts: Sequence[Conflict]) -> None:
        self.entries += entries
        self.conflicts += conflicts


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def make(temporary: Store, clock: VirtualClock, heard: Heard) -> Callable[..., Writer]:
    """A writer over a plan of so many devices."""

    def made(count: int = 10, concurrency: int = 2, disk: Disk | None = None) -> Writer:
        plan(temporary, devices(count))
        writer = Writer(temporary, "r1", disk or Disk(), clock, concurrency, heard)
        writer.open_pass(1)
        return writer

    return made


def ordinals(claimed: Sequence[Any]) -> list[int]:
    return [each.target.ordinal for each in claimed]


async def test_claims_until_the_bound(make: Callable[..., Writer]) -> None:
    """Half of what may be ahead at a time, never more open than concurrency and as much again."""
    writer = make(20, concurrency=4)
    got: list[list[int]] = []

    async def feed() -> None:
        while batch := await writer.claim():
            got.append(ordinals(batch))

    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        group.start_soon(feed)
        await anyio.sleep(10)
        assert got == [[0, 1], [2, 3], [4, 5], [6, 7]]
        assert writer.open == 8
        writer.put(outcome(5))
        writer.put(outcome(0))
        await anyio.sleep(0.01)  # two settled make room for a batch: no need to wait for more
        assert got[4:] == [[8, 9]]
        writer.put(outcome(1))
        await anyio.sleep(0.01)
        assert got[5:] == []
        await anyio.sleep(0.05)  # at the latest now, with whatever room there is
        assert got[5:] == [[10]]
        for ordinal in (2, 3, 4, 6, 7, 8, 9, 10):
            writer.put(outcome(ordinal))
        await anyio.sleep(1)
        for ordinal in range(11, 19):
            writer.put(outcome(ordinal))
        await anyio.sleep(1)
        writer.put(outcome(19))
        writer.close()
    assert sorted(chain.from_iterable(got)) == list(range(20))
    assert writer.open == 0


async def test_claims_without_a_list(make: Callable[..., Writer]) -> None:
    """A list that is worked off gives nothing more, at once, until another pass is opened."""
    writer = make(5, concurrency=8)
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        writer.open_pass(1, limit=3)
        assert ordinals(await writer.claim()) == [0, 1, 2]
        assert await writer.claim() == []
        for entry in (put_off(0), put_off(1), outcome(2)):
            writer.put(entry)
        writer.open_pass(2, members=[1, 0])
        assert ordinals(await writer.claim()) == [0, 1]
        assert await writer.claim() == []
        writer.open_pass(3, members=[])
        assert await writer.claim() == []
        writer.open_pass(3)
        assert ordinals(await writer.claim()) == [3, 4]
        assert await writer.claim() == []
        writer.close()


async def test_list_by_batches(make: Callable[..., Writer], temporary: Store) -> None:
    """A list is claimed in its own order, a batch at a time, each name once."""
    writer = make(12, concurrency=12)
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        assert len(await writer.claim()) == 8
        assert len(await writer.claim()) == 4
        for ordinal in range(12):
            writer.put(put_off(ordinal))
        writer.open_pass(2, members=range(11, -1, -1))
        got = [ordinals(await writer.claim()) for _ in range(3)]
        assert got == [[4, 5, 6, 7, 8, 9, 10, 11], [0, 1, 2, 3], []]
        writer.close()
    assert len(temporary.in_doubt("r1")) == 12


async def test_waiters_of_an_empty_list(make: Callable[..., Writer]) -> None:
    """Everybody who waits is told when nothing is left."""
    writer = make(1, concurrency=2)
    got: list[list[int]] = []

    async def feed() -> None:
        got.append(ordinals(await writer.claim()))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(feed)
        group.start_soon(writer.serve)
        await anyio.sleep(1)
        writer.close()
    assert sorted(got) == [[], [], [0]]


async def test_another_list_meanwhile(make: Callable[..., Writer]) -> None:
    """Who waits when an empty list is opened is told that nothing is left."""
    writer = make(4, concurrency=1)
    got: list[list[int]] = []

    async def feed() -> None:
        while batch := await writer.claim():
            got.append(ordinals(batch))

    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        group.start_soon(feed)
        await anyio.sleep(1)
        writer.open_pass(2, members=[])
        writer.put(outcome(0))
        await anyio.sleep(1)
        assert got == [[0], [1]]
        writer.close()


async def test_results_and_claims_share_a_commit(make: Callable[..., Writer]) -> None:
    """A claim settles what was put before it: one sync for both."""
    disk = Disk()
    writer = make(10, concurrency=2, disk=disk)
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        first = await writer.claim()
        for claimed in first:
            writer.put(outcome(claimed.target.ordinal))
        await writer.claim()
        assert disk.calls == 2
        assert writer.pending() == []
        writer.close()


async def test_at_the_latest(make: Callable[..., Writer]) -> None:
    """A result that nobody waits for is durable 50 ms after it was put."""
    disk = Disk()
    writer = make(disk=disk)
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        for moment in (0.0, 0.02, 1.0):
            await anyio.sleep(moment - anyio.current_time() % 10)
            writer.put(outcome(round(moment * 100)) if moment < 0.5 else outcome(5))
        await anyio.sleep(1)
        assert [round(at, 3) for at in disk.at] == [0.05, 1.05]
        writer.close()


async def test_heard_after_it_is_durable(
    make: Callable[..., Writer], heard: Heard, temporary: Store
) -> None:
    """What on_commit hears is in the ledger, as it was written there."""
    writer = make(2, concurrency=2)
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        await writer.claim()
        await writer.claim()
        writer.put(Entry(0, 1, (told("1"),), None))
        writer.put(outcome(0, "cancelled", "1"))
        writer.put(outcome(1, "cancelled", "1"))
        assert heard.entries == []
        await writer.flush()
        await anyio.lowlevel.checkpoint()
        new = [[c.command.commandId for c in entry.commands] for entry in heard.entries]
        assert new == [["1"], [], ["1"]]
        assert [c.cause for c in heard.conflicts] == ["id_of_other_device"]
        assert counted(temporary) == {"cancelled": 1, "anomalous": 1}
        writer.close()


async def test_ask_comes_after_what_was_put(make: Callable[..., Writer], temporary: Store) -> None:
    """A question is answered from a ledger that has everything put before it."""
    disk = Disk(seconds=1.0)
    writer = make(4, concurrency=4, disk=disk)
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        await writer.claim()
        writer.put(outcome(1))
        assert await writer.ask(lambda: temporary.counts("r1")[OutcomeKind.NOTHING_CACHED]) == 1
        writer.put(outcome(0))
        await writer.flush()
        assert counted(temporary)["nothing_cached"] == 2
        calls = disk.calls
        await writer.flush()  # nothing to wait for
        assert disk.calls == calls
        with pytest.raises(ZeroDivisionError):
            await writer.ask(lambda: 1 // 0)
        writer.close()
    with pytest.raises(LedgerError, match="the record of run r1 is closed"):
        await writer.ask(lambda: 1)


async def test_flush_waits_for_the_commit_under_way(make: Callable[..., Writer]) -> None:
    """What is being committed is not durable yet: flush waits for it."""
    writer = make(4, concurrency=4, disk=Disk(seconds=1.0))
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        writer.put(outcome(0))
        await anyio.sleep(0.5)
        assert writer.pending() == [outcome(0)]
        await writer.flush()
        assert writer.pending() == []
        writer.close()


async def test_close_commits_the_rest(make: Callable[..., Writer], temporary: Store) -> None:
    """serve ends only when everything is durable, and whoever waits for a claim gets none."""
    writer = make(3, concurrency=1, disk=Disk(seconds=0.3))
    got: list[int] = []

    async def feed() -> None:
        while batch := await writer.claim():
            got.extend(ordinals(batch))
        assert await writer.claim() == []

    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        group.start_soon(feed)
        await anyio.sleep(2)
        writer.put(outcome(0))
        writer.put(outcome(1))
        writer.close()
    assert got == [0, 1]
    assert counted(temporary) == {"nothing_cached": 2, "not_attempted": 1}


async def test_a_claim_that_nobody_fetches(make: Callable[..., Writer], temporary: Store) -> None:
    """A claim granted to one who was cancelled goes to the next, or back to the plan."""
    writer = make(3, concurrency=2, disk=Disk(seconds=1.0))
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        with anyio.move_on_after(0.5):
            await writer.claim()
        await anyio.sleep(1)
        assert ordinals(await writer.claim()) == [0]
        with anyio.move_on_after(0.5):
            await writer.claim()
        await anyio.sleep(1)
        with anyio.CancelScope() as scope:
            group.start_soon(_later, scope)
            await writer.claim()
            await writer.claim()
        writer.close()
    assert [doubt.ordinal for doubt in temporary.in_doubt("r1")] == [0, 1]
    assert list(temporary.deferred("r1")) == [2]


async def test_a_doubt_that_nobody_fetches(make: Callable[..., Writer], temporary: Store) -> None:
    """What an earlier pass may have sent stays in doubt: this one proved nothing of it."""
    writer = make(2, concurrency=2, disk=Disk(seconds=1.0))
    claim(temporary, 2)
    writer.open_pass(2, (0, 1), in_doubt=True)
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        with anyio.move_on_after(0.5):
            await writer.claim()
        await anyio.sleep(1)
        writer.close()
    assert [doubt.ordinal for doubt in temporary.in_doubt("r1")] == [0, 1]
    assert list(temporary.deferred("r1")) == []


async def _later(scope: anyio.CancelScope) -> None:
    await anyio.sleep(0.2)
    scope.cancel()


async def test_granted_and_cancelled_at_once(make: Callable[..., Writer], temporary: Store) -> None:
    """Cancelled in the moment of the grant, the targets are put back when the run closes."""
    scope = anyio.CancelScope()

    class Hasty(Disk):
        async def __call__(self, fn: Callable[[], T], /) -> T:
            done = await super().__call__(fn)
            scope.cancel()
            return done

    writer = make(1, concurrency=2, disk=Hasty())
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        with scope:
            await writer.claim()
        assert scope.cancelled_caught
        assert writer.open == 1
        writer.close()
    assert list(temporary.deferred("r1")) == [0]


async def test_nothing_waits_for_a_cancelled_claim(make: Callable[..., Writer]) -> None:
    """A claim that was given up before any commit claims nothing."""
    disk = Disk()
    writer = make(1, disk=disk)
    with anyio.move_on_after(0.1):
        await writer.claim()
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        await anyio.sleep(1)
        writer.close()
    assert disk.calls <= 1
    assert writer.open == 0


@pytest.mark.parametrize("fail_at", [1, 2, 3])
async def test_a_failed_commit_is_final(
    make: Callable[..., Writer], temporary: Store, fail_at: int
) -> None:
    """Everybody who waits is told, nothing is tried again, nothing put is forgotten."""
    disk = Disk(seconds=0.1, fail_at=fail_at)
    writer = make(8, concurrency=2, disk=disk)
    raised: list[str] = []
    put: list[Entry] = []

    async def work() -> None:
        try:
            while batch := await writer.claim():
                for claimed in batch:
                    put.append(outcome(claimed.target.ordinal))
                    writer.put(put[-1])
        except LedgerError as failure:
            raised.append(str(failure))

    async def flush() -> None:
        await anyio.sleep(0.01 if fail_at == 1 else 0.15)
        try:
            while True:
                await writer.ask(lambda: None)
                await anyio.sleep(0.01)
        except LedgerError as failure:
            raised.append(str(failure))

    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        group.start_soon(work)
        group.start_soon(flush)
    calls = disk.calls
    late = put_off(7)
    writer.put(late)
    for waits in (writer.claim(), writer.flush(), writer.ask(lambda: None)):
        with pytest.raises(LedgerError, match="disk full"):
            await waits
    durable = 8 - counted(temporary)["not_attempted"] - len(temporary.in_doubt("r1"))
    assert raised == ["ledger x: disk full"] * 2
    assert (disk.calls, calls) == (fail_at, fail_at)
    assert list(writer.pending()) == [*put[durable:], late]


async def test_a_failed_question_is_final(make: Callable[..., Writer], temporary: Store) -> None:
    """A ledger that cannot answer is broken: the commit before it stands, nothing follows."""
    writer = make(4)

    def fail() -> None:
        raise LedgerError("ledger x: disk I/O error")

    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        await writer.claim()
        writer.put(outcome(0))
        with pytest.raises(LedgerError, match="disk I/O error"):
            await writer.ask(fail)
    assert writer.pending() == []
    assert counted(temporary)["nothing_cached"] == 1
    with pytest.raises(LedgerError, match="disk I/O error"):
        await writer.flush()


async def test_cancelled_while_committing(make: Callable[..., Writer]) -> None:
    """A commit under way is waited for, so that pending tells the truth."""
    writer = make(4, disk=Disk(seconds=1.0))
    writer.put(outcome(0))
    with anyio.move_on_after(0.5):
        await writer.serve()
    assert writer.pending() == []
    with pytest.raises(LedgerError, match="closed"):
        await writer.claim()


async def test_doubts_come_on_top(make: Callable[..., Writer]) -> None:
    """A target that waits for a look-up makes room, once, however often it is marked."""
    writer = make(20, concurrency=2)
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        for _ in range(4):
            await writer.claim()
        assert writer.open == 4
        writer.put(Entry(0, 1, (told("1"),), None))  # commands alone do not
        await writer.flush()
        assert writer.open == 4
        for entry in (mark(0), mark(0), mark(1)):
            writer.put(entry)
        await writer.flush()
        writer.put(outcome(0))
        await writer.flush()
        assert writer.open == 2
        writer.close()


@pytest.mark.parametrize("seed", range(16))
async def test_the_bound(make: Callable[..., Writer], temporary: Store, seed: int) -> None:
    """Whatever settles in whatever order on whatever disk: never more open than the bound.

    The ledger itself is asked, so that a crash at any moment leaves no more in doubt.
    """
    chance = random.Random(seed)
    concurrency = chance.choice([1, 2, 5, 16])
    disk = Disk(seconds=chance.choice([0.0, 0.001, 0.02, 0.3]))
    speed = chance.choice([0.0005, 0.01, 0.2])
    writer = make(120, concurrency, disk)
    open_most = 0
    ahead = concurrency
    marked: set[int] = set()

    async def send(ordinal: int) -> None:
        await anyio.sleep(chance.random() * speed)
        kind = chance.random()
        if kind < 0.1:
            marked.add(ordinal)
            writer.put(mark(ordinal))
            await anyio.sleep(chance.random())
        writer.put(put_off(ordinal) if 0.1 < kind < 0.2 else outcome(ordinal))

    async def workers() -> None:
        nonlocal open_most, ahead
        queue: list[int] = []

        async def worker() -> None:
            nonlocal open_most, ahead
            while True:
                async with fetching:
                    if not queue:
                        queue.extend(ordinals(await writer.claim()))
                    if not queue:
                        return
                    ordinal = queue.pop(0)
                ahead = max(ahead, writer._ahead)
                doubts = [d for d in temporary.in_doubt("r1") if d.mark is None]
                open_most = max(open_most, len(doubts))
                await send(ordinal)

        fetching = anyio.Lock()
        async with anyio.create_task_group() as group:
            for _ in range(concurrency):
                group.start_soon(worker)
        await writer.flush()
        writer.close()

    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        group.start_soon(workers)
    assert open_most <= concurrency + ahead
    assert temporary.in_doubt("r1") == []
    assert sum(temporary.counts("r1").values()) == 120


async def test_what_is_told_is_durable_at_once(make: Callable[..., Writer]) -> None:
    """Nothing waits for it, and it waits for no group; what was told before the end is done."""
    disk = Disk()
    writer = make(disk=disk)
    done: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        writer.tell(lambda: done.append("first"))
        await anyio.sleep(0.001)
        assert (done, disk.calls) == (["first"], 1)
        writer.tell(lambda: done.append("last"))
        writer.close()
    writer.tell(lambda: done.append("never"))
    assert done == ["first", "last"]


async def test_what_is_told_may_fail(make: Callable[..., Writer]) -> None:
    """A ledger that does not take it is a ledger that failed: who asks next is told."""

    def fail() -> None:
        raise LedgerError("disk full")

    writer = make()
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        writer.tell(fail)
        await anyio.sleep(0.001)
        with pytest.raises(LedgerError, match="disk full"):
            await writer.ask(lambda: 1)
        writer.tell(fail)
        writer.close()


async def test_clocks_apart(make: Callable[..., Writer], temporary: Store) -> None:
    """The greatest difference goes with the next group, once, and a smaller one never."""
    writer = make(5)
    updates = 0

    def count(*said: Any) -> None:
        nonlocal updates
        updates += "clock_apart_ms" in said[2] and said[2].startswith("UPDATE")

    event.listen(temporary._database.engine, "before_cursor_execute", count)
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        await writer.claim()
        seen = []
        for ms in (0, 2500, 1200, 2500, 9000):
            writer.put_clock_apart(ms)
            await writer.flush()
            seen.append((temporary.run("r1").clock_apart_ms, updates))
        writer.put_clock_apart(9001)
        writer.close()
    assert seen == [(0, 0), (2500, 1), (2500, 1), (2500, 1), (9000, 2)]
    assert temporary.run("r1").clock_apart_ms == 9001
    temporary.commit("r1", [], now_ms=1, clock_apart_ms=3000)  # as a resume that saw less
    assert temporary.run("r1").clock_apart_ms == 9001


async def test_what_was_used_is_noted_once_a_second(
    make: Callable[..., Writer], temporary: Store
) -> None:
    """With the first results after a second, and never for its own sake."""
    writer = make(10, concurrency=10)
    used = [Spent(Requests(number), number) for number in range(9)]
    writer.spent = used.pop
    noted = []
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        await writer.claim()
        for ordinal, seconds in enumerate((0.0, 0.5, 0.6, 0.2, 5.0)):
            await anyio.sleep(seconds)
            writer.put(outcome(ordinal))
            await writer.flush()
            noted.append(temporary.run("r1").spent.active_ms)
        writer.close()
    assert noted == [0, 0, 8, 8, 7]
    assert used == [Spent(Requests(number), number) for number in range(7)]
