"""`python -m bench`: every goal, measured beside its peers; `--quick` for a look."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench import page
from bench.goals import Line
from bench.logline import log_lines
from bench.rounds import Figure
from bench.scenes import (
    US,
    check_ceiling,
    crowds,
    growth,
    latency,
    plain,
    planning,
    race_lines,
    resuming,
    tls,
    two_processes,
)
from bench.servers import cores, served

_RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Measure, print the table, write the page; 1 when the figures cannot be believed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", type=int, default=40_000, help="a peer and round")
    parser.add_argument("--quick", action="store_true", help="small lists, nothing written")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    asked = parser.parse_args()
    rounds = 3 if asked.quick else asked.rounds
    devices = 4_000 if asked.quick else asked.devices
    million = 50_000 if asked.quick else 1_000_000
    lines, races, doubt = _measure(rounds, devices, million)
    print(page.table(lines))
    if doubt is not None:
        print(f"refused: {doubt}")
        return 1
    if not asked.quick:
        print(f"written: {page.write(asked.results, lines, races)}")
    return 0


def _measure(
    rounds: int, devices: int, million: int
) -> tuple[list[Line], dict[str, dict[str, list[Figure]]], str | None]:
    server_core, client_core = cores()
    with served(server_core, delays=(0, 20, 100)) as servers:
        over_plain = plain(servers, rounds, devices, client_core)
        over_tls = tls(servers, rounds, devices, client_core)
        lines: list[Line] = race_lines(over_plain, over_tls)
        lines += growth(servers, client_core, [10_000, min(100_000, million // 2), million])
        lines += crowds(servers, client_core, devices)
        lines += latency(servers, client_core, min(devices, 5_000))
        doubt = check_ceiling(servers, over_plain[US] + over_plain["connector loop"])
    lines += planning(million)
    lines.append(resuming(million))
    lines.append(log_lines(rounds, 50_000))
    lines.append(two_processes())
    return lines, {"plain http": over_plain, "TLS": over_tls}, doubt


if __name__ == "__main__":
    raise SystemExit(main())
