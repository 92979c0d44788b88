"""What a worker does next: what is due, then what is new, until nothing can come any more."""

from __future__ import annotations

import anyio
import pytest

from tests.run.rig import whole
from tests.simulation.clock import VirtualClock
from worker.model import Stop
from worker.run.agenda import Agenda, Course
from worker.run.case import Case
from worker.run.stop import Switch


async def _nothing() -> None:
    return None


class Desk:
    """An agenda with everything around it; a course does nothing by itself."""

    def __init__(self) -> None:
        self.clock, self.switch = VirtualClock(), Switch()
        self.agenda = Agenda(self.clock, self.switch, self.begin)
        self.begun: list[int] = []

    def begin(self, case: Case) -> Course:
        self.begun.append(case.target.ordinal)
        steps = _nothing()
        steps.close()
        return Course(case, steps)

    def cases(self, *ordinals: int) -> list[Case]:
        return [Case(whole(ordinal), 0, 0.0) for ordinal in ordinals]

    async def next(self) -> int | None:
        course = await self.agenda.next()
        return None if course is None else course.case.target.ordinal

    def parked(self, ordinal: int, moment: float) -> Course:
        course = self.begin(self.cases(ordinal)[0])
        self.begun.pop()
        self.agenda.open += 1
        self.agenda.park(course, moment)
        return course


async def test_due_comes_before_new() -> None:
    """A look-up that is due goes before a new target, the earliest moment first."""
    desk = Desk()
    desk.agenda.add(desk.cases(0, 1))
    desk.parked(8, 4.0)
    desk.parked(7, 3.0)
    assert await desk.next() == 0
    await anyio.sleep(5.0)
    assert [await desk.next() for _ in range(3)] == [7, 8, 1]


async def test_waiting_holds_no_worker() -> None:
    """While courses wait, a worker begins new targets."""
    desk = Desk()
    desk.parked(9, 1000.0)
    desk.agenda.add(desk.cases(0, 1, 2))
    assert [await desk.next() for _ in range(3)] == [0, 1, 2]
    assert desk.clock.monotonic() == 0.0


async def test_a_worker_wakes_when_the_first_moment_comes() -> None:
    """An idle worker sleeps exactly until the earliest course is due, later ones added before."""
    desk = Desk()
    desk.agenda.filled()
    desk.parked(1, 50.0)
    got: list[tuple[int | None, float]] = []

    async def worker() -> None:
        got.append((await desk.next(), desk.clock.monotonic()))

    async with anyio.create_task_group() as group:
        group.start_soon(worker)
        group.start_soon(worker)
        await anyio.sleep(1.0)
        desk.parked(2, 20.0)
    assert got == [(2, 20.0), (1, 50.0)]


async def test_no_wake_up_is_lost() -> None:
    """Targets that are added while all workers wait are begun at once."""
    desk = Desk()
    got: list[tuple[int | None, float]] = []

    async def worker() -> None:
        while (ordinal := await desk.next()) is not None:
            got.append((ordinal, desk.clock.monotonic()))
            desk.agenda.closed()

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(worker)
        for batch in ((0, 1), (2,), (3, 4, 5)):
            await anyio.sleep(1.0)
            desk.agenda.add(desk.cases(*batch))
        await anyio.sleep(1.0)
        desk.agenda.filled()
    assert got == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 3.0), (5, 3.0)]
    assert desk.clock.monotonic() == 4.0


async def test_open_limit_holds_new_targets_back() -> None:
    """No new target begins while so many are unsettled; a settled one makes room (row 28)."""
    desk = Desk()
    desk.agenda.open_limit = 2
    desk.agenda.add(desk.cases(0, 1, 2))
    assert [await desk.next(), await desk.next()] == [0, 1]
    with anyio.move_on_after(5.0) as waited:
        await desk.next()
    assert waited.cancelled_caught
    desk.agenda.closed()
    assert await desk.next() == 2


async def test_open_limit_does_not_hold_back_what_is_due() -> None:
    """A course that has begun goes on whatever the limit says."""
    desk = Desk()
    desk.agenda.open_limit = 1
    desk.agenda.add(desk.cases(0))
    desk.parked(5, 2.0)
    assert await desk.next() == 5
    assert desk.clock.monotonic() == 2.0


async def test_unlimited_wakes_the_workers() -> None:
    """The first success lets all that wait begin at that moment."""
    desk = Desk()
    desk.agenda.open_limit = 1
    desk.agenda.add(desk.cases(0, 1))
    await desk.next()
    async with anyio.create_task_group() as group:

        async def worker() -> None:
            assert await desk.next() == 1

        group.start_soon(worker)
        await anyio.sleep(3.0)
        desk.agenda.unlimited()
        desk.agenda.unlimited()  # once is enough
    assert desk.clock.monotonic() == 3.0


async def test_ends_exactly_when_nothing_can_come() -> None:
    """Workers leave when the list is done and nothing is open, not before."""
    desk = Desk()
    assert [Desk().agenda.left, desk.agenda.left] == [True, True]
    desk.agenda.add(desk.cases(0))
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
    desk = Desk()
    desk.agenda.add(desk.cases(0, 1, 2, 3))
    low: list[bool] = []

    async def feeder() -> None:
        low.append(await desk.agenda.low())

    async with anyio.create_task_group() as group:
        group.start_soon(feeder)
        await desk.next()
        await anyio.sleep(1.0)
        assert low == []
        await desk.next()
    assert low == [True]
    assert await desk.agenda.low()


@pytest.mark.parametrize("what", ["low", "next"])
async def test_stop_releases_everybody(what: str) -> None:
    """Feeder and workers leave at once when the run stops, whatever waits."""
    desk = Desk()
    desk.parked(9, 1000.0)
    if what == "low":
        desk.agenda.add(desk.cases(0, 1, 2, 3))
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
    """After a stop the courses that waited come out by their moment, then what had not begun."""
    desk = Desk()
    desk.agenda.add(desk.cases(3, 4))
    late, soon = desk.parked(1, 9.0), desk.parked(2, 5.0)
    courses, cases = desk.agenda.abandon()
    assert courses == [soon, late]
    assert [case.target.ordinal for case in cases] == [3, 4]
    assert desk.agenda.abandon() == ([], [])
