"""The bar on a terminal: how far, how fast, how long still, and what came of it so far.

Apart from the log because it is for a person who watches, and only on a terminal. It shares
the terminal's console with the log, so log lines appear above the bar. The loop only counts;
rich's own thread asks for the counts at most ten times a second.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from worker.clock import Clock
from worker.model import Outcome, OutcomeKind
from worker.text import escaped

_GROUPS = {
    OutcomeKind.CANCELLED: "cancelled",
    OutcomeKind.NOTHING_CACHED: "nothing",
    OutcomeKind.NOTHING_MATCHED: "nothing",
    OutcomeKind.TOO_LATE: "too late",
    OutcomeKind.UNKNOWN: "uncertain",
    OutcomeKind.CANCELLED_INCOMPLETE: "uncertain",
    OutcomeKind.ANOMALOUS: "uncertain",
    OutcomeKind.NOT_FOUND: "not found",
    OutcomeKind.REJECTED: "rejected",
    OutcomeKind.FAILED: "failed",
}
_SHOWN = tuple(dict.fromkeys(_GROUPS.values()))
_HELD = 1.0  # seconds that a terminal which takes nothing (Ctrl-S) may cost, at both ends


class Progress:
    """A bar on a terminal; without one, every call does nothing."""

    def __init__(
        self,
        total: int,
        already: Mapping[OutcomeKind, int],
        console: Console | None,
        clock: Clock,
    ) -> None:
        """`total` targets of the run, `already` settled before this start. Shown at once."""
        self.counts = dict.fromkeys(_SHOWN, 0)
        self._note = ""
        self._bar: _Bar | None = None
        for kind, count in already.items():
            if kind in _GROUPS:
                self.counts[_GROUPS[kind]] += count
        if console is not None and console.is_terminal and not console.is_dumb_terminal:
            self._bar = _Bar(self, console, clock, total)
            _apart(self._bar.start)

    @property
    def done(self) -> int:
        """How many targets have their outcome."""
        return sum(self.counts.values())

    @property
    def said(self) -> str:
        """The counts and the note in words, such as `3 cancelled, 1 failed  paused 12 s`."""
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count)
        return f"{counts}  {self._note}" if self._note else counts

    def settled(self, outcome: Outcome) -> None:
        """One more target has its outcome."""
        group = _GROUPS.get(outcome.kind)
        if group is not None:
            self.counts[group] += 1

    def note(self, text: str) -> None:
        """Say something behind the counts, such as `paused 12 s by the gateway`; "" clears."""
        self._note = escaped(text)

    def close(self) -> None:
        """Leave the last state on the screen. A terminal that hangs is left alone after 1 s."""
        bar, self._bar = self._bar, None
        if bar is not None:
            _apart(bar.stop)


class _Bar(Bar):
    """rich's progress, which asks for the counts whenever it draws."""

    def __init__(self, progress: Progress, console: Console, clock: Clock, total: int) -> None:
        self._asked = progress
        super().__init__(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            refresh_per_second=10,
            get_time=clock.monotonic,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self.add_task("", total=total, completed=progress.done)

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.task_ids:
            self.update(self._task, completed=self._asked.done, description=self._asked.said)
        yield self.make_tasks_table(self.tasks)


class _Rate(ProgressColumn):
    """Targets a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("-- /s" if speed is None else f"{speed:.1f} /s")


def _apart(draw: Callable[[], None]) -> None:
    """Draw in a thread of its own, and wait for it a second at most: the terminal may hang."""

    def drawn() -> None:
        with contextlib.suppress(OSError):  # the terminal went away
            draw()

    thread = threading.Thread(target=drawn, name="progress", daemon=True)
    thread.start()
    thread.join(_HELD)
