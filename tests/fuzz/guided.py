"""The same targets under atheris, which keeps what reaches new code: the full run only.

    python -m tests.fuzz.guided "job (YAML)" -max_total_time=600 -rss_limit_mb=1024

Needs atheris, which is not among the dependencies; what follows the target's name goes to it.
"""

from __future__ import annotations

import importlib
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["worker"]):
    from tests.fuzz.targets import TARGETS
    from tests.job.desk import Desk

_SEEDS = 300  # drawn inputs to begin with


def main() -> None:
    """Fuzz until the time is up; atheris ends the process, with 77 after a finding."""
    name, *options = sys.argv[1:]
    read, draw = TARGETS[name]
    with tempfile.TemporaryDirectory() as folder:
        desk, seeds = Desk(Path(folder)), Path(folder) / "seeds"
        seeds.mkdir()
        for number in range(_SEEDS):
            (seeds / str(number)).write_bytes(draw(random.Random(f"guided {number}")))
        arguments = [sys.argv[0], *options, "-max_len=4096", "-timeout=5", str(seeds)]
        atheris.Setup(arguments, lambda content: read(desk, content))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
