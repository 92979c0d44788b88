"""A coroutine that can step aside: it waits for a moment without holding the worker that runs it.

Inside, `await aside(moment)`. Outside, a worker drives a course until it ends or steps aside, and
may come back to it, or another worker may, when the moment has come. This costs no task and no
timer for a target that waits, and nothing at all for one that does not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

from msgspec import Struct

T = TypeVar("T")


class _Aside(Struct, frozen=True):
    moment: float


@coroutine
def aside(moment: float) -> Generator[_Aside, None, None]:
    """Go on at this monotonic moment; the worker is free until then."""
    yield _Aside(moment)


@coroutine
def drive(course: Coroutine[Any, Any, None]) -> Generator[Any, Any, float | None]:
    """Run a course until it ends (None) or steps aside (the moment it waits for).

    What it awaits otherwise is passed on to the event loop, and what the loop throws into the
    worker, a cancellation for instance, into the course.
    """
    try:
        waits_for = course.send(None)
        while not isinstance(waits_for, _Aside):
            try:
                answer = yield waits_for
            except BaseException as thrown:  # noqa: BLE001 - passed on whole
                waits_for = course.throw(thrown)
            else:
                waits_for = course.send(answer)
    except StopIteration:
        return None
    return waits_for.moment


async def stay(course: Coroutine[Any, Any, T], wait: Callable[[float], Awaitable[object]]) -> T:
    """Run a course to its end; `wait` waits for each moment that it steps aside for."""
    results: list[T] = []

    async def keep() -> None:
        results.append(await course)

    steps = keep()
    try:
        while (moment := await drive(steps)) is not None:
            await wait(moment)
    finally:
        steps.close()
    return results[0]
