"""What every peer does around its own way of sending: arguments, timing, the JSON line.

A peer gets the base URL, how many devices and connections, and a CA file for TLS. It sends one
POST a device, counts the replies that are whole, and prints CPU and wall time of that alone.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

PATH = "/connect-service/v2.1/commands"
FIRST = 1_000_000_000_000_000_000  # deviceKeys are numbers of 19 digits


@dataclass(frozen=True)
class Task:
    """What a peer is to do."""

    base: str
    devices: int
    connections: int
    ca_file: str | None

    def targets(self) -> list[str]:
        """The path and query of each call."""
        return [target(number) for number in range(self.devices)]

    def urls(self) -> list[str]:
        """The URL of each call."""
        return [self.base + target for target in self.targets()]


def target(number: int) -> str:
    """The call of one device, as this worker writes it."""
    query = urlencode(
        {
            "action": "cancel",
            "orgId": "o1",
            "productKey": "pk1",
            "deviceKey": str(FIRST + number),
        }
    )
    return f"{PATH}?{query}"


def whole(body: bytes) -> bool:
    """Whether this is a complete answer."""
    return body.startswith(b'{"code":0,') and body.endswith(b"]}")


def task() -> Task:
    """The task on the command line: BASE DEVICES CONNECTIONS [CA_FILE]."""
    base, devices, connections, *ca = sys.argv[1:]
    return Task(base, int(devices), int(connections), ca[0] if ca else None)


def measure(send: Callable[[], int]) -> None:
    """Time `send`, which says how many devices were answered, and print the result."""
    cpu, wall = _cpu(), time.perf_counter()
    answered = send()
    report(answered, _cpu() - cpu, time.perf_counter() - wall)


def report(answered: int, cpu_s: float, wall_s: float, **more: float) -> None:
    """The one line that the harness reads."""
    told = {"answered": answered, "cpu_s": cpu_s, "wall_s": wall_s, "rss": _peak(), **more}
    print(json.dumps(told))


def _peak() -> int:
    """The most memory that this process held, in bytes; ru_maxrss would begin with its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


cpu = _cpu
