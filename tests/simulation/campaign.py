"""Many worlds, on as many processes as asked for, and the table of what they showed."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from msgspec import Struct

from tests.simulation import coverage, invariants
from tests.simulation.truth import Key
from tests.simulation.world import World, play

REGRESSIONS = Path(__file__).with_name("regressions.txt")
_CHUNK = 50  # worlds a process takes at a time
_LIFE = 80  # chunks of a pool: what crashed tasks leave in anyio's books would slow its processes


class Tally(Struct):
    """What some worlds came to."""

    worlds: int = 0
    starts: int = 0
    crashes: int = 0
    requests: int = 0
    rows: dict[int, int] = {}
    worlds_with: dict[int, int] = {}
    outcomes: dict[str, int] = {}
    codes: dict[str, int] = {}
    broken: list[tuple[int, int, str]] = []  # seed, invariant, what

    def add(self, other: Tally) -> None:
        self.worlds += other.worlds
        self.starts += other.starts
        self.crashes += other.crashes
        self.requests += other.requests
        for name in ("rows", "worlds_with", "outcomes", "codes"):
            merged = Counter(getattr(self, name))
            merged.update(getattr(other, name))
            setattr(self, name, dict(merged))
        self.broken += other.broken


def judge(seed: int, transport: str) -> tuple[World, Counter[int]]:
    """Play a world and check everything about it, rows included."""
    world = play(seed, transport)
    return world, coverage.count(world)


def play_some(seeds: Iterable[int], transport: str, *, stop_at_first: bool = False) -> Tally:
    """Worlds one after another; a world that breaks down is a violation, too."""
    tally = Tally(rows={}, worlds_with={}, outcomes={}, codes={}, broken=[])
    for seed in seeds:
        tally.worlds += 1
        try:
            world, rows = judge(seed, transport)
        except Exception as broken:  # noqa: BLE001 - the seed is what matters
            tally.broken.append((seed, 0, f"{type(broken).__name__}: {broken}"))
            if stop_at_first:
                break
            continue
        _enter(tally, world, rows)
        if stop_at_first and world.violations:
            break
    return tally


def _enter(tally: Tally, world: World, rows: Counter[int]) -> None:
    tally.starts += len(world.starts)
    tally.crashes += sum(start.crashed for start in world.starts)
    tally.requests += len(world.gateway.exchanges)
    tally.rows = dict(Counter(tally.rows) + rows)
    tally.worlds_with = dict(Counter(tally.worlds_with) + Counter(dict.fromkeys(+rows, 1)))
    for start in world.starts:
        name = "crash" if start.crashed else str(start.code)
        tally.codes[name] = tally.codes.get(name, 0) + 1
        if start.tally is not None and start is world.starts[-1]:
            tally.outcomes = dict(Counter(tally.outcomes) + start.tally)
    for invariant, said in world.violations[:3]:
        tally.broken.append((world.seed, invariant, said))


def run(first: int, worlds: int, transport: str, processes: int) -> Tally:
    """A campaign over consecutive seeds."""
    whole = Tally(rows={}, worlds_with={}, outcomes={}, codes={}, broken=[])
    chunks = [range(lo, min(lo + _CHUNK, first + worlds)) for lo in _starts(first, worlds)]
    if processes == 1:
        for chunk in chunks:
            whole.add(play_some(chunk, transport))
        return whole
    fresh = multiprocessing.get_context("spawn")
    for at in range(0, len(chunks), _LIFE):
        some = chunks[at : at + _LIFE]
        with ProcessPoolExecutor(processes, mp_context=fresh, initializer=quietly) as pool:
            for part in pool.map(play_some, some, [transport] * len(some)):
                whole.add(part)
    return whole


def quietly() -> None:
    """A crash leaves coroutines that end without their loop; what they say then is no news."""
    sys.unraisablehook = lambda _: None


def _starts(first: int, worlds: int) -> Iterator[int]:
    return iter(range(first, first + worlds, _CHUNK))


def outcomes(world: World) -> Counter[tuple[Key, str]]:
    """What became of each device, whatever the order of the list."""
    return invariants.outcomes_by_device(world)


def missing(tally: Tally, transport: str) -> list[int]:
    """Rows that no world showed."""
    return sorted(row for row in coverage.needed(transport) if not tally.rows.get(row))


def table(tally: Tally, transport: str, seconds: float) -> str:
    """The campaign for people."""
    rate = tally.worlds / seconds * 60 if seconds else 0.0
    lines = [
        (
            f"{tally.worlds} worlds ({transport}) in {seconds:.0f} s, {rate:.0f} a minute: "
            f"{tally.starts} starts, {tally.crashes} crashes, {tally.requests} requests"
        ),
        "exit codes: " + _counts(tally.codes),
        "outcomes:   " + _counts(tally.outcomes),
        "row  worlds  times",
    ]
    for row in coverage.ROWS:
        shown = tally.worlds_with.get(row, 0), tally.rows.get(row, 0)
        lines.append(f"{row:3}  {shown[0]:6}  {shown[1]:6}")
    absent = missing(tally, transport)
    lines.append(f"rows not exercised: {', '.join(map(str, absent)) or 'none'}")
    seeds = {seed for seed, _, _ in tally.broken}
    lines.append(f"worlds with a violation: {len(seeds)}")
    lines += [
        f"  invariant {invariant}: {said}\n    {command(seed, transport)}"
        for seed, invariant, said in tally.broken[:20]
    ]
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items()) if number)


def command(seed: int, transport: str) -> str:
    """What replays a seed."""
    network = "" if transport == "fake" else f" --transport {transport}"
    return f"python -m tests.simulation {seed}{network}"


def remember(tally: Tally, transport: str) -> None:
    """Failing seeds are played by every test run from now on."""
    known = REGRESSIONS.read_text().splitlines() if REGRESSIONS.exists() else []
    lines = {f"{seed} {transport}": said for seed, _, said in reversed(tally.broken)}
    new = [f"{line}  # {said[:60]}" for line, said in lines.items() if not _has(known, line)]
    if new:
        REGRESSIONS.write_text("\n".join([*known, *new]) + "\n")


def _has(known: list[str], line: str) -> bool:
    return any(each.split("#")[0].strip() == line for each in known)


def main(first: int, worlds: int, transport: str, processes: int) -> int:
    """Print the table; 1 when a world was wrong or a row is missing."""
    began = time.perf_counter()
    tally = run(first, worlds, transport, processes)
    sys.stdout.write(table(tally, transport, time.perf_counter() - began) + "\n")
    remember(tally, transport)
    return 1 if tally.broken or missing(tally, transport) else 0
