"""Random stories with real processes and hostile sockets: enough to see that the harness works.

CI tells more of them by `python -m tests.system.stories`. Seeds that once failed are told again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.system.stories import campaign
from tests.system.stories.faults import FAULTS
from tests.system.stories.nursery import Nursery
from tests.system.stories.plot import Plot, draw, kinds
from tests.system.stories.teller import Teller
from tests.system.stories.theatre import Theatre

_SEEDS = (104, 131, 162, 222, 243, 252)


def test_stories() -> None:
    """A handful of fixed seeds: truth, ledger, log, reports and exit codes agree."""
    stories = campaign.run(_SEEDS)
    assert {story.plot.seed: story.wrong for story in stories} == dict.fromkeys(_SEEDS, ())
    assert sum(sum(story.tally.kills.values()) for story in stories) >= 2


def test_seeds_that_once_failed() -> None:
    """Each story that was wrong once is told by every run of the tests."""
    seeds = campaign.regressions()
    stories = campaign.run(seeds)
    assert {story.plot.seed: story.wrong for story in stories} == dict.fromkeys(seeds, ())


def test_every_kind_goes_round() -> None:
    """As many seeds as there are kinds of fault draw each of them once, and draw it again alike."""
    every = kinds()
    assert Counter(draw(seed).main for seed in range(len(every))) == Counter(every)
    assert len([name for name in every if name in FAULTS]) >= 50
    assert [draw(seed) for seed in range(20)] == [draw(seed) for seed in range(20)]


def _lose(folder: Path) -> None:
    _change(folder, "DELETE FROM command WHERE commandId = (SELECT max(commandId) FROM command)")


def _invent(folder: Path) -> None:
    _change(
        folder,
        "UPDATE command SET commandId = '4' WHERE commandId = (SELECT max(commandId) FROM command)",
    )


def _deny(folder: Path) -> None:
    _change(folder, "UPDATE outcome SET kind = 'nothing_cached'")


def _leak(folder: Path) -> None:
    with (folder / "log.ndjson").open("a") as log:
        log.write('{"event":"run.started","key":"canary-story-secret-key"}\n')


@pytest.mark.parametrize(
    ("damage", "invariants"),
    [(_lose, {2, 3, 4}), (_invent, {2, 3, 4, 7}), (_deny, {4}), (_leak, {13})],
)
def test_what_is_wrong_is_seen(
    tmp_path: Path, damage: Callable[[Path], None], invariants: set[int]
) -> None:
    """The harness itself: damage to what a good story left is named."""
    plot = replace(draw(7), showers=(), signals=(), formats=(), shape="single", way="plain")
    assert plot.main == "chunks_cut"
    with Nursery() as nursery:
        before, after = asyncio.run(_damaged(plot, tmp_path, nursery, damage))
    assert before == []
    assert {number for number, _ in after} == invariants


async def _damaged(
    plot: Plot, folder: Path, nursery: Nursery, damage: Callable[[Path], None]
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    theatre = Theatre(plot, folder, nursery)
    async with theatre.open():
        teller = Teller(plot, theatre)
        await teller.tell()
        before = list(teller.judge.wrong)
        damage(folder)
        teller.judge.after([])
        return before, teller.judge.wrong


def _change(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "ledger.db")) as ledger, ledger:
        ledger.execute(statement)
