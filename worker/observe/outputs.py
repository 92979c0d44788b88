"""Where log lines end: a file, a pipe, a terminal, a stream.

Apart from the drain because each kind breaks in its own way. None of them raises: a write
that went wrong says how far it came, and the next one starts on a fresh line.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
from io import UnsupportedOperation
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.text import Text

from worker.errors import UsageError
from worker.observe.render import LOG
from worker.text import escaped
from worker.writing import Guarded, flaw, is_descriptor

_FILE_CHUNK = 1 << 20
_FILE_MODE = 0o640  # identities stand in it


class Descriptor:
    """A file descriptor of our own: a pipe, a socket, a terminal or a file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._torn = False
        # What is not longer than PIPE_BUF does not mix with other writers of the same pipe.
        self.chunk = _FILE_CHUNK if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF

    def write(self, data: bytes) -> int:
        fresh = b"\n" if self._torn else b""
        done = _write_all(self._fd, fresh + data)
        if done:
            self._torn = (fresh + data)[done - 1 : done] != b"\n"
        return max(0, done - len(fresh))

    def reopen(self) -> None:
        """A descriptor that was handed in has no name to open."""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)


class LogFile(Descriptor):
    """A log file by its path: appended to if it is ours, reopened after a rotation."""

    def __init__(self, path: str, guarded: Guarded | None = None) -> None:
        """Open it; raises UsageError when it cannot be written, or is not ours to write."""
        self._path = path
        self._guarded = guarded or Guarded()
        self._instead: Descriptor | Stream | None = None  # while another file has the name
        try:
            fd, problem = self._opened()
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            raise UsageError(f"log.file: cannot write {path}: {said}") from None
        if problem is not None:
            os.close(fd)
            raise UsageError(f"log.file: {path} {problem}: give another path, or move it away")
        super().__init__(fd)
        self._torn = _ends_torn(path)

    def write(self, data: bytes) -> int:
        return super().write(data) if self._instead is None else self._instead.write(data)

    def reopen(self) -> None:
        """Open what has the name now; a file that is not ours is left alone."""
        try:
            fd, problem = self._opened()
        except OSError:
            return  # the renamed file still takes lines; losing them would be worse
        if problem is not None:
            os.close(fd)
            self._go_to_stderr(problem)
            return
        super().close()
        self._fd = fd
        self._torn = _ends_torn(self._path)
        if self._instead is not None:
            self._instead.close()
            self._instead = None

    def close(self) -> None:
        super().close()
        if self._instead is not None:
            self._instead.close()

    def _go_to_stderr(self, problem: str) -> None:
        if self._instead is None:
            self._instead = standard_error(None)
            said = f"log.file: {self._path} {problem}: it is left alone, and the log goes on here"
            self._instead.write(escaped(said).encode("utf-8", "replace") + b"\n")

    def _opened(self) -> tuple[int, str | None]:
        """A descriptor of the file, and why it may not be written."""
        fd = _open(self._path)
        try:
            return fd, self._problem(stat.S_IFMT(os.fstat(fd).st_mode))
        except OSError:
            os.close(fd)
            raise

    def _problem(self, kind: int) -> str | None:
        if _is_stderr(self._path):  # by its name: where the log goes without a file
            return None
        if kind == stat.S_IFREG:
            return flaw(self._path, LOG, self._guarded)
        return "is a disk" if kind == stat.S_IFBLK else None


class Terminal:
    """The terminal of stderr, shared with the progress bar: lines appear above the bar."""

    chunk = 8192  # the bar is drawn once for so many

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, data: bytes) -> int:
        try:
            text = data.decode("utf-8", "replace").rstrip("\n")
            self._console.print(Text.from_ansi(text), soft_wrap=True, highlight=False)
        except OSError:
            return 0
        return 0 if self._console.quiet else len(data)

    def reopen(self) -> None:
        """A terminal is not rotated."""

    def close(self) -> None:
        """It is not ours."""


class Stream:
    """A text stream without a descriptor, or none at all (stderr was closed at the start)."""

    chunk = _FILE_CHUNK

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        if self._stream is None:
            return 0
        try:
            self._stream.write(data.decode("utf-8", "replace"))
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: closed
            return 0
        return len(data)

    def reopen(self) -> None:
        """It has no name."""

    def close(self) -> None:
        """It is not ours."""


class TerminalConsole(Console):
    """rich's console, but a terminal that went away ends no process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def terminal(stream: TextIO | None) -> Console | None:
    """A console on the stream when it is a terminal that can move its cursor, else None."""
    try:
        if stream is None or not stream.isatty():
            return None
    except ValueError:  # closed
        return None
    console = TerminalConsole(file=stream, highlight=False)
    return None if console.is_dumb_terminal else console


def standard_error(stream: TextIO | None) -> Descriptor | Stream:
    """Lines to stderr, through a descriptor of our own.

    A copy, because number 2 may be closed and given to another file, such as the ledger.
    """
    try:
        return Descriptor(os.dup((stream or _no_stream()).fileno()))
    except (OSError, ValueError, UnsupportedOperation):
        return Stream(stream)


def _is_stderr(path: str) -> bool:
    try:
        return sys.stderr is not None and is_descriptor(path, sys.stderr.fileno())
    except (OSError, ValueError, UnsupportedOperation):
        return False


def _no_stream() -> TextIO:
    if sys.stderr is None:
        raise UnsupportedOperation
    return sys.stderr


def _write_all(fd: int, data: bytes) -> int:
    """Write until all is out or an error comes; how many bytes went out."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # somebody made the descriptor non-blocking: wait here
            try:
                poll = select.poll()
                poll.register(fd, select.POLLOUT)
                poll.poll()
            except OSError:
                break
        except OSError:
            break
    return len(data) - len(rest)


def _open(path: str) -> int:
    # O_NONBLOCK: a FIFO that nobody reads is refused here instead of hanging the start
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    fd = os.open(path, flags, _FILE_MODE)
    os.set_blocking(fd, True)
    return fd


def _ends_torn(path: str) -> bool:
    """Whether the file ends in half a line, such as after a crash."""
    try:
        with Path(path).open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) or not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False
