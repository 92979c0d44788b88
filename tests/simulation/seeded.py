"""The event loop of a simulated world: virtual time, a shuffled ready queue, a moment to die.

Whatever becomes ready together runs in an order that the seed draws; asyncio promises no other.
Callbacks of one transport keep their order, because a memory transport has one of them ready at
a time. A crash is an exception between two callbacks: nothing after it happens.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Protocol

from tests.simulation.loop import DeadlockError

_LATE = 1e-7  # seconds that a timer fires late, so that no rounding makes time stand still


class CrashError(BaseException):
    """The process is gone; no handler of its code may see this."""


class EndlessError(RuntimeError):
    """The world does not come to an end."""


class Network(Protocol):
    """Where connections of a loop lead."""

    async def resolve(self, host: str, port: int) -> list[Any]: ...

    async def reach(self, sock: Any, address: Any) -> None: ...

    async def connect(self, factory: Callable[[], Any], sock: Any) -> tuple[Any, Any]: ...


@contextmanager
def silence() -> Iterator[None]:
    """The dead may say what they like."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some coroutines were never begun
            yield
    finally:
        sys.unraisablehook = hook


async def _nothing() -> None:
    """What the one who buries is said to be doing."""


class _Task(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address."""

    serial = 0

    def __hash__(self) -> int:
        return self.serial


class SeededLoop(asyncio.BaseEventLoop):
    """Time leaps from event to event; the same seed gives the same order."""

    network: Network | None = None

    def __init__(self, chance: Random, start: float, most_events: int) -> None:
        super().__init__()
        self.now = start
        self.events = 0
        self.crash_at: int | None = None  # the event that does not happen any more
        self.handlers: dict[int, Callable[[], None]] = {}
        self._most_events = most_events
        self._shuffle = chance.shuffle
        self._clock_resolution = 1e-9
        self._tasks: list[_Task] = []
        self.set_task_factory(self._make_task)
        self.on_trouble: Callable[[str], None] = lambda _: None  # an error that nobody handles
        self.set_exception_handler(lambda _, context: self.on_trouble(str(context.get("message"))))

    def time(self) -> float:
        return self.now

    def bury(self) -> None:
        """End what a crash left: every coroutine is closed, and nothing it says is heard."""
        self.crash_at = None
        self.on_trouble = lambda _: None
        pretext = asyncio.Task(_nothing(), loop=self)
        with silence():
            asyncio._set_running_loop(self)
            asyncio.tasks._enter_task(self, pretext)
            try:
                self._close_all()
            finally:
                asyncio.tasks._leave_task(self, pretext)
                asyncio._set_running_loop(None)
                pretext.get_coro().close()
                pretext._log_destroy_pending = False  # type: ignore[attr-defined]
        self._tasks.clear()
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]

    def _close_all(self) -> None:
        for task in reversed(self._tasks):
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine = task.get_coro()
                for _ in range(3):  # a finally block that awaits has to be told again
                    try:
                        coroutine.close()
                    except BaseException:  # noqa: BLE001 - dead code has no say
                        continue
                    break
        for generator in list(self._asyncgens):  # type: ignore[attr-defined]
            try:
                generator.aclose().send(None)
            except BaseException:  # noqa: BLE001
                continue

    # ---------------------------------------------------------------- what asyncio asks for

    def _make_task(self, loop: Any, coroutine: Any, **given: Any) -> _Task:
        task = _Task(coroutine, loop=loop, **given)
        task.serial = len(self._tasks)
        self._tasks.append(task)
        return task

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready:
            if not scheduled:
                raise DeadlockError("nothing is ready and no timer is set")
            self.now = max(self.now, scheduled[0]._when) + _LATE
        due = self.now
        while scheduled and scheduled[0]._when < due:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        batch = [handle for handle in ready if not handle._cancelled]
        ready.clear()
        if len(batch) > 1:
            self._shuffle(batch)
        for handle in batch:
            if not handle._cancelled:
                self._count()
                handle._run()

    def _count(self) -> None:
        self.events += 1
        if self.events == self.crash_at:
            raise CrashError
        if self.events > self._most_events:
            raise EndlessError(f"no end after {self.events} events")

    def _process_events(self, event_list: Any) -> None:
        """There are no descriptors."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""

    # ---------------------------------------------------------------- signals and network

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Any, *args: Any
    ) -> None:
        self.handlers[int(sig)] = lambda: callback(*args)

    def remove_signal_handler(self, sig: int) -> bool:
        return self.handlers.pop(int(sig), None) is not None

    def kill(self, sig: int) -> bool:
        """Deliver a signal; False when nobody listens."""
        handler = self.handlers.get(int(sig))
        if handler is not None:
            handler()
        return handler is not None

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Any]:
        assert self.network is not None
        return await self.network.resolve(host, port)

    async def sock_connect(self, sock: Any, address: Any) -> None:
        assert self.network is not None
        await self.network.reach(sock, address)

    async def create_connection(
        self, protocol_factory: Any, *_: Any, sock: Any = None, **__: Any
    ) -> tuple[Any, Any]:
        assert self.network is not None
        return await self.network.connect(protocol_factory, sock)
