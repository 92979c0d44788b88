"""Opening the log: form, level, place."""

from __future__ import annotations

import io
import json
import os
import pty
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from worker.clock import SystemClock
from worker.errors import UsageError
from worker.observe.log import LogSink, open_log
from worker.observe.progress import Progress

CLOCK = SystemClock()


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def terminal() -> tuple[int, TextIO]:
    """A real terminal pair: what appears on it, and a stream to it."""
    ours, theirs = pty.openpty()
    return ours, io.TextIOWrapper(os.fdopen(theirs, "wb"))


def appeared(ours: int, stream: TextIO) -> str:
    stream.close()
    data = b""
    while True:
        try:
            more = os.read(ours, 65_536)
        except OSError:  # EIO: the other end is closed
            more = b""
        if not more:
            os.close(ours)
            return data.decode()
        data += more


def test_off_a_terminal_the_form_is_json(tmp_path: Path) -> None:
    """`auto` on a file or a pipe; the level hides what is below it."""
    with (tmp_path / "err").open("w") as stream:
        sink = open_log("auto", "warning", clock=CLOCK, stream=stream)
        sink.logger.info("hidden")
        sink.logger.warning("shown", a=1)
        sink.record.info("always")
        sink.close(5)
    assert [(x["event"], x["level"]) for x in lines(tmp_path / "err")] == [
        ("shown", "warning"),
        ("always", "info"),
    ]


def test_a_file_is_json_even_when_the_console_form_is_asked_for(tmp_path: Path) -> None:
    """Log files are for machines."""
    sink = open_log("console", "info", str(tmp_path / "log"), clock=CLOCK)
    sink.logger.info("an.event")
    sink.close(5)
    assert [x["event"] for x in lines(tmp_path / "log")] == ["an.event"]


def test_structlog_itself_is_configured(tmp_path: Path) -> None:
    """A logger from structlog.get_logger ends in the same place with the same form."""
    sink = open_log("json", "info", str(tmp_path / "log"), clock=CLOCK)
    structlog.get_logger().bind(k=1).info("an.event", a=2)
    structlog.get_logger().debug("hidden")
    sink.close(5)
    assert [list(x.items())[1:] for x in lines(tmp_path / "log")] == [
        [("level", "info"), ("event", "an.event"), ("k", 1), ("a", 2)]
    ]


@pytest.mark.parametrize(
    ("format_", "level", "said"),
    [
        ("xml", "info", "log.format: xml: not one of auto, json, console"),
        ("auto", "loud", "log.level: loud: not one of debug, info, warning, error"),
    ],
)
def test_an_unknown_word_is_refused(format_: str, level: str, said: str) -> None:
    """With the words that are known."""
    with pytest.raises(UsageError) as caught:
        open_log(format_, level, clock=CLOCK)
    assert str(caught.value) == said


def test_a_stream_without_a_descriptor_still_takes_lines() -> None:
    """As under a test runner that replaces stderr."""
    stream = io.StringIO()
    sink = open_log("json", clock=CLOCK, stream=stream)
    sink.logger.info("an.event")
    sink.close(5)
    assert json.loads(stream.getvalue())["event"] == "an.event"


def test_on_a_terminal_lines_are_for_people_and_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real terminal: columns, and nothing of a field reaches it as a control character."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    ours, stream = terminal()
    sink = open_log("auto", clock=CLOCK, stream=stream)
    sink.logger.info("an.event", name="\x1b[2J[bold]x[/bold]\nforged")
    sink.close(5)
    text = appeared(ours, stream)
    assert text[25:] == ("info     an.event           name=\\x1b[2J[bold]x[/bold]\\nforged\r\n")


def test_lines_appear_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both share one terminal: whole lines, and the last state of the bar at the end."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    ours, stream = terminal()
    sink: LogSink = open_log("auto", clock=CLOCK, stream=stream)
    bar = Progress(3, {}, sink.console, CLOCK)
    for number in range(3):
        sink.logger.info("an.event", number=number)
    sink.close(5)
    bar.close()
    text = appeared(ours, stream)
    assert [f"number={n}\r\n" in text for n in range(3)] == [True] * 3
    assert text.rindex("0/3") > text.rindex("number=2")


def test_a_terminal_that_went_away_costs_lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed window: EIO on every write, no exception, everything counted."""
    monkeypatch.setenv("TERM", "xterm")
    ours, stream = terminal()
    sink = open_log("auto", clock=CLOCK, stream=stream)
    os.close(ours)
    for _ in range(10):
        sink.logger.info("an.event")
    sink.close(5)
    assert sink.dropped == 10
    os.close(os.dup(stream.fileno()))
    with pytest.raises(OSError, match="Input/output error"):
        stream.close()
