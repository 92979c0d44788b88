"""A simulated gateway in a thread and the real command beside it, as a process.

The world's truth can be asked while the command runs and afterwards; nothing of the command is
faked: its configuration, keys, ledger and log are files in a folder of the test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from anyio.from_thread import start_blocking_portal

from worker.clock import SystemClock
from worker.model import AllCached, Device, DeviceKey, Listed, Target
from worker.simulator.faults import PROFILES, Profile
from worker.simulator.serve import serve
from worker.simulator.world import World

ORG = "o15541858646501"
ACCESS, SECRET = "system-access-key", "canary-system-secret-key"
COMMAND = (sys.executable, "-m", "worker")


class Stage:
    """One gateway, one folder, any number of commands."""

    def __init__(self, folder: Path, world: World, url: str) -> None:
        self.folder = folder
        self.world = world
        self.url = url
        self.ledger = folder / "ledger.db"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "CANCEL_WORKER_GATEWAY_URL": url,
            "CANCEL_WORKER_GATEWAY_NAME": "stage",
            "CANCEL_WORKER_GATEWAY_ACCESS_KEY": ACCESS,
            "CANCEL_WORKER_GATEWAY_SECRET_KEY": SECRET,
            "CANCEL_WORKER_LEDGER_URL": f"sqlite:///{self.ledger}",
            "CANCEL_WORKER_LOOKUP_WAIT": "100ms",
            "CANCEL_WORKER_RETRY_WAIT_INITIAL": "20ms",
            "CANCEL_WORKER_RETRY_COOLDOWN": "100ms",
            "CANCEL_WORKER_LIMITS_RATE": "none",
            "CANCEL_WORKER_LOG_FILE": str(folder / "log.ndjson"),
        }

    def job(self, name: str, devices: Sequence[Device], **keys: str) -> Path:
        """Write a job of all that is cached for these devices and make them known."""
        for ordinal, device in enumerate(devices):
            self.world.seed_target(Target(ordinal, device, ORG, AllCached(), ""))
        return self.write_job(name, [_entry(device) for device in devices], **keys)

    def listed_job(
        self, name: str, commands: Sequence[tuple[Device, tuple[str, ...]]], **keys: str
    ) -> Path:
        """Write a job of listed commands and make them known."""
        for ordinal, (device, ids) in enumerate(commands):
            self.world.seed_target(Target(ordinal, device, ORG, Listed(ids), ""))
        entries = [{**_entry(device), "commandIds": list(ids)} for device, ids in commands]
        return self.write_job(name, entries, scope="listed", **keys)

    def write_job(
        self, name: str, entries: Sequence[Any], scope: str = "all_cached", **keys: str
    ) -> Path:
        lines = [f"name: {name}", f"orgId: {ORG}", f"scope: {scope}"]
        lines += [f"{key}: {value}" for key, value in keys.items()]
        lines += [
            "devices:",
            *(f"  - {json.dumps(entry, ensure_ascii=False)}" for entry in entries),
        ]
        path = self.folder / f"{name}.yaml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def command(
        self, *arguments: str | Path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run cancel-worker to its end."""
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env={**self.environment, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=100,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def start(
        self,
        *arguments: str | Path,
        stdout: int | IO[str] = subprocess.PIPE,
        stderr: int | IO[str] = subprocess.PIPE,
        **environment: str,
    ) -> subprocess.Popen[str]:
        """Start cancel-worker and come back at once."""
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env={**self.environment, **environment},
            cwd=self.folder,
            stdout=stdout,
            stderr=stderr,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def run(self, *arguments: str | Path, **environment: str) -> tuple[int, Any]:
        """Run with `-o json`; the exit code and the document."""
        done = self.command(*arguments, "-o", "json", **environment)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def log(self) -> list[dict[str, Any]]:
        """Every line of the log."""
        text = (self.folder / "log.ndjson").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["event"] == event]

    def cancelled(self) -> set[str]:
        """The ids that the gateway cancelled: the truth."""
        executed = self.world.truth().cancelled
        return {each.commandId for device in executed.values() for each in device}


def _entry(device: Device) -> dict[str, str]:
    if isinstance(device, DeviceKey):
        return {"productKey": device.productKey, "deviceKey": device.deviceKey}
    return {"assetId": device.assetId}


def devices(count: int) -> list[Device]:
    """So many devices of one product."""
    return [DeviceKey("bXuuAiku", f"mqtt_{number:05d}") for number in range(count)]


@contextmanager
def stage(
    folder: Path, profile: str | Profile = "calm", seed: int = 1, **world: Any
) -> Iterator[Stage]:
    """Serve a world for as long as the block lasts."""
    weather = PROFILES[profile] if isinstance(profile, str) else profile
    made = World(
        SystemClock(),
        seed,
        profile=weather,
        access_key=ACCESS,
        secret_key=SECRET,
        scale=0.05,
        **world,
    )
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serve(made)) as url:
        yield Stage(folder, made, url)


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something to happen in the gateway; fails after so many seconds."""
    happened = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if true():
            return
        happened.wait(0.01)
    raise AssertionError("it never happened")


__all__ = ["ACCESS", "ORG", "SECRET", "Stage", "devices", "stage", "wait_until"]
