"""A bounded buffer and the one thread that empties it.

Apart from the log because this is what keeps a run alive: whoever writes a line only appends
to a deque. A reader that hangs, a full disk or a closed pipe costs lines, which are counted,
and never a moment of the run. The thread is on no target's path; it reads no clock.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

MAX_LINES = 65_536
MAX_BYTES = 64 << 20
_LOOK = 0.5  # seconds after which an idle thread looks whether to open the file anew
_GATHER = 0.02  # seconds that the thread lets lines gather: 50 wake-ups a second at most


class Output(Protocol):
    """Where lines go. Called by the drain's thread only."""

    chunk: int  # bytes that are best written at once

    def write(self, data: bytes) -> int:
        """How many bytes went out; fewer than given means an error. May block."""

    def reopen(self) -> None:
        """The file may have been renamed: open it anew, or keep the old one."""

    def close(self) -> None: ...


class Lines(Protocol):
    """Where a rendered line is put: a plain call that neither blocks nor raises."""

    @property
    def dropped(self) -> int: ...

    def put(self, line: bytes) -> None: ...

    def reopen(self) -> None: ...

    def settle(self, timeout: float) -> int: ...

    def close(self, timeout: float) -> None: ...


class Drain:
    """Lines that wait for a thread of their own to write them."""

    def __init__(
        self, output: Output, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES
    ) -> None:
        self._output = output
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        # Re-entrant: a signal handler that logs while this thread holds it must not hang.
        self._lock = threading.RLock()
        self._lines: deque[bytes] = deque()
        self._held = 0  # lines not yet written, those being written included
        self._bytes = 0  # likewise
        self._dropped = 0
        self._some = threading.Event()
        self._asleep = True  # the thread saw nothing to write and waits
        self._none = threading.Event()  # nothing is held
        self._none.set()
        self._closing = threading.Event()
        self._closed = False
        self._abandoned = False
        self._reopen = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that did not reach their place, and never will."""
        return self._dropped

    def put(self, line: bytes) -> None:
        with self._lock:
            size = self._bytes + len(line)
            if self._closed or self._held >= self._max_lines or size > self._max_bytes:
                self._dropped += 1
                return
            if not self._held:
                self._none.clear()
            self._held += 1
            self._bytes = size
            self._lines.append(line)
            if self._asleep:
                self._asleep = False
                self._some.set()

    def reopen(self) -> None:
        """Within half a second, and before the next line, open the file anew; takes no lock."""
        self._reopen = True

    def settle(self, timeout: float) -> int:
        """Wait until all is written, for at most so many seconds; how many lines still wait."""
        self._none.wait(timeout)
        return self._held

    def close(self, timeout: float) -> None:
        """Write what is left, for at most so many seconds; what then still waits is dropped."""
        self._closed = True
        self._closing.set()
        self._some.set()
        self._thread.join(timeout)
        with self._lock:
            self._abandoned = True
            self._dropped += self._held
            self._held = self._bytes = 0
            self._lines.clear()

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        while True:
            if not self._some.wait(_LOOK) and not self._reopen:
                continue
            self._closing.wait(_GATHER)
            if self._reopen:
                self._reopen = False
                self._output.reopen()
            last = self._closing.is_set()  # before the swap: what was put until now is seen
            with self._lock:
                self._some.clear()
                self._asleep = True
                lines, self._lines = self._lines, deque()
                size = self._bytes  # nothing else is held: the last batch is settled
            self._write(lines, size)
            if last or self._abandoned:
                break
        self._output.close()

    def _write(self, lines: deque[bytes], size: int) -> None:
        while lines and not self._abandoned:
            chunk, length = self._chunk(lines, size)
            size -= length
            done = self._output.write(b"".join(chunk))
            if done == length:
                self._settle(len(chunk), length, lost=0)
                continue
            unsent = _behind(chunk, done)
            again = sum(map(len, unsent))
            lines.extendleft(reversed(unsent))
            size += again
            self._settle(len(chunk) - len(unsent), length - again, lost=1)

    def _chunk(self, lines: deque[bytes], size: int) -> tuple[list[bytes], int]:
        """The next lines to write at once and their bytes; takes them off."""
        limit = self._output.chunk
        if size <= limit:
            chunk = list(lines)
            lines.clear()
            return chunk, size
        chunk = [lines.popleft()]
        length = len(chunk[0])
        while lines and length + len(lines[0]) <= limit:
            length += len(lines[0])
            chunk.append(lines.popleft())
        return chunk, length

    def _settle(self, lines: int, size: int, lost: int) -> None:
        with self._lock:
            if not self._abandoned:  # else close() has counted them
                self._held -= lines
                self._bytes -= size
                self._dropped += lost
                if not self._held:
                    self._none.set()


def _behind(chunk: list[bytes], done: int) -> list[bytes]:
    """After a short write of `done` bytes: the lines behind the one that met the error.

    That one is lost; those behind it may find room again.
    """
    for index, line in enumerate(chunk):
        if done < len(line):
            return chunk[index + 1 :]
        done -= len(line)
    return []
