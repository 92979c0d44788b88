"""The stories of worlds: which runs begin, go on and stand side by side, one act after another.

A world has one job and one ledger, unless it drew two workers that know nothing of each other, or
several jobs whose devices overlap on one ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.simulation.ledgers import Listing, Row, command_id
from tests.simulation.truth import Key
from tests.simulation.verdicts import worst
from worker.cli import series
from worker.model import OutcomeKind

if TYPE_CHECKING:
    from tests.simulation.world import World

Kinds = tuple[OutcomeKind, ...]

_RETRIED: Kinds = (OutcomeKind.FAILED, OutcomeKind.REJECTED, OutcomeKind.NOT_FOUND)


def play(world: World) -> None:
    """Let everything of a world happen."""
    if world.setup.kind == "two":
        world.process([world.begin(0, "run-1"), world.begin(1, "run-1")])
    elif world.setup.several is not None:
        _Several(world).play()
    else:
        _one_job(world)


def _one_job(world: World) -> None:
    """One job, resumed as long as something is left; after a crash perhaps a new run of it."""
    setup, chance = world.setup, world.loop_chance
    crashes = list(setup.crashes)
    run_id = "run-1"
    kinds: Kinds = ()
    for number in range(1 + setup.resumes):
        limit = setup.limits[number - 1] if number and setup.limits else None
        start = world.begin(0, run_id, limit=limit)
        world.process([start], crashes.pop(0) if crashes else None, kinds)
        if start.code == 7 or number == setup.resumes:
            break
        done = not start.crashed and start.code in (0, 3)
        if done and not setup.limits and chance.random() < 0.7:
            break
        world.pause()
        if start.crashed and setup.new_run:
            run_id = f"run-{len(world.starts) + 1}"
            if not world.plan(world.listing, run_id):
                break
        kinds = _RETRIED if chance.random() < 0.3 else ()


class _Several:
    """Jobs on one ledger whose devices overlap, in other spellings too."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance("acts")
        self._crashes = list(world.setup.crashes)
        more = 1 + self._chance.randrange(2)
        self._lists = [world.listing, *(self._another(f"sim-{n}") for n in range(1, 1 + more))]
        self._runs: list[tuple[str, Listing]] = [("run-1", world.listing)]

    def play(self) -> None:
        """What was drawn first, then runs and resumes in turns."""
        how = self._world.setup.several
        if how == "series":
            goes_on = self._series()
        elif how == "beside":
            goes_on = self._plan(self._lists[1]) and self._beside(self._runs[:2])
        else:
            goes_on = self._one(self._runs[0])
        for number in range(self._world.setup.acts):
            if not goes_on:
                return
            self._world.pause()
            if number == 0 and self._world.setup.clock_set:
                self._world.set_clock(self._world.setup.clock_set)
            goes_on = self._act()

    def _act(self) -> bool:
        chance, runs = self._chance, self._runs
        at = chance.random()
        if at < 0.35 and not self._plan(chance.choice(self._lists)):
            return False
        if at < 0.35:
            return self._one(runs[-1])
        one, two = chance.choice(runs), chance.choice(runs)
        if at < 0.5 and one[1].job != two[1].job and self._may_be_beside():
            return self._beside([one, two])
        return self._one(one)

    def _may_be_beside(self) -> bool:
        return self._world.setup.kind != "ledger"  # a store that fails, fails for both

    def _one(self, run: tuple[str, Listing]) -> bool:
        kinds = _RETRIED if self._chance.random() < 0.3 else ()
        start = self._world.begin(0, *run)
        self._world.process([start], self._crash(), kinds)
        return True

    def _beside(self, runs: Sequence[tuple[str, Listing]]) -> bool:
        """Two processes at once; the second may be late."""
        starts = [self._world.begin(worker, *run) for worker, run in enumerate(runs)]
        starts[1].late = self._chance.choice((0.0, 0.05, 1.0, 3.0))
        for start in starts:
            start.beside = 1
        self._world.process(starts, self._crash())
        return True

    def _series(self) -> bool:
        """All jobs of one command: all are planned, then one runs after another."""
        if not all(self._plan(listing) for listing in self._lists[1:]):
            return False
        codes: list[int] = []
        dies = self._chance.random() < 0.2
        for run in self._runs:
            start = self._world.begin(0, *run)
            self._world.process([start], self._crash() if dies else None)
            if start.crashed or start.code is None:
                return True
            codes.append(start.code)
            if start.end is not None and series.ends_series(start.end):
                break
            if start.end is None and start.code == 6:
                break
        self._check(codes)
        return True

    def _check(self, codes: list[int]) -> None:
        code, expected = series.worst(codes), worst(codes)
        if code != expected:
            self._world.wrong(8, f"jobs that end {codes} make a command {code}, not {expected}")

    def _plan(self, listing: Listing) -> bool:
        run = (f"run-{len(self._runs) + 1}", listing)
        self._runs.append(run)
        return self._world.plan(listing, run[0])

    def _crash(self) -> int | None:
        return self._crashes.pop(0) if self._crashes else None

    def _another(self, job: str) -> Listing:
        """The list of another job: most devices of the first, some spelled in the other way."""
        world, chance = self._world, self._chance
        scope = world.setup.scope
        if chance.random() < 0.3:
            scope = "listed" if scope == "all_cached" else "all_cached"
        respelled, taken = chance.choice((0.0, 0.0, 0.5, 1.0)), chance.choice((0.6, 1.0))
        rows: dict[Key, Row] = {}
        for key in world.listing.keys:
            thing = world.gateway.by_key[key]
            other = thing.by_keys if key == thing.by_asset else thing.by_asset
            spelled = other if chance.random() < respelled else key
            ids = None
            if scope == "listed":
                numbers = sorted(chance.sample(range(4), chance.randrange(1, 4)))
                ids = " ".join(command_id(thing.index, number) for number in numbers)
            if chance.random() < taken or not rows:
                by_asset = spelled == thing.by_asset
                rows[spelled] = (
                    None if by_asset else thing.productKey,
                    None if by_asset else thing.deviceKey,
                    thing.assetId if by_asset else None,
                    ids,
                )
        made = list(rows.values())
        chance.shuffle(made)
        return Listing(job, scope, made)
