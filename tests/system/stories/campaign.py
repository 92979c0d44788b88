"""Many stories, a few at a time on two processes, and the table of what they showed."""

from __future__ import annotations

import asyncio
import math
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.system.stories.judge import Tally
from tests.system.stories.nursery import Nursery
from tests.system.stories.plot import TURNS, Plot, draw, kinds
from tests.system.stories.teller import Story, tell

REGRESSIONS = Path(__file__).with_name("regressions.txt")
_AT_ONCE = 3  # stories of one process; most of a story is waiting
_CHUNK = 12  # seeds that a process takes at a time
_LONG = 4  # stories for each kind of fault: from then on a kind that never struck is a failure


def play(seeds: Iterable[int], until: float = math.inf, *, later: bool = False) -> list[Story]:
    """These stories, in this process; after `until` (Unix time) no new one begins."""
    with Nursery() as nursery:
        return asyncio.run(_play(list(seeds), until, nursery, later))


async def _play(seeds: list[int], until: float, nursery: Nursery, later: bool) -> list[Story]:
    told: list[Story] = []
    coming = iter(seeds)

    async def teller() -> None:
        for seed in coming:
            if time.time() > until:
                return
            told.append(await _one(draw(seed, later=later), nursery))

    await asyncio.gather(*(teller() for _ in range(_AT_ONCE)))
    return told


async def _one(plot: Plot, nursery: Nursery) -> Story:
    with tempfile.TemporaryDirectory(prefix="story-") as folder:
        try:
            return await tell(plot, Path(folder), nursery)
        except Exception:  # noqa: BLE001 - the seed is what matters
            broken = traceback.format_exc(limit=-4)
            return Story(plot, Tally(), ((0, f"the harness broke down: {broken}"),), ())


def run(
    seeds: Sequence[int], seconds: float = math.inf, processes: int = 2, *, later: bool = False
) -> list[Story]:
    """A campaign."""
    until = time.time() + seconds
    chunks = [seeds[at : at + _CHUNK] for at in range(0, len(seeds), _CHUNK)]
    told: list[Story] = []
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for some in pool.map(partial(play, until=until, later=later), chunks):
            told += some
            for story in some:
                if story.wrong:
                    sys.stderr.write(describe(story))
    return told


# ---------------------------------------------------------------- for people


def describe(story: Story) -> str:
    """A story that went wrong, and how to tell it again."""
    plot = story.plot
    lines = [f"seed {plot.seed}: {plot.main}, {plot.shape}, {plot.way}"]
    lines += [f"  {said}" for said in story.told]
    lines += [f"  invariant {number}: {said}" for number, said in story.wrong]
    return "\n".join([*lines, f"  {command(plot.seed)}"]) + "\n"


def command(seed: int) -> str:
    """What plays a seed again."""
    return f"python -m tests.system.stories {seed}"


def missing(stories: Sequence[Story], *, later: bool = False) -> list[str]:
    """Kinds of fault that never struck, of a campaign that is long enough to say so."""
    every = kinds(later=later)
    if len(stories) < _LONG * len(every):
        return []
    seen = _seen(stories)
    return [name for name in every if not seen[name]]


def _seen(stories: Sequence[Story]) -> Counter[str]:
    """How often each kind struck; a law of a gateway counts once a story."""
    seen: Counter[str] = Counter()
    for story in stories:
        seen.update(story.tally.faults)
        if story.plot.main in TURNS:
            seen[story.plot.main] += 1
    return seen


def table(stories: Sequence[Story], seconds: float, *, later: bool = False) -> str:
    """The figures, one a line."""
    tallies = [story.tally for story in stories]
    seen = _seen(stories)
    lines: list[tuple[str, object]] = [
        ("stories", len(stories)),
        ("  in which something was wrong", sum(bool(story.wrong) for story in stories)),
        ("false claims", sum(t.claims for t in tallies)),
        ("ids silently lost", sum(t.lost for t in tallies)),
        ("requests that no job names", sum(t.strays for t in tallies)),
        ("starts of a real process", sum(t.starts for t in tallies)),
        ("  of them resumes", sum(t.resumes for t in tallies)),
        ("requests", sum(t.requests for t in tallies)),
        ("ids that were cancelled", sum(t.executed for t in tallies)),
        ("SIGKILLs", sum(sum(t.kills.values()) for t in tallies)),
        *(_indented(_sum(t.kills for t in tallies))),
        ("most targets in doubt at a kill", max((t.in_doubt for t in tallies), default=0)),
        ("  as a share of what may be", f"{max((t.fullest for t in tallies), default=0):.0%}"),
        ("log lines broken by a kill", sum(t.torn for t in tallies)),
        ("other signals", sum(t.signals[k] for t in tallies for k in ("TERM", "INT", "INT2"))),
        ("seconds", round(seconds)),
    ]
    parts = [f"{name:<36}{value:>9}" for name, value in lines]
    parts += _counts("outcomes", _sum(t.outcomes for t in tallies))
    parts += _counts("exit codes", _sum(t.codes for t in tallies))
    parts += _counts("stops", _sum(t.stops for t in tallies))
    parts += _counts("shapes", Counter(story.plot.shape for story in stories))
    parts += _counts("ways", Counter(story.plot.way for story in stories))
    parts += _counts(f"faults ({len(+seen)} kinds)", seen)
    if absent := missing(stories, later=later):
        parts.append(f"kinds that never struck: {', '.join(absent)}")
    return "\n".join(parts)


def _sum(counters: Iterable[Counter[str]]) -> Counter[str]:
    whole: Counter[str] = Counter()
    for each in counters:
        whole.update(each)
    return whole


def _indented(counts: Counter[str]) -> Iterator[tuple[str, object]]:
    return ((f"  {name}", count) for name, count in sorted(counts.items()))


def _counts(title: str, counts: Counter[str]) -> list[str]:
    said = ", ".join(f"{name} {number}" for name, number in sorted(counts.items()) if number)
    return [f"{title}: {said}"]


# ---------------------------------------------------------------- what stays


def remember(stories: Sequence[Story]) -> None:
    """Failing seeds are played by every test run from now on."""
    known = regressions()
    new = [s for s in stories if s.wrong and s.plot.seed not in known]
    if new:
        with REGRESSIONS.open("a", encoding="utf-8") as file:
            for story in new:
                said = " ".join(story.wrong[0][1].split())[:70]
                file.write(f"{story.plot.seed}  # {said}\n")


def regressions() -> list[int]:
    """The seeds that once failed."""
    if not REGRESSIONS.exists():
        return []
    lines = (line.partition("#")[0].strip() for line in REGRESSIONS.read_text().splitlines())
    return [int(line) for line in lines if line]
