"""A coroutine that steps aside, and the worker that drives it."""

from __future__ import annotations

import gc

import anyio
import pytest

from worker.run.course import aside, drive, stay


async def test_moments_come_out_in_order() -> None:
    """Each step aside hands its moment to the driver; the end is None."""

    async def course() -> None:
        await aside(3.0)
        await anyio.sleep(1.0)  # what a course awaits otherwise is the loop's business
        await aside(7.5)

    steps = course()
    assert [await drive(steps) for _ in range(3)] == [3.0, 7.5, None]


async def test_another_worker_may_go_on() -> None:
    """A course that waits belongs to nobody: any task may drive it further."""
    seen: list[str] = []

    async def course() -> None:
        for name in ("first", "second"):
            seen.append(name)
            await anyio.sleep(0.1)
            await aside(0.0)

    steps = course()

    async def worker() -> None:
        await drive(steps)

    for _ in range(2):
        async with anyio.create_task_group() as group:
            group.start_soon(worker)
    assert await drive(steps) is None
    assert seen == ["first", "second"]


async def test_exceptions_come_out_whole() -> None:
    """What a course raises reaches its driver, traceback and all (row 55)."""

    async def course() -> None:
        await anyio.sleep(0.1)
        raise LookupError("ours")

    with pytest.raises(LookupError, match="ours"):
        await drive(course())


async def test_cancellation_reaches_into_the_course() -> None:
    """A cancelled worker cancels what its course awaits, and the course can clean up."""
    seen: list[str] = []

    async def course() -> None:
        try:
            await anyio.sleep(1000.0)
        finally:
            seen.append("cleaned")

    with anyio.move_on_after(1.0) as scope:
        await drive(course())
    assert scope.cancelled_caught
    assert seen == ["cleaned"]


async def test_a_course_may_catch_what_the_loop_throws() -> None:
    """A timeout inside a course is its own: it goes on and may step aside after it."""

    async def course() -> None:
        with anyio.move_on_after(1.0):
            await anyio.sleep(1000.0)
        await aside(5.0)

    steps = course()
    assert await drive(steps) == 5.0
    assert await drive(steps) is None


async def test_a_waiting_course_can_be_closed() -> None:
    """Closing one that waits leaves nothing behind to complain of never being awaited."""
    ended: list[str] = []

    async def course() -> None:
        try:
            await aside(5.0)
        finally:
            ended.append("closed")

    steps = course()
    await drive(steps)
    steps.close()
    del steps
    gc.collect()
    assert ended == ["closed"]


async def test_who_stays_gets_the_result() -> None:
    """A task with nothing else to do waits itself for each moment, and has the value at the end."""
    waited: list[float] = []

    async def course() -> str:
        await aside(3.0)
        await anyio.sleep(1.0)
        await aside(7.5)
        return "done"

    async def wait(moment: float) -> None:
        waited.append(moment)

    assert await stay(course(), wait) == "done"
    assert waited == [3.0, 7.5]


async def test_who_stays_is_cancelled_while_waiting() -> None:
    """The course ends with it, and may clean up."""
    ended: list[str] = []

    async def course() -> None:
        try:
            await aside(5.0)
        finally:
            ended.append("closed")

    with anyio.move_on_after(1.0) as scope:
        await stay(course(), lambda _: anyio.sleep(1000.0))
    assert scope.cancelled_caught
    assert ended == ["closed"]
