"""What a command works with, opened in the order in which it may fail: words, settings, ledger."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from msgspec import Struct

from worker.cli.series import TEMPORARY, Office
from worker.cli.signals import SIGNALS
from worker.clock import Clock, SystemClock
from worker.config import Settings, load_settings
from worker.errors import CancelWorkerError, InvalidInputError
from worker.job.plan import load_plain
from worker.ledger.database import SIDE_FILES, ledger_path
from worker.ledger.store import Store
from worker.observe.log import LogSink, open_log
from worker.text import escaped, escaped_json
from worker.writing import Guarded

#: Variables that the program reads beside the configuration's own.
OTHER_VARIABLES = ("CANCEL_WORKER_CONFIG", "CANCEL_WORKER_ACTOR")


class Common(Struct, frozen=True):
    """The options that many commands share."""

    config: str | None = None
    ledger: str | None = None
    log_file: str | None = None
    log_level: str | None = None
    log_format: str | None = None


def settings_of(common: Common) -> Settings:
    """File, environment and flags; what is odd but usable is said on stderr."""
    flags = {
        "ledger.url": common.ledger,
        "log.file": common.log_file,
        "log.level": common.log_level,
        "log.format": common.log_format,
    }
    settings = load_settings(
        load_plain, os.environ, config=common.config, flags=flags, also_known=OTHER_VARIABLES
    )
    for warning in settings.warnings:
        say(f"warning: {warning}")
    return settings


def environment() -> Mapping[str, str]:
    """The process's environment, without what the settings took out of it."""
    return os.environ


@contextmanager
def reading(common: Common) -> Iterator[tuple[Store, str]]:
    """The ledger, for a command that only looks; and its URL."""
    url = settings_of(common).ledger.url
    store = Store.look(url)
    try:
        yield store, url
    finally:
        store.close()


@contextmanager
def office(settings: Settings, *, temporary: bool = False) -> Iterator[Office]:
    """Ledger and log, for a command that plans or sends."""
    clock: Clock = SystemClock()
    url = TEMPORARY if temporary else settings.ledger.url
    store = Store.open(url, keep_input=settings.ledger.keep_input)
    try:
        guarded = _guarded(settings, url)
        log = _log(settings, clock, guarded)
        try:
            SIGNALS.plan(log.reopen)
            yield Office(store, settings, log, clock, say, url, guarded, SIGNALS)
        finally:
            log.close()
    finally:
        store.close()


def _guarded(settings: Settings, ledger_url: str) -> Guarded:
    """The files that neither a report nor the log may be."""
    guarded = Guarded()
    ledger = ledger_path(ledger_url)
    if ledger is not None:
        guarded.add(str(ledger), "the ledger, or a file beside it", SIDE_FILES)
    for path, what in settings.files().items():
        guarded.add(path, what)
    guard_stream(guarded, sys.stdout, "where the result goes")
    return guarded


def guard_stream(guarded: Guarded, stream: IO[str] | None, what: str) -> None:
    """Guard the file that a stream was redirected to, if it was."""
    if stream is not None:  # None: its number may be another file by now
        with suppress(OSError, ValueError):
            guarded.add(stream.fileno(), what)


def _log(settings: Settings, clock: Clock, guarded: Guarded) -> LogSink:
    options = settings.log
    return open_log(options.format, options.level, options.file, clock=clock, guarded=guarded)


def say(*lines: str) -> None:
    """Lines to people, each on one line whatever is in it; a stderr that is gone loses them."""
    _write(sys.stderr, _as_lines(lines))


def say_error(error: CancelWorkerError, word: str = "error") -> None:
    """What went wrong; each of its lines is one."""
    lines = str(error).split("\n")
    if isinstance(error, InvalidInputError):
        lines = error.lines()
    say(f"{word}: {lines[0]}", *lines[1:])


def show(*lines: str) -> None:
    """The result as lines on stdout; a reader that went away changes nothing."""
    show_text(_as_lines(lines))


def show_text(text: str) -> None:
    """The result as it is: its lines hold nothing that steers a terminal."""
    _write(sys.stdout, text)


def show_json(value: Mapping[str, Any] | list[Any]) -> None:
    text = json.dumps(value, ensure_ascii=False, default=str)
    show_bytes(escaped_json(text.encode("utf-8", "backslashreplace")) + b"\n")


def show_bytes(data: bytes) -> None:
    show_text(data.decode("utf-8", "replace"))


def ask(question: str) -> str:
    """What a person types behind the question."""
    _write(sys.stderr, f"{escaped(question)} ")
    return sys.stdin.readline()


def on_terminal() -> bool:
    """Whether the result goes to a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


@contextmanager
def binary_stdout() -> Iterator[IO[bytes]]:
    """Stdout for a long result; a reader that goes away ends it quietly."""
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _as_lines(lines: Sequence[str]) -> str:
    return "".join(f"{escaped(line)}\n" for line in lines)


def _write(stream: IO[str] | None, text: str) -> None:
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):  # what is left in its buffer must not fail at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
