"""The one switch, and the bounds that throw it."""

from __future__ import annotations

import anyio
import pytest

from tests.simulation.clock import WALL_MS, VirtualClock
from worker.clock import rfc3339
from worker.model import Stop
from worker.run.stop import Bounds, Switch

SIGNAL = Stop("signal", "SIGTERM")


async def test_the_first_reason_wins() -> None:
    """A second reason changes nothing, and nobody is told twice."""
    switch, told = Switch(), list[Stop]()
    switch.on_throw(told.append)
    switch.throw(SIGNAL)
    switch.throw(Stop("deadline", "late"))
    assert (switch.stop, told) == (SIGNAL, [SIGNAL])
    assert await switch.thrown() is SIGNAL


async def test_sleep_says_whether_the_run_goes_on() -> None:
    """True after the whole wait; False the moment the switch is thrown."""
    clock, switch = VirtualClock(), Switch()
    assert await switch.sleep(3.0)
    assert await switch.sleep(0.0)
    async with anyio.create_task_group() as group:

        async def throw() -> None:
            await anyio.sleep(2.0)
            switch.throw(SIGNAL)

        group.start_soon(throw)
        assert not await switch.sleep(1000.0)
    assert clock.monotonic() == 5.0
    assert not await switch.sleep(1000.0)
    assert clock.monotonic() == 5.0


async def test_no_bounds_are_never_passed() -> None:
    """Without deadline and --until there is nothing to watch."""
    bounds, switch = Bounds(VirtualClock()), Switch()
    await bounds.watch(switch)
    assert bounds.passed(ahead=1e9) is None
    assert switch.stop is None


async def test_deadline_throws_at_its_moment() -> None:
    """The deadline is monotonic time: a jump of the wall clock does not move it (row 52)."""
    clock, switch = VirtualClock(), Switch()
    bounds = Bounds(clock, deadline=90.0)
    clock.jump(10 * 365 * 86_400_000)
    assert bounds.passed(ahead=89.0) is None
    assert bounds.passed(ahead=90.0) == Stop(
        "deadline", "the job's deadline passed before its list was done"
    )
    await bounds.watch(switch)
    assert switch.stop == bounds.passed()
    assert clock.monotonic() == pytest.approx(90.0)


async def test_until_follows_the_wall_clock() -> None:
    """--until is wall clock: seen within a second of a jump past it, an hour early (row 52)."""
    clock, switch = VirtualClock(), Switch()
    until = WALL_MS + 3_600_000
    bounds = Bounds(clock, until_ms=until)
    async with anyio.create_task_group() as group:
        group.start_soon(bounds.watch, switch)
        await anyio.sleep(10.5)
        assert switch.stop is None
        clock.jump(3_600_000)
        assert bounds.passed() is not None
    assert switch.stop == Stop("window", f"--until {rfc3339(until)} came before the list was done")
    assert clock.monotonic() == pytest.approx(11.0)


async def test_a_jump_back_gives_no_request_away() -> None:
    """A clock set back moves --until away again: it is looked at anew each time (row 52)."""
    clock = VirtualClock()
    bounds = Bounds(clock, until_ms=WALL_MS + 1000)
    clock.jump(2000)
    assert bounds.passed() is not None
    clock.jump(-3_600_000)
    assert bounds.passed() is None
    assert bounds.passed(ahead=3700.0) is not None


async def test_watching_ends_with_the_run() -> None:
    """A run that stops for another reason keeps that reason."""
    clock, switch = VirtualClock(), Switch()
    async with anyio.create_task_group() as group:
        group.start_soon(Bounds(clock, deadline=50.0, until_ms=WALL_MS + 10**9).watch, switch)
        await anyio.sleep(3.0)
        switch.throw(SIGNAL)
    assert switch.stop is SIGNAL
    assert clock.monotonic() == 3.0
