"""Interleaved rounds: every peer once a round, in turn, each in a process pinned to one core.

What is compared are ratios within a round; the machine's speed drifts between rounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from statistics import median

from msgspec import Struct

_TIMEOUT = 600  # seconds a peer may take


class Peer(Struct, frozen=True):
    """Who sends, and how much."""

    name: str
    module: str  # under bench.peers
    base: str
    devices: int
    connections: int = 64
    ca_file: str | None = None


class Figure(Struct, frozen=True):
    """What one run of a peer came to."""

    cpu_us: float  # a device
    rate: float  # devices per second
    rss: int  # bytes, peak


class Spread(Struct, frozen=True):
    """A figure over the rounds."""

    low: float
    middle: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Minimum, median, maximum."""
    return Spread(min(values), median(values), max(values))


def race(peers: Sequence[Peer], rounds: int, core: str | None) -> dict[str, list[Figure]]:
    """All peers, `rounds` times; figures by peer, one a round."""
    found: dict[str, list[Figure]] = {peer.name: [] for peer in peers}
    for number in range(rounds):
        for peer in peers if number % 2 == 0 else reversed(peers):
            found[peer.name].append(run(peer, core))
    return found


def run(peer: Peer, core: str | None) -> Figure:
    """Run a peer once; AssertionError when not every device was answered."""
    arguments = [peer.base, str(peer.devices), str(peer.connections)]
    command = [sys.executable, "-m", f"bench.peers.{peer.module}", *arguments]
    if peer.ca_file is not None:
        command.append(peer.ca_file)
    if core is not None:
        command = ["taskset", "-c", core, *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    if done.returncode:
        raise SystemExit(f"bench: {peer.name} failed:\n{done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    if told["answered"] != peer.devices:
        raise SystemExit(f"bench: {peer.name}: {told['answered']} of {peer.devices} answered")
    return Figure(told["cpu_s"] / peer.devices * 1e6, peer.devices / told["wall_s"], told["rss"])


def ratios(ours: Sequence[Figure], theirs: Sequence[Figure], of: str) -> Spread:
    """Ours to theirs, round by round; `of` is cpu_us or rate."""
    pairs = zip(ours, theirs, strict=True)
    return spread([getattr(mine, of) / getattr(other, of) for mine, other in pairs])
