"""Fuzz everything that reads what others wrote, and print a table.

    python -m tests.fuzz --cases 10000 [--seed 1] [--jobs 2] [--minutes 60]

Cases are drawn from their numbers: `--seed N --cases 1 --only "job (YAML)"` repeats one. A
finding prints the input; the exit code is 1. After the small cases come inputs of 1 MiB, each in
a process of its own, for which time and memory are measured.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.fuzz.cases import SLICE, Count, fuzz_slice
from tests.fuzz.large import MOST_MIB, MOST_SECONDS, Measured, measure
from tests.fuzz.targets import TARGETS


def _table(counts: dict[str, Count], large: list[Measured], seconds: float) -> str:
    head = (
        f"{'fuzzed':<28}{'cases':>10}{'accepted':>10}{'refused':>10}{'wrong':>7}{'slowest s':>11}"
    )
    lines = [head]
    total: Counter[str] = Counter()
    for name, count in counts.items():
        cases = count.accepted + count.refused + len(count.wrong)
        total["cases"] += cases
        lines.append(
            f"{name:<28}{cases:>10}{count.accepted:>10}{count.refused:>10}"
            f"{len(count.wrong):>7}{count.slowest:>11.3f}"
        )
    slow, fat = max(m.seconds for m in large), max(m.mib for m in large)
    costs = f"at most {slow:.2f} s (bound {MOST_SECONDS:g}) and {fat:.0f} MiB (bound {MOST_MIB})"
    lines += [
        f"{'together':<28}{total['cases']:>10}",
        f"inputs of 1 MiB {len(large)}: {costs}",
        f"seconds {seconds:.0f}",
    ]
    return "\n".join(lines)


def main() -> int:
    """0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=math.inf, help="then no more small cases")
    parser.add_argument("--only", choices=list(TARGETS))
    given = parser.parse_args()
    began, until = time.monotonic(), time.time() + given.minutes * 60
    end = given.seed + given.cases
    work = [(at, min(SLICE, end - at), given.only, until) for at in range(given.seed, end, SLICE)]
    together = {name: Count() for name in TARGETS}
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        for part in pool.map(fuzz_slice, work):
            for name, count in part.items():
                mine = together[name]
                mine.accepted += count.accepted
                mine.refused += count.refused
                mine.wrong += count.wrong
                mine.slowest = max(mine.slowest, count.slowest)
    large = measure(max(1, given.cases // 10_000))
    wrong = [text for count in together.values() for text in count.wrong]
    wrong += [f"1 MiB: {one}" for one in large if one.too_much()]
    for text in wrong[:20]:
        sys.stderr.write(f"{text}\n")
    sys.stdout.write(_table(together, large, time.monotonic() - began) + "\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
