"""What a worker does next: what is due, then what is new, until nothing can come any more."""

from __future__ import annotations

import anyio
import pytest

from tests.run.rig import whole
from tests.simulation.clock import VirtualClock
from worker.ledger.entry import ClaimedTarget
from worker.model import Stop
from worker.run.agenda import Agenda, Course
from worker.run.case import Case
from worker.run.stop import Switch


async def _nothing() -> None:
    return None


class Desk:
    """An agenda with everything around it; targets are handed to a course that does nothing."""

    def __init__(self, places: int = 9) -> None:
        self.clock, self.switch = VirtualClock(), Switch()
        self.agenda = Agenda(self.clock, self.switch, places, self.begin)
        self.begun: list[int] = []

    def begin(self, claimed: ClaimedTarget) -> None:
        self.begun.append(claimed.target.ordinal)
        self.agenda.hand(self.course(claimed.target.ordinal))

    def course(self, ordinal: int) -> Course:
        steps = _nothing()
        steps.close()
        return Course(Case(whole(ordinal), 0, 0.0), steps)

    def add(self, *ordinals: int) -> None:
        self.agenda.add([ClaimedTarget(whole(ordinal), 0) for ordinal in ordinals])

    async def next(self) -> int | None:
        course = await self.agenda.next()
        return None if course is None else course.case.target.ordinal

    async def parked(self, ordinal: int, moment: float) -> None:
        """A target that has begun and waits."""
        self.add(ordinal)
        course = await self.agenda.next()
        assert course is not None
        self.begun.pop()
        self.agenda.park(course, moment)

    def closed(self) -> None:
        self.agenda.closed()
        self.agenda.deal()


async def test_due_comes_before_new() -> None:
    """A look-up that is due goes before a new target, the earliest moment first."""
    desk = Desk(places=1)
    await desk.parked(8, 4.0)
    await desk.parked(7, 3.0)
    desk.add(0, 1)
    assert await desk.next() == 0
    await anyio.sleep(5.0)
    for ordinal in (7, 8, 1):
        desk.closed()
        assert await desk.next() == ordinal


async def test_waiting_holds_no_worker() -> None:
    """While courses wait, a worker begins new targets."""
    desk = Desk(places=3)
    await desk.parked(9, 1000.0)
    desk.add(0, 1, 2)
    assert [await desk.next() for _ in range(3)] == [0, 1, 2]
    assert desk.clock.monotonic() == 0.0


async def test_a_worker_wakes_when_the_first_moment_comes() -> None:
    """An idle worker sleeps exactly until the earliest course is due, later ones added before."""
    desk = Desk()
    await desk.parked(1, 50.0)
    desk.agenda.filled()
    got: list[tuple[int | None, float]] = []

    async def worker() -> None:
        got.append((await desk.next(), desk.clock.monotonic()))

    async with anyio.create_task_group() as group:
        group.start_soon(worker)
        group.start_soon(worker)
        await anyio.sleep(1.0)
        await desk.parked(2, 20.0)
    assert got == [(2, 20.0), (1, 50.0)]


async def test_no_wake_up_is_lost() -> None:
    """Targets that are added while all workers wait are begun at once."""
    desk = Desk()
    got: list[tuple[int | None, float]] = []

    async def worker() -> None:
        while (ordinal := await desk.next()) is not None:
            got.append((ordinal, desk.clock.monotonic()))
            desk.closed()

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(worker)
        for batch in ((0, 1), (2,), (3, 4, 5)):
            await anyio.sleep(1.0)
            desk.add(*batch)
        await anyio.sleep(1.0)
        desk.agenda.filled()
    assert got == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 3.0), (5, 3.0)]
    assert desk.clock.monotonic() == 4.0


async def test_open_limit_holds_new_targets_back() -> None:
    """No new target begins while so many are unsettled; a settled one makes room (row 28)."""
    desk = Desk()
    desk.agenda.open_limit = 2
    desk.add(0, 1, 2)
    assert [await desk.next(), await desk.next()] == [0, 1]
    with anyio.move_on_after(5.0) as waited:
        await desk.next()
    assert waited.cancelled_caught
    desk.closed()
    assert await desk.next() == 2


