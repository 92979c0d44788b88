"""SIGKILL at random instants of real runs, and what the ledger, the log and the gateway say then.

    python -m tests.system.kills --runs 100 --seed 1

Each story is one job against one gateway: a run that is killed, resumes of which up to two more
are killed, resumes until nothing is left open. After every kill and at the end the ledger is
compared with what the gateway really executed. A story is told again by its seed (as nearly as
the scheduling of real processes allows): `--runs 1 --seed S`.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from tests.system.inquest import Inquest, Tally
from tests.system.nursery import Nursery
from tests.system.plots import Kill, Plot, draw
from tests.system.stage import Stage, stage

_PATIENCE = 60.0  # s that one start may take
_RESUMES = 8  # that may be needed until nothing is open
_QUIET = 0.06  # s without a request: what a dead process had sent has arrived
_nurseries: list[Nursery] = []  # one a process of the pool


class Story(NamedTuple):
    """What became of one seed."""

    plot: Plot
    tally: Tally
    wrong: tuple[str, ...]


def tell(seed: int, folder: Path) -> Story:
    """Play one story in an empty folder."""
    plot = draw(seed)
    if not _nurseries:
        _nurseries.append(Nursery())
    with stage(folder, plot.profile, seed=seed, busy=plot.busy) as gateway:
        gateway.environment.update(plot.environment())
        teller = _Teller(plot, gateway, _nurseries[0])
        teller.tell()
        return Story(plot, teller.inquest.tally, tuple(teller.inquest.wrong))


class _Teller:
    """One story while it is told."""

    def __init__(self, plot: Plot, gateway: Stage, nursery: Nursery) -> None:
        self.plot = plot
        self.gateway = gateway
        self.nursery = nursery
        self.job = plot.write_job(gateway)
        self.inquest = Inquest(plot, gateway)

    def tell(self) -> None:
        for number, kill in enumerate(self.plot.kills):
            if not self._killed(number, kill):
                break
        for _ in range(_RESUMES):
            code = self._live(self._arguments(), None)[0]
            self._quiet()
            if not self.inquest.after_end(code):
                break
        self.inquest.at_the_end()

    def _killed(self, number: int, kill: Kill) -> bool:
        """One start and its kill; whether there is anything left to kill."""
        before = self.inquest.round()
        code, seconds = self._live(self._arguments(), kill)
        self._quiet()
        if code != -9:
            self.inquest.tally.missed += 1
            self.inquest.after_end(code)
            return False
        self.inquest.after_kill(number, kill, before, seconds)
        return True

    def _arguments(self) -> list[str]:
        """A run while there is no plan, else its resume."""
        flags = ["--yes", "-o", "json", "--report", "ndjson=report.ndjson"]
        flags += ["--concurrency", str(self.plot.concurrency)]
        if self.inquest.run_id() is None:
            return ["run", str(self.job), *flags]
        return ["resume", "last", *flags]

    def _live(self, arguments: list[str], kill: Kill | None) -> tuple[int, float]:
        """Start it and, if it is to be killed, kill it then: exit code, s in which it sent."""
        if self.plot.fresh:
            process = self.gateway.start(*arguments)
            poll, end = process.poll, process.kill
        else:
            output = self.gateway.folder / "output"
            number = self.nursery.start(
                arguments, self.gateway.environment, self.gateway.folder, output
            )
            poll, end = lambda: self.nursery.poll(number), lambda: os.kill(number, signal.SIGKILL)
        moments = iter(self._moments(kill))
        began = time.monotonic()
        while (code := poll()) is None:
            if next(moments, False) or time.monotonic() - began > _PATIENCE:
                end()
                moments = iter(())
                if kill is None:
                    self.inquest.wrong.append(f"{arguments[0]} did not end within {_PATIENCE:g} s")
            time.sleep(0.001)
        if self.plot.fresh:
            process.communicate()
        return code, time.monotonic() - began

    def _moments(self, kill: Kill | None) -> Iterator[bool]:
        """Asked again and again: whether now is the moment."""
        if kill is None:
            return
        book = self.gateway.world.book.requests
        start = book[kill.after]
        while kill.after and book[kill.after] - start < kill.count:
            yield False
        moment = time.monotonic() + kill.delay
        while time.monotonic() < moment:
            yield False
        yield True

    def _quiet(self) -> None:
        """Return when the gateway hears nothing any more."""
        book = self.gateway.world.book.requests
        before = -1
        while before != (before := sum(book.values())):
            time.sleep(_QUIET)


# ---------------------------------------------------------------- many stories


def tell_all(seeds: Sequence[int], jobs: int = 2, seconds: float = math.inf) -> list[Story]:
    """Tell the stories, `jobs` at once; after `seconds` no new one begins."""
    until = time.time() + seconds
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        told = pool.map(_tell_one, seeds, repeat(until))
        return [story for story in told if story is not None]


def _tell_one(seed: int, until: float) -> Story | None:
    if time.time() > until:
        return None
    with tempfile.TemporaryDirectory() as folder:
        story = tell(seed, Path(folder))
    if story.wrong:
        sys.stderr.write("\n  ".join([f"seed {seed}: {story.plot}", *story.wrong]) + "\n")
    return story


def table(stories: Sequence[Story], seconds: float) -> str:
    """The figures, one a line."""
    tallies = [story.tally for story in stories]
    phases: Counter[str] = Counter()
    for tally in tallies:
        phases.update(tally.kills)
    lines = [
        ("SIGKILLs of a real run", sum(phases.values())),
        *((f"  {phase}", count) for phase, count in sorted(phases.items())),
        ("stories", len(stories)),
        ("  in which something was wrong", sum(bool(story.wrong) for story in stories)),
        ("starts that ended by themselves", sum(t.resumes for t in tallies)),
        ("ids that the gateway cancelled", sum(t.executed for t in tallies)),
        ("  silently lost", sum(t.lost for t in tallies)),
        ("  invented", sum(t.invented for t in tallies)),
        ("  in the log and not in the ledger", sum(t.log_only for t in tallies)),
        ("most targets in doubt at a kill", max((t.in_doubt for t in tallies), default=0)),
        ("  as a share of what may be", f"{max((t.fullest for t in tallies), default=0):.0%}"),
        ("new requests for settled devices", sum(t.again for t in tallies)),
        ("log lines broken by a kill", sum(t.torn for t in tallies)),
        ("seconds", round(seconds)),
    ]
    return "\n".join(f"{name:<36}{value:>9}" for name, value in lines)


def main() -> int:
    """Tell stories until there were so many kills; 1 when anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.kills", description=__doc__)
    parser.add_argument("--runs", type=int, default=60, help="stories, of one to three kills")
    parser.add_argument("--seed", type=int, default=1, help="of the first story")
    parser.add_argument("--jobs", type=int, default=2, help="stories at once")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no new story after these")
    given = parser.parse_args()
    began = time.monotonic()
    seeds = range(given.seed, given.seed + given.runs)
    stories = tell_all(seeds, given.jobs, given.minutes * 60)
    sys.stdout.write(table(stories, time.monotonic() - began) + "\n")
    return int(any(story.wrong for story in stories) or not stories)


if __name__ == "__main__":
    # The pool's processes must find these functions under the module's own name.
    from tests.system import kills

    sys.exit(kills.main())
