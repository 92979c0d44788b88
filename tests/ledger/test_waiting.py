"""How calls to the ledger are run in production."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import anyio
import pytest

from tests.ledger.plans import counted, devices, outcome, plan
from worker.clock import SystemClock
from worker.ledger.entry import Conflict, Entry
from worker.ledger.store import Store
from worker.ledger.waiting import OneThread
from worker.ledger.writer import Writer


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # threads live in real time


async def test_one_thread() -> None:
    """Calls run beside the loop, never two at a time, in the order they came."""
    submit = OneThread()
    running, most, order = 0, 0, []
    lock = threading.Lock()

    def call(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        assert threading.current_thread() is not threading.main_thread()
        order.append(number)
        with lock:
            running -= 1
        return number

    results: list[int] = []

    async def one(number: int) -> None:
        results.append(await submit(lambda: call(number)))

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, number)
    assert (most, order, results) == (1, list(range(20)), list(range(20)))


async def test_a_run_on_disk(store: Store) -> None:
    """The real thing: a thread, a file, the machine's clock."""
    plan(store, devices(500))
    heard: list[Entry] = []

    def hear(entries: Sequence[Entry], _conflicts: Sequence[Conflict]) -> None:
        assert threading.current_thread() is threading.main_thread()
        heard.extend(entries)

    writer = Writer(store, "r1", OneThread(), SystemClock(), 16, hear)
    writer.open_pass(1)
    async with anyio.create_task_group() as group:
        group.start_soon(writer.serve)
        while batch := await writer.claim():
            for claimed in batch:
                writer.put(outcome(claimed.target.ordinal))
        await writer.flush()
        writer.close()
    assert [entry.ordinal for entry in heard] == list(range(500))
    assert counted(store) == {"nothing_cached": 500}