async def test_open_limit_does_not_hold_back_what_is_due() -> None:
    """A course that has begun goes on whatever the limit says."""
    desk = Desk()
    desk.agenda.open_limit = 1
    await desk.parked(5, 2.0)
    desk.add(0)
    assert await desk.next() == 5
    assert desk.clock.monotonic() == 2.0


async def test_without_the_limit_all_that_wait_begin() -> None:
    """The first success lets all that wait begin at that moment."""
    desk = Desk()
    desk.agenda.open_limit = 1
    desk.add(0, 1, 2)
    assert desk.begun == [0]
    desk.agenda.open_limit = None
    desk.agenda.deal()
    assert desk.begun == [0, 1, 2]


async def test_no_more_are_moved_on_than_there_are_places() -> None:
    """A place is taken until its target waits, settles, or is put off."""
    desk = Desk(places=2)
    desk.add(0, 1, 2, 3)
    assert desk.begun == [0, 1]
    course = await desk.agenda.next()
    assert course is not None
    desk.agenda.park(course, 5.0)
    desk.agenda.deal()
    assert desk.begun == [0, 1, 2]
    desk.closed()
    assert desk.begun == [0, 1, 2, 3]
    assert [await desk.next() for _ in range(3)] == [1, 2, 3]
    with anyio.move_on_after(9.0) as waited:  # what is due has no place
        await desk.next()
    assert waited.cancelled_caught
    desk.closed()
    assert await desk.next() == 0


async def test_ends_exactly_when_nothing_can_come() -> None:
    """Workers leave when the list is done and nothing is open, not before."""
    desk = Desk()
    assert [Desk().agenda.left, desk.agenda.left] == [True, True]
    desk.add(0)
    desk.agenda.filled()
    assert await desk.next() == 0
    assert not desk.agenda.left
    left: list[float] = []

    async def worker() -> None:
        assert await desk.next() is None
        left.append(desk.clock.monotonic())

    async with anyio.create_task_group() as group:
        group.start_soon(worker)
        group.start_soon(worker)
        await anyio.sleep(6.0)
        desk.agenda.closed()
    assert left == [6.0, 6.0]


async def test_low_waits_until_half_has_begun() -> None:
    """The next batch is asked for when half of the last one has begun."""
    desk = Desk(places=1)
    desk.add(0, 1, 2, 3)
    low: list[bool] = []

    async def feeder() -> None:
        low.append(await desk.agenda.low())

    async with anyio.create_task_group() as group:
        group.start_soon(feeder)
        await anyio.sleep(1.0)
        assert (desk.begun, low) == ([0], [])
        desk.closed()
        await anyio.sleep(1.0)
        assert (desk.begun, low) == ([0, 1], [True])
    assert await desk.agenda.low()


@pytest.mark.parametrize("what", ["low", "next"])
async def test_stop_releases_everybody(what: str) -> None:
    """Feeder and workers leave at once when the run stops, whatever waits."""
    desk = Desk(places=1)
    await desk.parked(9, 1000.0)
    if what == "low":
        desk.add(0, 1, 2, 3)
    async with anyio.create_task_group() as group:

        async def waiter() -> None:
            if what == "low":
                assert not await desk.agenda.low()
            else:
                assert await desk.agenda.next() is None

        group.start_soon(waiter)
        await anyio.sleep(2.0)
        desk.switch.throw(Stop("signal", "SIGTERM"))
    assert desk.clock.monotonic() == 2.0
    assert await desk.agenda.next() is None


async def test_abandon_hands_over_what_is_left() -> None:
    """After a stop: what was to be moved on, what waited, by its moment, what had not begun."""
    desk = Desk(places=1)
    await desk.parked(1, 9.0)
    await desk.parked(2, 5.0)
    desk.add(3, 4)
    courses, targets = desk.agenda.abandon()
    assert [course.case.target.ordinal for course in courses] == [3, 2, 1]
    assert [claimed.target.ordinal for claimed in targets] == [4]
    assert desk.agenda.abandon() == ([], [])
