"""An event loop whose time is virtual: it jumps to the next timer when nothing else can happen."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class DeadlockError(RuntimeError):
    """Nothing is ready, no timer is set: the world would wait for ever."""


class _Leap(selectors.DefaultSelector):
    """Where a real loop would sleep, the virtual one leaps."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events and (timeout is None or timeout > 0):
            if timeout is None:
                raise DeadlockError("nothing is ready and no timer is set")
            self.loop.now += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at moment 0; an hour of waiting costs nothing."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = _Leap()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


Factory = Callable[[], asyncio.AbstractEventLoop]
