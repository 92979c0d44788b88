"""What is measured: races against peers, growth, latency, planning, resuming, a log line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.goals import Line, Row, Unmeasured, at_least, at_most
from bench.halfway import half_done
from bench.rounds import Figure, Peer, race, ratios, run, spread
from bench.servers import Servers, await_port, free_port

US = "cancel-worker"
_HALF = 0.5  # of the server's ceiling: a faster client would measure the server


def plain(servers: Servers, rounds: int, devices: int, core: str | None) -> dict[str, list[Figure]]:
    """Everybody over plain http."""
    slow = max(200, devices // 20)
    return race(
        [
            Peer(US, "worker", servers.plain, devices),
            Peer("connector loop", "connector", servers.plain, devices),
            Peer("semaphore + session.post", "semaphore", servers.plain, devices),
            Peer("the same again (noise)", "semaphore", servers.plain, devices),
            Peer("pycurl multi", "curl", servers.plain, devices),
            Peer("requests, 32 threads", "threads", servers.plain, devices // 4),
            Peer("httpx", "httpx_client", servers.plain, slow),
            Peer("vendor SDK, 32 threads", "sdk", servers.plain, devices // 4),
        ],
        rounds,
        core,
    )


def tls(servers: Servers, rounds: int, devices: int, core: str | None) -> dict[str, list[Figure]]:
    """The peers that goals name over TLS."""
    ca = servers.ca_file
    return race(
        [
            Peer(US, "worker", servers.tls, devices, ca_file=ca),
            Peer("pycurl multi", "curl", servers.tls, devices, ca_file=ca),
            Peer("semaphore + session.post", "semaphore", servers.tls, devices, ca_file=ca),
            Peer("vendor SDK, 32 threads", "sdk", servers.tls, max(200, devices // 10)),
        ],
        rounds,
        core,
    )


def race_lines(
    over_plain: dict[str, list[Figure]], over_tls: dict[str, list[Figure]]
) -> list[Line]:
    """Goals 1 to 5."""
    ours, ours_tls = over_plain[US], over_tls[US]
    bare, again = over_plain["semaphore + session.post"], over_plain["the same again (noise)"]
    sdk, sdk_tls = over_plain["vendor SDK, 32 threads"], over_tls["vendor SDK, 32 threads"]
    return [
        Row("noise: one peer against itself, CPU", ratios(again, bare, "cpu_us"), "x"),
        at_least("1 rate to the vendor's SDK, TLS", ratios(ours_tls, sdk_tls, "rate"), 30),
        at_least("1 rate to the vendor's SDK, plain", ratios(ours, sdk, "rate"), 12),
        at_most("2 CPU to semaphore + session.post", ratios(ours, bare, "cpu_us"), 0.5),
        at_most(
            "3 CPU to a connector loop",
            ratios(ours, over_plain["connector loop"], "cpu_us"),
            1.4,
        ),
        at_most(
            "4 CPU to pycurl multi, TLS",
            ratios(ours_tls, over_tls["pycurl multi"], "cpu_us"),
            2.5,
        ),
        at_least(
            "5 rate to requests in threads",
            ratios(ours, over_plain["requests, 32 threads"], "rate"),
            15,
        ),
        at_least("5 rate to httpx", ratios(ours, over_plain["httpx"], "rate"), 80),
    ]


def check_ceiling(servers: Servers, figures: Sequence[Figure]) -> str | None:
    """Why the races cannot be believed; None: they can."""
    if servers.ceiling is None:
        return "wrk is not installed, so the server's ceiling is unknown"
    fastest = max(figure.rate for figure in figures)
    if fastest > _HALF * servers.ceiling:
        return (
            f"the server was the bottleneck: {fastest:,.0f} of at most "
            f"{servers.ceiling:,.0f} requests a second"
        )
    return None


def growth(servers: Servers, core: str | None, sizes: Sequence[int]) -> list[Line]:
    """Goal 6: memory and rate from a small list to a million."""
    figures = {size: run(Peer(US, "worker", servers.plain, size), core) for size in sizes}
    lines: list[Line] = [_seen(f"{size:,} devices", figure) for size, figure in figures.items()]
    small, large = figures[sizes[0]], figures[sizes[-1]]
    lines.append(at_most("6 memory at the most", spread([large.rss / 1e6]), 80, "MB"))
    grown = (large.rss - small.rss) / 1e6
    lines.append(at_most(f"6 growth from {sizes[0]:,}", spread([grown]), 8, "MB"))
    rate = large.rate / figures[sizes[-2]].rate
    lines.append(at_least(f"6 rate at {sizes[-1]:,} to {sizes[-2]:,}", spread([rate]), 0.9))
    return lines


def latency(servers: Servers, core: str | None, devices: int) -> list[Line]:
    """How a slow gateway changes the picture; no goal."""
    ca = servers.ca_file
    peers = {
        f"{delay} ms a reply over {way}, 64 at once": Peer(US, "worker", url, devices, ca_file=ca)
        for (delay, way), url in servers.late.items()
    }
    return [_seen(name, run(peer, core)) for name, peer in peers.items()]


def crowds(servers: Servers, core: str | None, devices: int) -> list[Line]:
    """How many at once change the picture; no goal."""
    return [
        _seen(f"{many} at once", run(Peer(US, "worker", servers.plain, devices, many), core))
        for many in (8, 64, 256, 1_000)
    ]


def _seen(name: str, figure: Figure) -> Row:
    note = f"{figure.rss / 1e6:.0f} MB, {figure.cpu_us:.0f} us a device"
    return Row(f"{name}: rate", spread([figure.rate]), "/s", note=note)


def planning(devices: int) -> list[Line]:
    """Goal 7: a large YAML job into the ledger, and a refusal for one bad line."""
    with TemporaryDirectory() as folder:
        job = Path(folder, "job.yaml")
        _write_job(job, devices)
        seconds, peak, code = _timed(folder, "plan", str(job))
        _expect(code, 0)
        bad = Path(folder, "bad.yaml")
        _write_job(bad, devices // 10, bad=devices // 20)
        refused, _, code = _timed(folder, "check", str(bad))
        _expect(code, 2)
    return [
        at_most(f"7 {devices:,} devices of YAML planned", spread([seconds]), 20, "s"),
        at_most("7 memory of that", spread([peak]), 120, "MB"),
        at_most(f"7 {devices // 10:,} refused for one line", spread([refused]), 2, "s"),
    ]


def resuming(devices: int) -> Line:
    """Goal 8: from the start of `resume` to its first request, half of the list done."""
    with TemporaryDirectory() as folder:
        half_done(f"sqlite:///{folder}/ledger.db", devices)
        port = free_port()
        late = [sys.executable, "-m", "bench.late", str(port), "0", "--first"]
        server = subprocess.Popen(late, stdout=subprocess.PIPE, text=True)
        await_port(port)
        environment = {
            **os.environ,
            "STATE_DIRECTORY": folder,
            "CANCEL_WORKER_GATEWAY_URL": f"http://127.0.0.1:{port}",
            "CANCEL_WORKER_GATEWAY_ACCESS_KEY": "bench-access",
            "CANCEL_WORKER_GATEWAY_SECRET_KEY": "bench-secret",
        }
        command = [sys.executable, "-m", "worker", "resume", "last", "--yes"]
        silent = subprocess.DEVNULL
        began = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=silent, stderr=silent)
        try:
            assert server.stdout is not None
            first = float(server.stdout.readline())
        finally:
            process.kill()
            process.wait()
            server.terminate()
            server.communicate()
    return at_most(f"8 first request of a resume, {devices:,}", spread([first - began]), 1.5, "s")


def two_processes() -> Line:
    """Goal 10 belongs to runs that share a ledger."""
    name = "10 two processes on one ledger"
    if len(os.sched_getaffinity(0)) < 3:
        return Unmeasured(name, "not measurable: fewer than 3 cores")
    return Unmeasured(name, "runs that share their work are not built yet")


def _expect(code: int, wanted: int) -> None:
    if code != wanted:
        raise SystemExit(f"bench: exit code {code} instead of {wanted}")


def _write_job(path: Path, devices: int, bad: int | None = None) -> None:
    with path.open("w") as file:
        file.write("name: large\norgId: o1\nscope: all_cached\n")
        file.write(f"limits: {{max_devices: {devices}}}\ndevices:\n")
        file.write("  - productKey: pk1\n    deviceKeys:\n")
        for number in range(devices):
            key = "012345" if number == bad else f"dev_{number:07d}"
            file.write(f"      - {key}\n")


def _timed(folder: str, *arguments: str) -> tuple[float, float, int]:
    """Wall seconds, peak MB and exit code of one command."""
    command = [sys.executable, "-m", "worker", *arguments]
    environment = {**os.environ, "STATE_DIRECTORY": folder}
    silent = subprocess.DEVNULL
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=silent, stderr=silent, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    return seconds, used.ru_maxrss / 1e3, os.waitstatus_to_exitcode(status)
