"""The bar: on a terminal only, and cheap."""

from __future__ import annotations

import io
import os
import pty
import time

import pytest
from rich.console import Console

from worker.clock import SystemClock
from worker.model import AllCached, AssetId, Outcome, OutcomeKind, Target
from worker.observe.outputs import terminal
from worker.observe.progress import Progress

CLOCK = SystemClock()
COUNTED = "2 cancelled, 2 nothing, 1 too late, 3 uncertain, 1 not found, 1 rejected, 1 failed"


def ended(kind: OutcomeKind) -> Outcome:
    return Outcome(Target(0, AssetId("a0"), "o1", AllCached(), "job.yaml:1"), kind)


def appeared(ours: int) -> str:
    """All that was shown on a terminal whose other end is closed."""
    data = b""
    while True:
        try:
            data += os.read(ours, 65_536)
        except OSError:  # EIO: that was all
            os.close(ours)
            return data.decode()


def test_without_a_terminal_nothing_is_shown_but_all_is_counted() -> None:
    """A no-op elsewhere: no console, and a console on a file."""
    out = io.StringIO()
    for console in (None, Console(file=out)):
        bar = Progress(5, {OutcomeKind.CANCELLED: 1, OutcomeKind.NOT_ATTEMPTED: 4}, console, CLOCK)
        for kind in OutcomeKind:
            bar.settled(ended(kind))
        bar.note("paused 12 s\x1b by the gateway")
        assert (bar.done, bar.said) == (
            11,
            f"{COUNTED}  paused 12 s\\x1b by the gateway",
        )
        bar.close()
        bar.close()
    assert out.getvalue() == ""


def test_on_a_terminal_the_last_state_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Total, done, rate, counts; updated by itself, without a call that draws."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    ours, theirs = pty.openpty()
    with io.TextIOWrapper(os.fdopen(theirs, "wb")) as stream:
        bar = Progress(4, {OutcomeKind.CANCELLED: 1}, terminal(stream), CLOCK)
        bar.settled(ended(OutcomeKind.FAILED))
        bar.note("[b]paused[/b]")
        bar.close()
    shown = appeared(ours)
    assert "2/4" in shown
    assert "1 cancelled, 1 failed  [b]paused[/b]" in shown


def test_a_dumb_terminal_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot move its cursor is treated like a file."""
    monkeypatch.setenv("TERM", "dumb")
    ours, theirs = pty.openpty()
    with io.TextIOWrapper(os.fdopen(theirs, "wb")) as stream:
        assert terminal(stream) is None
    os.close(ours)


def test_counting_is_cheap_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand targets a second are no work: the bar asks, ten times a second."""
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with io.TextIOWrapper(os.fdopen(theirs, "wb")) as stream:
        bar = Progress(100_000, {}, terminal(stream), CLOCK)
        outcome = ended(OutcomeKind.NOTHING_CACHED)
        began = time.thread_time()
        for _ in range(100_000):
            bar.settled(outcome)
        spent = time.thread_time() - began
        bar.close()
    assert spent < 0.5
    assert len(appeared(ours)) < 20_000


def test_a_terminal_that_is_held_costs_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-S on the terminal (nobody reads it) blocks the drawing, not the run."""
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    os.set_blocking(theirs, False)
    try:
        while os.write(theirs, b"x" * 4096):
            continue
    except BlockingIOError:
        os.set_blocking(theirs, True)
    stream = io.TextIOWrapper(os.fdopen(os.dup(theirs), "wb"))
    console = terminal(stream)
    began = time.monotonic()
    bar = Progress(10, {}, console, CLOCK)
    bar.settled(ended(OutcomeKind.CANCELLED))
    bar.close()
    assert time.monotonic() - began < 3
    os.set_blocking(ours, False)
    while True:  # let the drawing threads go
        time.sleep(0.05)
        try:
            os.read(ours, 1 << 20)
        except BlockingIOError:
            break
    stream.close()
    os.close(theirs)
    os.close(ours)
