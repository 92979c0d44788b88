"""The buffer behind the log: real pipes, real full devices, and never a moment of the run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.errors import UsageError
from worker.observe.drain import Drain, Output
from worker.observe.outputs import Descriptor, LogFile, Stream, standard_error


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: the end to read, and the end to write, which the test gives away or closes."""
    read, write = os.pipe()
    yield read, write
    os.close(read)


class Scripted:
    """An output that does what a list says: how many bytes of each write go out."""

    def __init__(self, *script: int, chunk: int = 1 << 20) -> None:
        self.script = list(script)
        self.chunk = chunk
        self.wrote: list[bytes] = []

    def write(self, data: bytes) -> int:
        done = self.script.pop(0) if self.script else len(data)
        self.wrote.append(data[:done])
        return min(done, len(data))

    def reopen(self) -> None:
        self.wrote.append(b"<reopen>")

    def close(self) -> None:
        self.wrote.append(b"<close>")


def drained(output: Output, lines: list[bytes]) -> Drain:
    drain = Drain(output)
    for line in lines:
        drain.put(line)
    drain.close(5)
    return drain


def test_lines_arrive_in_order_and_whole(tmp_path: Path) -> None:
    """Many more than one chunk, none lost, the file readable by group only."""
    lines = [b"%d %s\n" % (number, b"x" * (number % 997)) for number in range(20_000)]
    drain = drained(LogFile(str(tmp_path / "log")), lines)
    assert (tmp_path / "log").read_bytes() == b"".join(lines)
    assert (tmp_path / "log").stat().st_mode & 0o137 == 0
    assert drain.dropped == 0


def test_a_pipe_nobody_reads_costs_lines_and_no_time(pipe: tuple[int, int]) -> None:
    """300,000 lines into a blocked pipe: each put returns, close keeps its limit, all counted."""
    read, write = pipe
    drain = Drain(Descriptor(write))
    line = b"x" * 99 + b"\n"
    began = time.monotonic()
    for _ in range(300_000):
        drain.put(line)
    put = time.monotonic() - began
    drain.close(0.2)
    closed = time.monotonic() - began - put
    os.set_blocking(read, False)
    arrived = os.read(read, 1 << 20).count(b"\n")
    assert put < 5
    assert closed < 1
    assert arrived + drain.dropped >= 300_000 > drain.dropped
    assert drain.dropped >= 300_000 - 65_536


def test_a_reader_that_comes_back_gets_the_lines_that_waited(pipe: tuple[int, int]) -> None:
    """A pause of the shipper loses nothing that fits the buffer."""
    read, write = pipe
    lines = [b"%06d %s\n" % (number, b"x" * 92) for number in range(5000)]
    drain = Drain(Descriptor(write))
    for line in lines:
        drain.put(line)
    got: list[bytes] = []

    def reader() -> None:
        while data := os.read(read, 65_536):
            got.append(data)

    thread = threading.Thread(target=reader)
    thread.start()
    drain.close(10)
    thread.join(10)
    assert b"".join(got) == b"".join(lines)
    assert drain.dropped == 0


def test_a_full_device_is_counted_line_by_line() -> None:
    """ENOSPC of /dev/full."""
    assert drained(LogFile("/dev/full"), [b"line\n"] * 1000).dropped == 1000


def test_a_closed_pipe_is_counted_line_by_line() -> None:
    """EPIPE: the reader has gone; no signal, no exception, no end of the thread."""
    read, write = os.pipe()
    os.close(read)
    assert drained(Descriptor(write), [b"line\n"] * 1000).dropped == 1000


def test_a_pipe_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    """EAGAIN, when a neighbour made the shared stderr non-blocking, is no error."""
    read, write = pipe
    os.set_blocking(write, False)
    lines = [b"x" * 999 + b"\n"] * 500
    drain = Drain(Descriptor(write))
    for line in lines:
        drain.put(line)
    got = 0
    while got < 500_000:
        got += len(os.read(read, 65_536))
    drain.close(5)
    assert (got, drain.dropped) == (500_000, 0)


def test_after_an_error_later_lines_are_still_tried() -> None:
    """One line is lost by each error: the one that met it."""
    output = Scripted(0, 9, 100)
    drain = drained(output, [b"aaa\n", b"bbb\n", b"ccc\n", b"ddd\n", b"eee\n"])
    assert output.wrote == [b"", b"bbb\nccc\nd", b"eee\n", b"<close>"]
    assert drain.dropped == 2


def test_half_a_line_is_ended_before_the_next(tmp_path: Path) -> None:
    """A partial write on a file costs that line, never its neighbour."""
    torn = b'{"timestamp":"2026-11-22T02:05:00.123Z","level":"info","event":"run.started","ta'
    (tmp_path / "log").write_bytes(torn)
    drained(LogFile(str(tmp_path / "log")), [b"next\n"])
    assert (tmp_path / "log").read_bytes() == torn + b"\nnext\n"


