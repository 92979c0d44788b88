"""Rehearsals of a whole fleet without a rate, over every fault profile, with many seeds.

    python -m tests.system.rehearsals --rounds 29 --devices 3000

Each is the real command against the bundled simulator. It may stop only where its profile explains
that, its report must agree with what the simulator knows that it did, and one that was not stopped
must have searched every target again that it touched. One that was wrong is told again by its
profile and seed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.system.stage import COMMAND, ORG
from worker.run.verify import TOUCHED
from worker.simulator.faults import PROFILES

_PATIENCE = 900.0  # s for one rehearsal
#: The rules that a profile explains; in all others nothing stops a run.
_EXPLAINED = {"down": {"abort_consecutive", "abort_failed"}}
#: The exit codes of a run that was not stopped; 3 and 4 name what is not settled well.
_FINE = {0, 3, 4}


class Told(Struct, frozen=True):
    """How one rehearsal ended."""

    profile: str
    seed: int
    code: int
    rule: str | None  # of its stop
    outcomes: dict[str, int]
    seconds: float
    wrong: str | None  # what its profile does not explain


def rehearse(profile: str, seed: int, devices: int, folder: Path) -> Told:
    """Run one in an empty folder."""
    job = folder / "fleet.yaml"
    keys = ", ".join(f"mqtt_{number:05d}" for number in range(devices))
    job.write_text(
        f"name: fleet\norgId: {ORG}\nscope: all_cached\nlimits: {{rate: none}}\n"
        f"devices:\n  - {{productKey: bXuuAiku, deviceKeys: [{keys}]}}\n"
    )
    arguments = ["run", str(job), "--faults", profile, "--seed", str(seed), "-o", "json"]
    began = time.monotonic()
    done = subprocess.run(
        [*COMMAND, *arguments, "--log-file", str(folder / "log.ndjson")],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    seconds = time.monotonic() - began
    document = json.loads(done.stdout) if done.stdout else {}
    outcomes = {kind: count for kind, count in document.get("outcomes", {}).items() if count}
    stop = document.get("stop")
    rule = stop["rule"] if stop else None
    wrong = unexplained(profile, done.returncode, document) if document else done.stderr[-500:]
    return Told(profile, seed, done.returncode, rule, outcomes, seconds, wrong)


def unexplained(profile: str, code: int, document: dict[str, Any]) -> str | None:
    """What of a rehearsal's result its profile does not explain."""
    if document["rehearsal"]["differences"]:
        return f"differs from the truth: {document['rehearsal']['differences'][:3]}"
    stop, explained = document["stop"], _EXPLAINED.get(profile, set())
    if stop is not None and stop["rule"] not in explained:
        return f"stopped: {stop}"
    if stop is None and explained:
        return f"not stopped, {document['outcomes']}"
    if stop is None and (unverified := _unverified(document)):
        return unverified
    if code not in ({5} if stop else _FINE):
        return f"exit {code}: {document['exit_reasons']}"
    return None


def _unverified(document: dict[str, Any]) -> str | None:
    """What a verification of all that was touched leaves out."""
    touched = sum(document["outcomes"].get(kind.value, 0) for kind in TOUCHED)
    found = document["verified"]
    if found is None or found["targets"] != touched or found["unsearched"]:
        return f"verified {found}, but {touched} targets were touched"
    return None


# ---------------------------------------------------------------- many of them


def rehearse_all(
    profiles: Sequence[str],
    seeds: Sequence[int],
    devices: int,
    jobs: int = 2,
    seconds: float = math.inf,
) -> list[Told]:
    """Every profile with every seed, `jobs` at once; after `seconds` no new one begins."""
    until = time.monotonic() + seconds
    asked = [(profile, seed) for seed in seeds for profile in profiles]
    with ThreadPoolExecutor(jobs) as pool:
        told = pool.map(_one, asked, repeat(devices), repeat(until))
        return [each for each in told if each is not None]


def _one(asked: tuple[str, int], devices: int, until: float) -> Told | None:
    if time.monotonic() > until:
        return None
    with tempfile.TemporaryDirectory() as folder:
        told = rehearse(*asked, devices, Path(folder))
    if told.wrong:
        sys.stderr.write(f"--faults {told.profile} --seed {told.seed}: {told.wrong}\n")
    return told


def table(told: Sequence[Told]) -> str:
    """The figures, one line a profile."""
    by_profile: dict[str, list[Told]] = defaultdict(list)
    for each in told:
        by_profile[each.profile].append(each)
    lines = []
    for profile, runs in by_profile.items():
        codes = Counter(f"exit {run.code}" for run in runs)
        stops = Counter(run.rule for run in runs if run.rule)
        outcomes: Counter[str] = Counter()
        for run in runs:
            outcomes.update(run.outcomes)
        longest = max(run.seconds for run in runs)
        lines.append(
            f"{profile:10} {len(runs):4} runs, {sum(bool(run.wrong) for run in runs)} wrong; "
            f"{_counts(codes)}; stops: {_counts(stops) or 'none'}; longest {longest:.0f} s; "
            f"{_counts(outcomes)}"
        )
    wrong = sum(bool(each.wrong) for each in told)
    return "\n".join([*lines, f"{len(told)} rehearsals, {wrong} that the profile does not explain"])


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def main() -> int:
    """Print the table; 1 when a rehearsal did what its profile does not explain."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.rehearsals", description=__doc__)
    parser.add_argument("--rounds", type=int, default=29, help="seeds, each over every profile")
    parser.add_argument("--seed", type=int, default=1, help="the first of them")
    parser.add_argument("--devices", type=int, default=3000)
    parser.add_argument("--profiles", nargs="*", default=list(PROFILES), choices=list(PROFILES))
    parser.add_argument("--jobs", type=int, default=2, help="rehearsals at once")
    parser.add_argument("--minutes", type=float, default=math.inf, help="none begins after these")
    given = parser.parse_args()
    seeds = range(given.seed, given.seed + given.rounds)
    told = rehearse_all(given.profiles, seeds, given.devices, given.jobs, given.minutes * 60)
    sys.stdout.write(table(told) + "\n")
    return int(any(each.wrong for each in told) or not told)


if __name__ == "__main__":
    sys.exit(main())
