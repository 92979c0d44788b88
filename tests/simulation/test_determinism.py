"""The same seed is the same world: in this process, in another, after other worlds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.world import play

ROOT = Path(__file__).parents[2]
_HASHES = (
    "import sys\n"
    "from tests.simulation.world import play\n"
    "for seed in range(int(sys.argv[1]), int(sys.argv[2])):\n"
    "    print(play(seed, sys.argv[3]).hash())\n"
)


def hashes(first: int, last: int, transport: str, salt: str) -> list[str]:
    """Trace hashes from a process of its own, with its own hash seed."""
    ran = subprocess.run(
        [sys.executable, "-c", _HASHES, str(first), str(last), transport],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.split()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("transport", "count"), [("fake", 100), ("aiohttp", 20)])
def test_the_same_seed_gives_the_same_trace(transport: str, count: int) -> None:
    """Another process, another hash seed and other worlds before it: the traces are the same."""
    here = [play(seed, transport).hash() for seed in range(count)]
    there = hashes(0, count, transport, "1")
    assert here == there
    assert len(set(here)) == count
