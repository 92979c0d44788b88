"""Drawing small cases by their numbers and reading them, counted."""

from __future__ import annotations

import random
import tempfile
import time
import traceback
from pathlib import Path

from msgspec import Struct

from tests.fuzz.targets import TARGETS
from tests.job.desk import Desk

SLICE = 2_000  # cases a process takes at once
_SHARES = {"job (YAML)": 4, "inventory (CSV)": 2, "inventory (NDJSON)": 1}
_MEMORY = Path("/dev/shm")  # only a faster place for temporary files


class Count(Struct):
    """What came of some cases of one target."""

    accepted: int = 0
    refused: int = 0
    wrong: list[str] = []
    slowest: float = 0.0  # s


def fuzz(seed: int, cases: int, only: str | None = None) -> dict[str, Count]:
    """Draw and read so many cases from this number on."""
    counts = {name: Count() for name in TARGETS}
    names = [only] if only else [n for n in TARGETS for _ in range(_SHARES.get(n, 1))]
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        desk = Desk(Path(folder))
        for number in range(seed, seed + cases):
            name = names[number % len(names)]
            read, draw = TARGETS[name]
            content = draw(random.Random(f"fuzz {number}"))
            count, began = counts[name], time.process_time()
            try:
                verdict = read(desk, content)
            except Exception:  # noqa: BLE001 - whatever it is, it is a finding
                told = traceback.format_exc(limit=-3)
                count.wrong.append(f"--seed {number} --only {name!r}: {content!r}\n{told}")
            else:
                count.accepted += verdict == "accepted"
                count.refused += verdict == "refused"
            count.slowest = max(count.slowest, time.process_time() - began)
    return counts


def fuzz_slice(work: tuple[int, int, str | None, float]) -> dict[str, Count]:
    """A part of it in a process of its own; nothing after the moment `until` (Unix s)."""
    seed, cases, only, until = work
    return fuzz(seed, cases, only) if time.time() < until else {}
