"""Random stories with real processes and hostile sockets (docs/simulation.md).

python -m tests.system.stories 17              # one seed: what was drawn, and its story
python -m tests.system.stories --runs 200 --seed 1 --minutes 2
"""

from __future__ import annotations

import argparse
import math
import sys
import time

import msgspec

from tests.system.stories import campaign


def main() -> int:
    """Tell one story or many; 1 when anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.stories", description=__doc__)
    parser.add_argument("story", type=int, nargs="?", help="a seed to tell")
    parser.add_argument("--runs", type=int, default=60, help="stories")
    parser.add_argument("--seed", type=int, default=1, help="of the first story")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no new story after these")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--later", action="store_true", help="draw what a later version must do")
    given = parser.parse_args()
    if given.story is not None:
        return _one(given.story, later=given.later)
    began = time.monotonic()
    seeds = range(given.seed, given.seed + given.runs)
    stories = campaign.run(seeds, given.minutes * 60, given.processes, later=given.later)
    seconds = time.monotonic() - began
    sys.stdout.write(campaign.table(stories, seconds, later=given.later) + "\n")
    if not given.later:
        campaign.remember(stories)
    failed = any(s.wrong for s in stories) or campaign.missing(stories, later=given.later)
    return int(bool(failed) or not stories)


def _one(seed: int, *, later: bool) -> int:
    """The same draw; real processes do not run the same way twice."""
    [story] = campaign.play([seed], later=later)
    drawn = msgspec.to_builtins(story.plot)
    for name, value in drawn.items():
        sys.stdout.write(f"{name}: {value}\n")
    sys.stdout.write(campaign.describe(story))
    sys.stdout.write(f"struck: {dict(story.tally.faults)}\n")
    return int(bool(story.wrong))


if __name__ == "__main__":
    sys.exit(main())
