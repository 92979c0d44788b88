"""The gate: rate, places in flight, pauses, stop."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.simulation.clock import VirtualClock
from tests.simulation.loop import VirtualLoop
from worker.model import Stop
from worker.run.pace import Pace
from worker.run.stop import Switch

RATES = st.one_of(
    st.sampled_from([0.5, 0.95, 1.0, 1.5, 5.0, 39.0, 40.0, 50.0, 999.0, 5000.0]),
    st.floats(0.5, 5000.0),
)


async def _starts(rate: float | None, concurrency: int, seed: int, count: int) -> list[float]:
    """When requests started, their latency and the loop's lateness drawn by chance."""
    clock = VirtualClock(seed)
    pace = Pace(clock, Switch(), concurrency, rate)
    started: list[float] = []
    await anyio.sleep(clock.chance() * 3)

    async def worker() -> None:
        while len(started) < count:
            ticket = pace.enter(clock.monotonic())
            if ticket is None:
                ticket = await pace.acquire()
            assert ticket is not None
            started.append(clock.monotonic())
            assert pace.in_flight <= concurrency
            await anyio.sleep(clock.chance() * 0.4 if clock.chance() < 0.8 else 0.0)
            pace.release(ticket, congested=False)
            if clock.chance() < 0.1:  # somebody holds the loop for a while
                _hold_the_loop(clock.chance() * 0.08)

    async with anyio.create_task_group() as group:
        for _ in range(concurrency):
            group.start_soon(worker)
    return started


def _hold_the_loop(seconds: float) -> None:
    """Something computes for so long: every timer comes late."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.now += seconds


def _most_in_a_second(started: list[float]) -> int:
    first, most = 0, 0
    for last, at in enumerate(started):
        while started[first] < at - 1.0 + 1e-9:
            first += 1
        most = max(most, last - first + 1)
    return most


@settings(max_examples=60, deadline=None)
@given(RATES, st.integers(1, 100), st.integers(0, 2**32))
@example(5000.0, 100, 1)
@example(50.0, 16, 2)
def test_rate_holds_in_every_second(rate: float, concurrency: int, seed: int) -> None:
    """Whatever second is looked at: at most 1.1 x rate starts, one where that is less than one."""
    count = min(3000, max(5, int(rate * 2.5)))
    options = {"loop_factory": VirtualLoop}
    started = anyio.run(
        _starts, rate, concurrency, seed, count, backend="asyncio", backend_options=options
    )
    assert _most_in_a_second(started) <= max(1.0, 1.1 * rate)


@pytest.mark.parametrize("rate", [2.0, 50.0, 5000.0])
async def test_no_burst_at_the_start(rate: float) -> None:
    """However late the first request is, the second comes an interval after it."""
    clock = VirtualClock()
    pace = Pace(clock, Switch(), 100, rate)
    await anyio.sleep(5.0)
    for _ in range(3):
        await pace.acquire()
    assert clock.monotonic() - 5.0 >= 2 * 0.95 / rate


async def test_lateness_is_made_good_when_fast() -> None:
    """A loop that is held for 20 ms now and then does not lower a rate of 100/s."""
    clock = VirtualClock()
    pace = Pace(clock, Switch(), 1000, 100.0)
    for _ in range(500):
        await pace.acquire()
        if clock.chance() < 0.2:
            _hold_the_loop(0.02)
    assert clock.monotonic() == pytest.approx(5.0, rel=0.02)


async def test_without_a_rate_only_places_count() -> None:
    """rate none: as many as there are places start at once, the next when one is given back."""
    clock = VirtualClock()
    pace = Pace(clock, Switch(), 3, None)
    tickets = [await pace.acquire() for _ in range(3)]
    with anyio.move_on_after(10.0) as waited:
        await pace.acquire()
    assert waited.cancelled_caught
    assert tickets[0] is not None
    pace.release(tickets[0], congested=False)
    assert await pace.acquire() is not None
    assert clock.monotonic() == 10.0


async def test_window_halves_once_for_what_was_in_flight_together() -> None:
    """Sixteen 503s of one window halve it once; the next window's halve it again (row 29)."""
    pace = Pace(VirtualClock(), Switch(), 16, None)
    first = [await pace.acquire() for _ in range(16)]
    for ticket in first:
        assert ticket is not None
        pace.release(ticket, congested=True)
    assert pace.window == 8
    second = await pace.acquire()
    assert second is not None
    pace.release(second, congested=True)
    assert pace.window == 4


async def test_window_grows_by_one_a_window_up_to_the_bound() -> None:
    """Good replies bring back one place a window, never more than configured (row 29)."""
    pace = Pace(VirtualClock(), Switch(), 6, None)
    for _ in range(5):
        ticket = await pace.acquire()
        assert ticket is not None
        pace.release(ticket, congested=True)
    assert pace.window == 1
    seen = []
    for _ in range(40):
        ticket = await pace.acquire()
        assert ticket is not None
        pace.release(ticket, congested=False)
        seen.append(pace.window)
    assert seen == sorted(seen)
    assert [seen.index(size) for size in (2, 3, 4)] == [0, 3, 6]
    assert seen[-1] == 6


async def test_shrunken_window_is_kept() -> None:
    """After a halving no request starts before enough have come back."""
    pace = Pace(VirtualClock(), Switch(), 4, None)
    tickets = [await pace.acquire() for _ in range(4)]
    pace.release(tickets[0] or 0, congested=True)
    pace.release(tickets[1] or 0, congested=False)
    assert (pace.window, pace.in_flight) == (2, 2)
    with anyio.move_on_after(1.0) as waited:
        await pace.acquire()
    assert waited.cancelled_caught
    assert pace.in_flight == 2


async def test_pause_holds_everybody() -> None:
    """Nothing starts in a pause, and of two the longer holds (row 26)."""
    clock = VirtualClock()
    pace = Pace(clock, Switch(), 10, None)
    started: list[float] = []

    async def worker() -> None:
        assert await pace.acquire() is not None
        started.append(clock.monotonic())

    pace.pause(30.0)
    pace.pause(5.0)
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(worker)
        await anyio.sleep(10.0)
        pace.pause(40.0)  # while they wait
    assert started == [50.0] * 5
    assert pace.paused_until == 50.0


@pytest.mark.parametrize("held", ["rate", "places", "pause"])
async def test_stop_releases_all_waiters_at_once(held: str) -> None:
    """After the stop nobody waits at the gate and nobody passes it (invariant 10)."""
    clock, switch = VirtualClock(), Switch()
    pace = Pace(clock, switch, 1 if held == "places" else 9, 0.001 if held == "rate" else None)
    if held == "pause":
        pace.pause(1000.0)
    else:
        assert await pace.acquire() is not None
    got: list[int | None] = []

    async def worker() -> None:
        got.append(await pace.acquire())

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(worker)
        await anyio.sleep(1.0)
        switch.throw(Stop("signal", "SIGTERM"))
    assert got == [None] * 8
    assert clock.monotonic() == 1.0


async def test_rate_can_be_taken_away() -> None:
    """set_rate(None) leaves only the places."""
    clock = VirtualClock()
    pace = Pace(clock, Switch(), 10, 1.0)
    await pace.acquire()
    pace.set_rate(None)
    await pace.acquire()
    await pace.acquire()
    assert clock.monotonic() == pytest.approx(1.05)
