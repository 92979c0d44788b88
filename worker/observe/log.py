"""The log: structlog in front, a bounded buffer behind.

The only module that configures structlog. A line is a copy of what the ledger holds, for
people and shippers, so losing one is counted and nothing waits for it. Tracebacks are never
rendered: exceptions of the HTTP client carry headers and URLs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

import structlog
from rich.console import Console
from structlog.typing import FilteringBoundLogger, Processor

from worker.clock import Clock
from worker.errors import UsageError
from worker.observe.drain import Drain, Lines
from worker.observe.fastlogger import LEVELS, json_logger
from worker.observe.outputs import LogFile, Terminal, standard_error, terminal
from worker.observe.render import ConsoleLines, JsonLines
from worker.writing import Guarded

Renderer = JsonLines | ConsoleLines
_STUCK = 0.1  # s for the last lines of a log that hangs
_FORMATS = ("auto", "json", "console")


class LogSink:
    """An open log: loggers in front, the place where lines go behind."""

    def __init__(
        self, lines: Lines, renderer: Renderer, level: str, console: Console | None = None
    ) -> None:
        outlet = _Outlet(lines.put)
        self._lines = lines
        self._stuck = False  # lines did not go out in time
        self.console = console  # of the terminal that lines and progress bar share, if any
        self.logger = _logger(outlet, renderer, LEVELS[level])
        self.record = _logger(outlet, renderer, 0)  # for what no level may hide

    @property
    def dropped(self) -> int:
        """Lines that were lost: the buffer was full, or writing failed."""
        return self._lines.dropped

    def reopen(self) -> None:
        """On SIGHUP: the log file was rotated. Nothing on stderr."""
        self._lines.reopen()

    def settle(self, timeout: float = 0.5) -> int:
        """Write what waits, for at most `timeout` seconds; how many lines were lost by then.

        A line that does not go out in that time is as good as lost: `close` barely waits again.
        """
        waiting = self._lines.settle(timeout)
        self._stuck = waiting > 0
        return self.dropped + waiting

    def close(self, timeout: float = 2.0) -> None:
        """Write what waits, for at most `timeout` seconds; the rest counts as dropped."""
        self._lines.close(min(timeout, _STUCK) if self._stuck else timeout)


def open_log(
    format: str = "auto",  # noqa: A002 - the configuration's own word
    level: str = "info",
    file: str | None = None,
    *,
    clock: Clock,
    stream: TextIO | None = None,
    guarded: Guarded | None = None,
) -> LogSink:
    """Open the log and make it structlog's own.

    `auto` is the console form on a terminal and JSON elsewhere; a file is always JSON.
    `stream` stands in for stderr. Raises UsageError for an unknown word, or for a file that
    cannot be written, is one of those `guarded` or is not a log of ours; a stderr that is closed
    or full costs lines, not the run.
    """
    if format not in _FORMATS:
        raise UsageError(f"log.format: {format}: not one of {', '.join(_FORMATS)}")
    if level not in LEVELS:
        raise UsageError(f"log.level: {level}: not one of {', '.join(LEVELS)}")
    stream = sys.stderr if stream is None else stream
    console = terminal(stream)
    people = file is None and (format == "console" or (format == "auto" and console is not None))
    renderer: Renderer = JsonLines(clock)
    if people:
        renderer = ConsoleLines(clock, colors=console is not None and not console.no_color)
    if file is not None:
        lines = Drain(LogFile(file, guarded))
    elif console is not None:
        lines = Drain(Terminal(console))
    else:
        lines = Drain(standard_error(stream))
    sink = LogSink(lines, renderer, level, console)
    _configure(lines.put, renderer, LEVELS[level])
    return sink


class Kept:
    """Lines kept in memory, for a simulated world and for tests: no thread, no descriptor."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    @property
    def dropped(self) -> int:
        return 0

    def put(self, line: bytes) -> None:
        self.lines.append(line)

    def reopen(self) -> None:
        """Nothing to rotate."""

    def settle(self, timeout: float) -> int:  # noqa: ARG002 - as the protocol has it
        """Nothing waits."""
        return 0

    def close(self, timeout: float) -> None:
        """Nothing to flush."""


def memory_log(clock: Clock, level: str = "debug") -> tuple[LogSink, Kept]:
    """A log in JSON whose lines stay in a list; structlog's own configuration is left alone."""
    kept = Kept()
    return LogSink(kept, JsonLines(clock), level), kept


class _Outlet:
    """What structlog calls a logger: every level leads to the same place."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self.put = put
        self.debug = self.info = self.warning = self.error = self.critical = put
        self.msg = self.notset = put


def _wrapper(renderer: Renderer, level: int) -> type[Any]:
    if isinstance(renderer, JsonLines):
        return json_logger(level)
    return structlog.make_filtering_bound_logger(level)


def _logger(outlet: _Outlet, renderer: Renderer, level: int) -> FilteringBoundLogger:
    logger: FilteringBoundLogger = structlog.wrap_logger(
        outlet,
        processors=cast("list[Processor]", [renderer]),
        wrapper_class=_wrapper(renderer, level),
        context_class=dict,
    ).bind()
    return logger


def _configure(put: Callable[[bytes], None], renderer: Renderer, level: int) -> None:
    structlog.configure(
        processors=cast("list[Processor]", [renderer]),
        wrapper_class=_wrapper(renderer, level),
        context_class=dict,
        logger_factory=lambda *_: _Outlet(put),
        cache_logger_on_first_use=False,
    )
