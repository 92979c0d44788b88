"""`python -m bench.gate`: that a device stays cheap, held on every change; nginx is all it needs.

Ratios of CPU within rounds, so that a slow machine does not matter; where the first rounds miss,
as many again are measured and all of them count. What is held is half of goals 2 and 3.
"""

from __future__ import annotations

from bench import page
from bench.goals import Row, at_most
from bench.rounds import Figure, Peer, race, ratios
from bench.servers import Servers, cores, served

_LIMITS = {"semaphore": 1.0, "connector": 2.8}  # peer's module -> CPU to its own, at most
_ROUNDS = 5
_DEVICES = 20_000  # a peer and round


def main() -> int:
    """Measure and print; 1 when a limit is passed."""
    server_core, client_core = cores()
    found: dict[str, list[Figure]] = {name: [] for name in ("worker", *_LIMITS)}
    with served(server_core) as servers:
        for _ in range(2):
            for name, figures in _rounds(servers, client_core).items():
                found[name] += figures
            rows = [_row(found, name) for name in _LIMITS]
            if all(row.verdict == "met" for row in rows):
                break
    print(page.table(rows))
    return 0 if all(row.verdict == "met" for row in rows) else 1


def _rounds(servers: Servers, core: str | None) -> dict[str, list[Figure]]:
    peers = [Peer(name, name, servers.plain, _DEVICES) for name in ("worker", *_LIMITS)]
    return race(peers, _ROUNDS, core)


def _row(found: dict[str, list[Figure]], name: str) -> Row:
    measured = ratios(found["worker"], found[name], "cpu_us")
    return at_most(f"CPU to a bare {name} loop", measured, _LIMITS[name])


if __name__ == "__main__":
    raise SystemExit(main())
