"""`python -m tests.simulation SEED` tells the story of one world; `--worlds N` plays many."""

from __future__ import annotations

import argparse
import sys
import warnings

from tests.simulation import campaign
from tests.simulation.story import tell


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="replay the world of this seed")
    parser.add_argument("--transport", choices=("fake", "aiohttp"), default="fake")
    parser.add_argument("--verbose", action="store_true", help="everything that was drawn, too")
    parser.add_argument("--worlds", type=int, help="play so many, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--catch", action="store_true", help="stop at the first violation")
    asked = parser.parse_args()
    campaign.quietly()
    warnings.simplefilter("ignore")  # of what crashes leave unclosed
    sys.unraisablehook = lambda _: None
    if asked.worlds is None:
        if asked.seed is None:
            parser.error("give a seed, or --worlds N")
        return tell(asked.seed, asked.transport, verbose=asked.verbose)
    if asked.catch:
        seeds = range(asked.first, asked.first + asked.worlds)
        tally = campaign.play_some(seeds, asked.transport, stop_at_first=True)
        for seed, invariant, said in tally.broken[:1]:
            sys.stdout.write(f"caught after {tally.worlds}: seed {seed}, {invariant}: {said}\n")
        return 1 if tally.broken else 0
    return campaign.main(asked.first, asked.worlds, asked.transport, asked.processes)


if __name__ == "__main__":
    sys.exit(main())