def test_a_disk_that_is_freed_takes_the_next_line_on_a_fresh_line(tmp_path: Path) -> None:
    """A real file size limit cuts a line in two; after it is lifted, lines are whole again."""
    import resource  # noqa: PLC0415 - beside its only use

    output = LogFile(str(tmp_path / "log"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        cut = output.write(b"line 1\nline 2\n")
        none = output.write(b"line 3\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (cut, none, output.write(b"line 4\n")) == (10, 0, 7)
    output.close()
    assert (tmp_path / "log").read_bytes() == b"line 1\nlin\nline 4\n"


def test_the_buffer_is_bounded_in_lines_and_in_bytes(pipe: tuple[int, int]) -> None:
    """What does not fit is dropped at once, and counted once."""
    _, write = pipe
    by_lines = Drain(Descriptor(os.dup(write)), max_lines=3)
    by_bytes = Drain(Descriptor(os.dup(write)), max_bytes=1_000_000)
    os.close(write)
    for _ in range(10):
        by_lines.put(b"x" * 200_000)
        by_bytes.put(b"x" * 200_000)
    assert (by_lines.dropped, by_bytes.dropped) == (7, 5)
    by_lines.close(0.05)
    by_bytes.close(0.05)
    assert (by_lines.dropped, by_bytes.dropped) == (10, 10)


def test_lines_after_the_end_are_dropped_and_closing_twice_is_harmless() -> None:
    """A late observer costs nothing but its line."""
    drain = drained(Scripted(), [b"a\n"])
    drain.put(b"b\n")
    drain.close(1)
    assert drain.dropped == 1


def test_what_is_longer_than_a_pipe_takes_at_once_is_written_in_whole_lines() -> None:
    """Chunks end at line ends, so that processes sharing a pipe do not mix lines."""
    output = Scripted(chunk=10)
    drained(output, [b"aaaa\n", b"bbbb\n", b"c\n", b"a line of its own\n", b"d\n"])
    assert output.wrote == [b"aaaa\nbbbb\n", b"c\n", b"a line of its own\n", b"d\n", b"<close>"]


def test_a_rotated_file_is_opened_anew(tmp_path: Path) -> None:
    """After reopen, lines go to the new file; the old one keeps what it had."""
    path = tmp_path / "log"
    drain = Drain(LogFile(str(path)))
    drain.put(b"old\n")
    while not path.read_bytes():
        time.sleep(0.005)
    path.rename(tmp_path / "log.1")
    drain.reopen()
    drain.put(b"new\n")
    drain.close(5)
    assert [(tmp_path / name).read_bytes() for name in ("log.1", "log")] == [b"old\n", b"new\n"]


def test_a_file_that_cannot_be_opened_anew_keeps_the_old_one(tmp_path: Path) -> None:
    """The folder went away during the run: the renamed file still takes the lines."""
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "log"
    output = LogFile(str(path))
    path.rename(tmp_path / "log.1")
    path.parent.rmdir()
    output.reopen()
    output.write(b"line\n")
    output.close()
    assert (tmp_path / "log.1").read_bytes() == b"line\n"


_OURS = b'{"timestamp":"2026-11-22T02:05:00.123Z","level":"info","event":"run.started"}\n'


@pytest.mark.parametrize("text", [b"", _OURS, b"x\n", b'{"timestamp":"now","event":"e"}\n'])
def test_a_log_goes_on_in_an_empty_file_or_a_log_of_ours(tmp_path: Path, text: bytes) -> None:
    """Anything else is left as it is."""
    path = tmp_path / "log"
    path.write_bytes(text)
    if text in (b"", _OURS):
        drained(LogFile(str(path)), [_OURS])
        assert path.read_bytes() == text + _OURS
        return
    with pytest.raises(UsageError) as caught:
        LogFile(str(path))
    assert str(caught.value) == (
        f"log.file: {path} holds something else than a log of ours: "
        "give another path, or move it away"
    )
    assert path.read_bytes() == text


def test_a_name_that_another_file_took_is_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The log goes to stderr until the name is free again."""
    path = tmp_path / "log"
    output = LogFile(str(path))
    output.write(_OURS)
    path.rename(tmp_path / "log.1")
    path.write_text("notes")
    output.reopen()
    output.reopen()
    output.write(b"on stderr\n")
    notes = path.read_text()
    path.unlink()
    output.reopen()
    output.write(b"back\n")
    output.close()
    assert (notes, path.read_bytes(), (tmp_path / "log.1").read_bytes()) == (
        "notes",
        b"back\n",
        _OURS,
    )
    assert capfd.readouterr().err == (
        f"log.file: {path} holds something else than a log of ours: it is left alone, and the log "
        "goes on here\non stderr\n"
    )


@pytest.mark.parametrize("name", ["no/log", ".", "a\0b", "fifo"])
def test_a_log_file_that_cannot_be_written_is_refused_at_the_start(
    tmp_path: Path, name: str
) -> None:
    """A missing folder, a folder, an impossible name, a FIFO that nobody reads (no hanging)."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match=r"log\.file: cannot write"):
        LogFile(f"{tmp_path}/{name}")


def test_a_stderr_that_was_closed_costs_lines_only() -> None:
    """Python has no sys.stderr then; descriptor 2 may belong to another file: never used."""
    assert drained(Stream(None), [b"a\n", b"b\n"]).dropped == 2
    with Path("/dev/null").open("w") as closed:
        pass
    assert drained(standard_error(closed), [b"a\n"]).dropped == 1


def test_the_descriptor_is_a_copy(tmp_path: Path) -> None:
    """Closing and reusing the stream's number cannot turn log lines into another file."""
    with (tmp_path / "err").open("w") as stream:
        output = standard_error(stream)
        fd = stream.fileno()
    other = os.open(tmp_path / "ledger", os.O_WRONLY | os.O_CREAT)
    os.dup2(other, fd)
    output.write(b"line\n")
    output.close()
    os.close(other)
    if fd != other:
        os.close(fd)
    assert (tmp_path / "err").read_bytes() == b"line\n"
    assert (tmp_path / "ledger").read_bytes() == b""
