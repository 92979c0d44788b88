"""Seeded worlds hold every invariant, and between them show every row of the matrix marked S."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from msgspec.structs import replace

from tests.simulation import campaign, coverage, required
from tests.simulation.memory import _sliced
from tests.simulation.world import World, play
from worker.model import OutcomeKind

WORLDS = int(os.environ.get("SIM_WORLDS", "600"))
_FIRST, _SLICE, _MOST = 10_000, 200, 4_000  # seeds in which every row is looked for
REAL = int(os.environ.get("SIM_WORLDS_AIOHTTP", str(WORLDS // 6)))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("transport", ["fake", "aiohttp"])
def test_every_world_holds_every_invariant(transport: str) -> None:
    """No seed shows a lost, an invented or a falsely claimed command; each names its replay."""
    worlds = WORLDS if transport == "fake" else REAL
    tally = campaign.play_some(range(worlds), transport)
    broken = [
        f"invariant {number}: {said}\n{campaign.command(seed, transport)}"
        for seed, number, said in tally.broken
    ]
    assert broken == []


@pytest.mark.timeout(1800)
def test_every_row_is_exercised() -> None:
    """A simulator that injects nothing passes everything: each row must have fired."""
    tally = campaign.play_some(range(_FIRST, _FIRST + _SLICE), "fake")
    for first in range(_FIRST + _SLICE, _FIRST + _MOST, _SLICE):
        if not campaign.missing(tally, "fake"):
            break
        tally.add(campaign.play_some(range(first, first + _SLICE), "fake"))
    assert campaign.missing(tally, "fake") == []
    assert tally.broken == []


@pytest.mark.timeout(600)
def test_every_part_of_row_109_is_exercised() -> None:
    """Keys to escape, pages, batches of a verification, lists in parts, jobs of one command."""
    seen: Counter[str] = Counter()
    for seed in range(_FIRST, _FIRST + 400):
        seen += coverage.parts(play(seed))
        if len(seen) == 5:
            break
    assert sorted(seen) == ["batches", "jobs", "keys", "limits", "pages"]


def test_the_outcome_of_a_single_call_is_required() -> None:
    """The check of outcomes by class is not idle, and a wrong outcome does not pass it."""
    checked: Counter[int] = Counter()
    for seed in range(150):
        world = play(seed, "fake")
        checked.update(required.outcomes(world))
        assert world.violations == []
        for start in world.starts:
            start.settled = [replace(each, kind=OutcomeKind.TOO_LATE) for each in start.settled]
        wrong = sum(required.outcomes(world).values())
        assert len(world.violations) == wrong
    assert {5, 10, 15, 22, 24, 28} <= set(checked)


@pytest.mark.timeout(300)
def test_a_calm_gateway_does_not_mind_the_order() -> None:
    """Invariant 15: without faults, the order of the list changes no device's outcome."""
    seen = 0
    for seed in range(400):
        world = World(seed)
        if world.setup.kind != "calm" or world.twins(world.listing):
            continue
        seen += 1
        told = campaign.outcomes(world.live())
        again = World(seed, backwards=True)
        assert campaign.outcomes(again.live()) == told, campaign.command(seed, "fake")
    assert seen >= 15


def test_a_reply_is_cut_anywhere() -> None:
    """Row 9: over the real client the pieces of a reply join to the reply, wherever it is cut."""
    world = play(3, "aiohttp")
    assert world.violations == []
    for cut in range(40):
        pieces = _sliced(bytes(range(40)), world.chance(cut))
        assert b"".join(pieces) == bytes(range(40))
