"""Opening what a job names: read once, hashed while read, proven to be UTF-8 text.

Stands apart so that no parser sees a byte that is not accounted for, and so that the rules for
which files may be opened at all are in one place.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

_CHUNK = 1 << 16  # bytes
_SILENCE = 16 << 20  # characters without one value: no scalar is that long
# Refused wherever they stand: controls, further marks of byte order, separators that move lines.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
# The parser compares each of these lines with every one before it: a file of them takes minutes.
_TAGGED = re.compile(r"(?:^|(?<=\r))%TAG", re.MULTILINE)


class UnreadableError(Exception):
    """A file that cannot be read on: where, what, and what to do."""

    def __init__(self, line: int, column: int, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.line, self.column, self.problem, self.remedy = line, column, problem, remedy


class UnopenedError(UnreadableError):
    """A file that may not or cannot be opened at all."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(1, 1, problem, remedy)


class Hashed(io.RawIOBase):
    """A raw file that hashes what is read from it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._file = io.FileIO(descriptor)
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # narrower
        count = self._file.readinto(buffer) or 0
        self._sha256.update(memoryview(buffer)[:count])
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

    def sha256(self) -> str:
        """Of all that was read so far, hexadecimal."""
        return self._sha256.hexdigest()


class Opened:
    """A file that is open for reading."""

    def __init__(self, descriptor: int) -> None:
        self._raw = Hashed(descriptor)
        self.stream: IO[bytes] = io.BufferedReader(self._raw, _CHUNK)

    def sha256(self) -> str:
        """Of all that was read: of the whole file, once its parser came to the end."""
        return self._raw.sha256()


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Open the job file; UnopenedError when it cannot be."""
    with _open(path, os.O_RDONLY) as file:
        yield file


@contextmanager
def opened_inside(folder: Path, name: str) -> Iterator[Opened]:
    """Open a regular file below the folder; UnopenedError for anything else.

    Paths that are absolute, climb with `..` or lead out through a link are refused.
    """
    pure = PurePosixPath(name)
    if "://" in name:
        raise UnopenedError("is a URL", "download it into the folder of the job file")
    if pure.is_absolute() or ".." in pure.parts:
        raise UnopenedError("is outside the folder of the job file", "give a path inside it")
    try:
        real = (folder / pure).resolve(strict=True)
        inside = real.is_relative_to(folder.resolve(strict=True))
    except (OSError, ValueError, RuntimeError) as error:  # missing, a loop of links, a NUL byte
        remedy = "give its path as seen from the folder of the job file"
        raise UnopenedError(f"cannot be read ({_reason(error)})", remedy) from None
    if not inside:
        raise UnopenedError("is a link out of the folder of the job file", "copy the file")
    with _open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW) as file:
        yield file


@contextmanager
def _open(path: Path, flags: int) -> Iterator[Opened]:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise UnopenedError(f"cannot be read ({_reason(error)})") from None
    try:
        _check_kind(os.fstat(descriptor).st_mode, regular=bool(flags & os.O_NONBLOCK))
        file = Opened(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    with file.stream:
        yield file


def _check_kind(mode: int, *, regular: bool) -> None:
    if stat.S_ISDIR(mode) or (regular and not stat.S_ISREG(mode)):
        raise UnopenedError("is not a regular file", "give a file")


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or "not a usable path"


class Text:
    """What a YAML parser reads: decoded, checked, with the place of the first unfit character.

    Everything before a fault is handed out first, so that its findings are not lost.
    """

    def __init__(self, stream: IO[bytes], longest: int = _SILENCE) -> None:
        self._stream = stream
        self._longest = longest  # characters
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._line, self._column = 1, 1
        self._after_cr = False
        self._first = True
        self._fault: UnreadableError | None = None
        self.silence = 0  # characters since the parser last had something to tell

    def read(self, _size: int = 0) -> str:
        """The next piece, "" at the end; raises UnreadableError at a fault."""
        text = "" if self._fault else self._decoded()
        if self._fault and not text:
            raise self._fault
        self.silence += len(text)
        if self.silence > self._longest:
            problem = "more than 16 MiB without a value"
            raise UnreadableError(self._line, self._column, problem, "shorten it")
        return text

    def _decoded(self) -> str:
        """The next text that is fit; what follows it may be kept as the fault."""
        text, fault = "", None
        data = b"\0"
        try:
            while data and not text:
                data = self._stream.read(_CHUNK)
                text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            text = error.object[: error.start].decode()
            fault = f"byte 0x{error.object[error.start]:02x} is not UTF-8", "save the file as UTF-8"
        except OSError as error:
            fault = f"cannot be read ({_reason(error)})", ""
        if self._first:
            text = text.removeprefix("\ufeff")
            self._first = False
        unfit = _UNFIT.search(text)
        if unfit:
            text = text[: unfit.start()]
            fault = f"U+{ord(unfit[0]):04X} cannot stand in a file", "remove it"
        tagged = _TAGGED.search(text, int(self._column > 1))
        if tagged:
            text = text[: tagged.start()]
            fault = "%TAG declares tags, and tags are refused", "remove the line"
        self._advance(text)
        if fault:
            self._fault = UnreadableError(self._line, self._column, *fault)
        return text

    def _advance(self, text: str) -> None:
        """Move line and column over the text; LF, CR LF and CR end a line."""
        if not text:
            return
        split = self._after_cr and text[0] == "\n"
        self._line += text.count("\n") + text.count("\r") - text.count("\r\n") - split
        last = max(text.rfind("\n"), text.rfind("\r"))
        self._column = len(text) - last if last >= 0 else self._column + len(text)
        self._after_cr = text[-1] == "\r"
