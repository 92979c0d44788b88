"""The signals of the process; one owner, from the first line of the log to the last byte of output.

What SIGINT and SIGTERM do depends on how far a command is:

    looking    the command ends at once
    asking     a question waits for its answer: it ends, with nothing sent
    planning   the first is noted, and planning ends with nothing sent; a second ends it at once
    running    the engine hears of it: a polite stop, and at a second SIGINT an end in a hurry
    writing    the verdict stands; what is not whole 20 s later, or at another signal, is left
    showing    the verdict stands; 20 s later, or at another signal, the process ends

SIGHUP reopens the log from the moment it is open, and does nothing else.

A handler runs between any two instructions of the main thread. So it sets a flag, or ends the
process, and takes no lock; it raises only while a question waits.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TypeVar

from worker.errors import SignalError
from worker.report.files import CutShortError
from worker.text import escaped

GRACE = 20.0  # seconds that reports and the summary have after a signal
_LAST = 1.0  # seconds that the summary has once they are over
_STOPS = (signal.SIGINT, signal.SIGTERM)

#: Is told of a SIGINT or SIGTERM; False when it is too late to stop anything.
Listener = Callable[[int], bool]
#: Tells a listener in the running event loop, for as long as the block lasts.
Listen = Callable[[Listener], AbstractContextManager[None]]

_Row = TypeVar("_Row")


class Signals:
    """What was received, and what the next one does."""

    def __init__(self) -> None:
        self.first: int | None = None  # the first SIGINT or SIGTERM
        self.again = False  # another one while reports were written
        self.cut = False  # what is not written yet is left
        self._react: Callable[[int], None] = _end
        self._on_time: Callable[[], None] = self._cut_short

    def own(self) -> None:
        """Take them from the system; the command looks."""
        for number in _STOPS:
            signal.signal(number, lambda received, _: self._react(received))
        signal.signal(signal.SIGALRM, lambda *_: self._on_time())

    def release(self) -> None:
        """Everything is out: the exit code stands, also while the interpreter ends."""
        for number in (*_STOPS, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)

    def plan(self, reopen: Callable[[], None]) -> None:
        """The log is open, and SIGHUP calls `reopen`, which takes no lock; planning begins."""
        signal.signal(signal.SIGHUP, lambda *_: reopen())
        self._react = self._note_or_end

    def received(self) -> bool:
        """Whether a SIGINT or SIGTERM was, so that nothing is begun any more."""
        return self.first is not None

    def check(self) -> None:
        """Raise SignalError when one was received."""
        if self.first is not None:
            raise SignalError(self.first)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """A question waits for its answer: a signal raises SignalError."""
        self.check()
        before, self._react = self._react, _raise
        try:
            yield
        finally:
            self._react = before

    @contextmanager
    def listen(self, listener: Listener) -> Iterator[None]:
        """Tell the listener, in the running event loop; also of one received before."""
        loop = asyncio.get_running_loop()
        untold: list[int] = []

        def tell() -> None:
            while untold:
                number = untold.pop(0)
                if listener(number):
                    self.first = self.first or number
                else:
                    self._note_or_cut(number)

        def note(number: int) -> None:
            untold.append(number)
            loop.call_soon_threadsafe(tell)

        self._react = note
        if self.first is not None:
            _alarm(0)
            note(self.first)
        try:
            yield
        finally:
            self.write()
            while untold:
                self._note_or_cut(untold.pop(0))

    def write(self) -> None:
        """The verdict stands; reports are written."""
        self.again = self.cut = False
        self._on_time = self._cut_short
        self._react = self._note_or_cut
        if self.first is not None:
            _alarm(GRACE)

    def in_time(self, rows: Iterable[_Row]) -> Iterator[_Row]:
        """The rows of a report; CutShortError when the rest has to be left."""
        for row in rows:
            if self.cut and self.first is not None:
                raise CutShortError(f"stopped by {signal.Signals(self.first).name}")
            yield row

    @contextmanager
    def showing(self, code: int, missing: Sequence[str]) -> Iterator[None]:
        """The result is printed; to leave it ends the process with `code` and these lines."""

        def leave() -> None:
            last_words(missing)
            os._exit(code)

        def note_or_leave(number: int) -> None:
            if self.first is not None:
                leave()
            self.first = number
            _alarm(GRACE)

        self._on_time, self._react = leave, note_or_leave
        if self.first is not None and not _is_alarm_set():
            _alarm(_LAST if self.cut else GRACE)
        try:
            yield
        finally:
            self._on_time, self._react = self._cut_short, self._note_or_cut
            if self.first is not None:
                _alarm(0)

    # ------------------------------------------------------------ what a handler does

    def _note_or_end(self, number: int) -> None:
        if self.first is not None:
            _end(number)
        self.first = number

    def _note_or_cut(self, number: int) -> None:
        if self.first is not None:
            self.again = self.cut = True
            return
        self.first = number
        _alarm(GRACE)

    def _cut_short(self) -> None:
        self.cut = True


def last_words(lines: Sequence[str]) -> None:
    """Lines to stderr, if it takes them at once."""
    text = "".join(f"{escaped(line)}\n" for line in lines)
    with suppress(OSError, ValueError, AttributeError):  # a stderr that is gone
        number = sys.stderr.fileno()
        poll = select.poll()
        poll.register(number, select.POLLOUT)
        if poll.poll(0):
            os.write(number, text.encode("utf-8", "backslashreplace"))


def _end(number: int) -> None:
    error = SignalError(number)
    last_words([f"stopped: {error}"])
    os._exit(error.exit_code)


def _raise(number: int) -> None:
    raise SignalError(number)


def _alarm(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _is_alarm_set() -> bool:
    return signal.getitimer(signal.ITIMER_REAL)[0] > 0


#: Those of this process.
SIGNALS = Signals()
