"""Exchanges that are awaited, for those who want a plain call: a task each.

For transports whose way of sending is a coroutine. The direct one needs none of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from worker.gateway.exchange import Reply, Then


class Launches:
    """The exchanges of one transport that nobody awaits."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Reply], Then] = {}  # in the order they began

    def add(self, exchange: Coroutine[Any, Any, Reply], then: Then) -> None:
        """Run the exchange; `then` hears its reply, or the bug that ended it."""
        task = asyncio.get_running_loop().create_task(exchange)
        self._tasks[task] = then
        task.add_done_callback(self._done)

    async def aclose(self) -> None:
        """End what is under way; nobody hears of it any more."""
        tasks, self._tasks = self._tasks, {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[Reply]) -> None:
        then = self._tasks.pop(task, None)
        if then is None or task.cancelled():
            return
        bug = task.exception()
        if bug is None:
            then(task.result())
        elif isinstance(bug, Exception):
            then(bug)
