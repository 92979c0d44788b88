"""Every seed that ever failed is played again."""

from __future__ import annotations

import pytest

from tests.simulation.campaign import REGRESSIONS, command, judge


def seeds() -> list[tuple[int, str]]:
    """The seeds and networks of regressions.txt."""
    lines = [line.partition("#")[0].split() for line in REGRESSIONS.read_text().splitlines()]
    return [(int(line[0]), line[1]) for line in lines if line]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("seed", "transport"), seeds())
def test_a_seed_that_failed_once(seed: int, transport: str) -> None:
    """What was mended stays mended."""
    world, _ = judge(seed, transport)
    assert world.violations == [], command(seed, transport)
