"""What the host does to a run: limits, full and slow places, missing rights, changing files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.system.stage import COMMAND, Stage, devices, stage, wait_until
from worker.simulator.faults import Faults, Profile

_SLOW = Profile("steady", cancel=Faults(slow=1.0, wait=(0.4, 0.8)))  # x 0.05 in these worlds
_NOBODY = 10001
_ROOT = os.geteuid() == 0


def _wrapped(
    gateway: Stage, prefix: list[str], *arguments: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command behind another one that limits it."""
    return subprocess.run(
        [*prefix, *COMMAND, *map(str, arguments)],
        env={**gateway.environment, **environment},
        cwd=gateway.folder,
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def _rows(gateway: Stage, run: str = "last", **environment: str) -> list[dict[str, Any]]:
    text = gateway.command("report", run, "--format", "ndjson", **environment).stdout
    return [json.loads(line) for line in text.splitlines()]


def _recorded(gateway: Stage, run: str = "last", **environment: str) -> set[str]:
    return {i for row in _rows(gateway, run, **environment) for i in row["commandIds"]}


# ---------------------------------------------------------------- places that are full or slow


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own; needs root and the right to mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if not _ROOT or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs root and the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_file_system_ends_the_run_with_6(tmp_path: Path) -> None:
    """Row 46: ENOSPC from the file system: 6, nothing lost; with room again, a resume ends it."""
    with (
        stage(tmp_path, _SLOW, busy=0.9) as gateway,
        _small_disk(tmp_path / "disk", "700k") as disk,
    ):
        ledger = {"CANCEL_WORKER_LEDGER_URL": f"sqlite:///{disk}/ledger.db"}
        job = gateway.job("full", devices(1000))
        done = gateway.command("run", job, "--yes", "--concurrency", "8", **ledger)
        assert done.returncode == 6, done.stderr[-2000:]
        sent = gateway.world.truth().requests["cancel"]
        assert 0 < sent < 1000
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        rows = _rows(gateway, **ledger)
        recorded = {i for row in rows for i in row["commandIds"]}
        named = {row["deviceKey"] for row in rows if row["outcome"] == "unknown"}
        for device, executed in gateway.world.truth().cancelled.items():
            assert {e.commandId for e in executed} <= recorded or device.deviceKey in named
        assert len(named) <= 2 * 8 + 50
        code, _ = gateway.run("resume", "last", "--yes", **ledger)
        assert code == 0
        assert _recorded(gateway, **ledger) == gateway.cancelled()


@pytest.mark.parametrize("reader", ["none", "slow"])
def test_a_log_that_nobody_reads_holds_nothing_up(tmp_path: Path, reader: str) -> None:
    """Row 49: stderr is a pipe that is full, or read a KiB at a time: the run ends complete."""
    with stage(tmp_path, busy=0.9) as gateway:
        job = gateway.job("blocked", devices(400))
        words = ("run", job, "--yes", "-o", "json")
        with gateway.start(*words, CANCEL_WORKER_LOG_FILE="") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            if reader == "slow":
                thread = threading.Thread(target=_sip, args=(process.stderr.fileno(),))
                thread.start()
            document = json.loads(process.stdout.read())
            assert process.wait(timeout=60) == document["exit_code"] == 0
            if reader == "slow":
                thread.join()
            else:
                assert document["log_dropped"] > 0
        assert document["commands"] == len(gateway.cancelled()) > 300
        assert _recorded(gateway) == gateway.cancelled()


def _sip(pipe: int) -> None:
    while os.read(pipe, 1024):
        time.sleep(0.005)


# ---------------------------------------------------------------- rights


# Root without the right to pass over permissions is held to them as everybody is.
_HELD = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if _ROOT else []


@pytest.mark.skipif(_ROOT and not shutil.which("setpriv"), reason="root needs setpriv")
@pytest.mark.parametrize("place", ["ledger", "report"])
def test_a_place_that_may_not_be_written_refuses_at_once(tmp_path: Path, place: str) -> None:
    """Row 51: a folder without the right to write: exit 2 before any request."""
    with stage(tmp_path, busy=0.5) as gateway:
        job = gateway.job("rights", devices(3))
        mine, closed = tmp_path / "mine", tmp_path / "closed"
        mine.mkdir()
        closed.mkdir(mode=0o555)
        ledger, report = (closed, mine) if place == "ledger" else (mine, closed)
        flags = ["--yes", "--report", f"csv={report}/all.csv"]
        urls = {"CANCEL_WORKER_LEDGER_URL": f"sqlite:///{ledger}/ledger.db"}
        environment = {**urls, "CANCEL_WORKER_LOG_FILE": ""}
        done = _wrapped(gateway, _HELD, "run", job, *flags, **environment)
        assert done.returncode == 2, done.stderr
        assert str(closed) in done.stderr
        assert gateway.world.truth().requests == {}


@pytest.mark.parametrize("flaw", ["others may read it", "another owner"])
def test_a_key_that_others_could_have_read_is_refused(tmp_path: Path, flaw: str) -> None:
    """Row 89: mode and owner of a secret's file are checked before anything is sent."""
    with stage(tmp_path) as gateway:
        job = gateway.job("secret", devices(2))
        key = tmp_path / "secret.key"
        key.write_text(gateway.environment.pop("CANCEL_WORKER_GATEWAY_SECRET_KEY"))
        key.chmod(0o644 if flaw == "others may read it" else 0o600)
        if flaw == "another owner":
            if not _ROOT:
                pytest.skip("needs root")
            os.chown(key, _NOBODY, _NOBODY)
        named = {"CANCEL_WORKER_GATEWAY_SECRET_KEY_FILE": str(key)}
        done = gateway.command("run", job, "--yes", **named)
        assert done.returncode == 2
        assert str(key) in done.stderr
        assert gateway.world.truth().requests == {}


def test_a_configuration_that_others_could_have_written(tmp_path: Path) -> None:
    """Row 104: config.yaml of a folder like /tmp: refused by name before anything is sent."""
    with stage(tmp_path, busy=0.5) as gateway:
        place = tmp_path / "open"
        place.mkdir()
        place.chmod(0o1777)
        gateway.folder = place
        (place / "config.yaml").write_text("limits: {concurrency: 2}\n")
        job = gateway.job("borrowed", devices(3))
        for words in (["run", job, "--yes"], ["plan", job, "--preview"], ["resume", "last"]):
            done = gateway.command(*words)
            assert (done.returncode, done.stdout) == (2, "")
            assert f"config.yaml is not used to send: folder {place} has mode 1777" in done.stderr
            assert "give --config config.yaml" in done.stderr
        assert gateway.world.truth().requests == {}
        assert gateway.command("check", job).returncode == 0
        rehearsed = gateway.command("run", job, "--rehearse", CANCEL_WORKER_LOOKUP_WAIT="2s")
        assert rehearsed.returncode == 0, rehearsed.stderr
        assert gateway.command("runs").returncode == 0
        assert gateway.command("run", job, "--yes", "--config", "config.yaml").returncode == 0
        assert gateway.command("verify", "last").returncode == 2


# ---------------------------------------------------------------- limits


def test_few_descriptors_shrink_a_run_and_do_not_end_it(tmp_path: Path) -> None:
    """Row 54: RLIMIT_NOFILE leaves room for some sockets of 64: all is done, nothing is lost."""
    with stage(tmp_path, _SLOW, busy=0.6) as gateway:
        job = gateway.job("files", devices(300), abort="off")
        few = ["bash", "-c", 'ulimit -n 28; exec "$@"', "limited"]
        done = _wrapped(gateway, few, "run", job, "--yes", "--concurrency", "64", "-o", "json")
        document = json.loads(done.stdout)
        assert (done.returncode, document["outcomes"]["failed"]) == (0, 0), document
        assert _recorded(gateway) == gateway.cancelled()
        assert gateway.world.truth().max_in_flight < 28


def _million(folder: Path) -> Path:
    with (folder / "fleet.csv").open("w") as file:
        file.write("productKey,deviceKey\n")
        for start in range(0, 1_000_000, 50_000):
            file.write("".join(f"p,mqtt_{n:07d}\n" for n in range(start, start + 50_000)))
    return _with_inventory(folder, "fleet.csv")


def _long_line(folder: Path) -> Path:
    with (folder / "fleet.csv").open("wb") as file:
        file.write(b"productKey,deviceKey\np,")
        for _ in range(256):
            file.write(b"x" * (1 << 20))
    return _with_inventory(folder, "fleet.csv")


def _long_scalar(folder: Path) -> Path:
    job = folder / "big.yaml"
    with job.open("wb") as file:
        file.write(b"name: big\norgId: o1\nscope: all_cached\ndevices:\n  - assetId: ")
        for _ in range(256):
            file.write(b"x" * (1 << 20))
    return job


def _with_inventory(folder: Path, name: str) -> Path:
    job = folder / "big.yaml"
    job.write_text(f"name: big\norgId: o1\nscope: all_cached\ndevices_from: [{{file: {name}}}]\n")
    return job


# A process starts with the peak of the one that forked it: a small one stands between.
_MEASURED = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_maxrss, used.ru_utime + used.ru_stime]))
"""


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (_million, 7, "max_devices"),
        (_long_line, 2, "fleet.csv:2:"),
        (_long_scalar, 2, "big.yaml:5:"),
    ],
    ids=["a million rows", "a line of 256 MiB", "a scalar of 256 MiB"],
)
def test_what_is_too_large_is_refused_in_flat_memory(
    tmp_path: Path, make: Callable[[Path], Path], code: int, words: str
) -> None:
    """Row 64: refused before any request, within 200 MiB and some seconds."""
    with stage(tmp_path) as gateway:
        job = make(tmp_path)
        environment = {**gateway.environment, "CANCEL_WORKER_LIMITS_MAX_DEVICES": "5000"}
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, *COMMAND, "run", str(job), "--yes"],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        exit_code, peak_kib, seconds = json.loads(done.stdout)
        assert exit_code == code, done.stderr[-500:]
        assert words in done.stderr
        assert peak_kib < 200 * 1024
        assert seconds < 30
        assert gateway.world.truth().requests == {}


# ---------------------------------------------------------------- files that are not what they seem


@pytest.mark.parametrize("kind", ["fifo", "device", "outside", "link out", "folder"])
def test_an_inventory_that_is_no_plain_file_inside_is_refused(tmp_path: Path, kind: str) -> None:
    """Row 69: exit 2 at once; a FIFO without a writer or a device holds nothing up."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (tmp_path / "fleet.csv").write_text("assetId\na\n")
    name = {"device": "zero.csv", "outside": "../fleet.csv"}.get(kind, "fleet.csv")
    match kind:
        case "fifo":
            os.mkfifo(jobs / name)
        case "device":
            (jobs / name).symlink_to("/dev/zero")
        case "link out":
            (jobs / name).symlink_to(tmp_path / "fleet.csv")
        case "folder":
            (jobs / name).mkdir()
    with stage(tmp_path) as gateway:
        done = gateway.command("run", _with_inventory(jobs, name), "--yes")
        assert done.returncode == 2
        assert f"big.yaml:4:23: devices_from.file: {name}" in done.stderr.replace(f"{jobs}/", "")
        assert gateway.world.truth().requests == {}


def test_a_job_that_changes_after_its_plan_changes_nothing(tmp_path: Path) -> None:
    """Row 70: read once; what runs is what was planned, whatever the file says by then."""
    with stage(tmp_path, _SLOW, busy=0.9) as gateway:
        job = gateway.job("frozen", devices(40))
        _, plan = gateway.run("plan", job)
        other = gateway.job("frozen", devices(60)[40:])
        assert other == job
        process = gateway.start("run", "--plan", plan["run_id"], "--yes", "-o", "json")
        wait_until(lambda: gateway.world.book.requests["cancel"] > 5)
        job.write_text("no job any more")
        document = json.loads(process.communicate(timeout=60)[0])
        assert (process.returncode, document["digest"]) == (0, plan["digest"])
        assert [row["deviceKey"] for row in _rows(gateway)] == [
            d.deviceKey  # type: ignore[union-attr]
            for d in devices(40)
        ]


# ---------------------------------------------------------------- two at once


def test_two_jobs_over_the_same_devices_are_both_truthful(tmp_path: Path) -> None:
    """Row 84: at once on one ledger: together all ids, each once, and each report names the other.

    The one that finds a device in doubt by the other looks it up before it calls it.
    """
    with stage(tmp_path, _SLOW, busy=0.9) as gateway:
        jobs = [gateway.job(name, devices(150)[start : start + 100]) for name, start in _TWO]
        running = [gateway.start("run", job, "--yes", "-o", "json") for job in jobs]
        ends = [process.communicate(timeout=90) for process in running]
        documents = [json.loads(out) for out, _ in ends]
        assert [process.returncode for process in running] == [0, 0], ends
        found = [_recorded(gateway, document["run_id"]) for document in documents]
        assert found[0] | found[1] == gateway.cancelled()
        notes = [err for _, err in ends]
        last = max(range(2), key=lambda at: documents[at]["finished_at"])
        said = f"also touched by run {documents[1 - last]['run_id']} ({_TWO[1 - last][0]})"
        assert said in notes[last]


_TWO = (("early", 0), ("late", 50))


# ---------------------------------------------------------------- time to end


def test_sigterm_ends_within_the_drain(tmp_path: Path) -> None:
    """Row 42: requests that hang: report complete and gone within drain + 1 s, every time.

    STOPS says how often; the full run does it twenty times.
    """
    hanging = Profile("hanging", cancel=Faults(slow=1.0, wait=(400.0, 400.0)))
    took = []
    with stage(tmp_path, hanging, busy=0.5) as gateway:
        for number in range(int(os.environ.get("STOPS", "3"))):
            job = gateway.job(f"hang-{number}", devices(50))
            full = gateway.world.book.requests["cancel"] + 16
            process = gateway.start(
                "run", job, "--yes", "--report", "ndjson=r", CANCEL_WORKER_DRAIN="1s"
            )
            wait_until(partial(_reached, gateway, full))
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            process.communicate(timeout=30)
            took.append(round(time.monotonic() - began, 2))
            rows = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
            assert (process.returncode, len(rows)) == (143, 50)
            assert [row["outcome"] for row in rows].count("unknown") == 16
    sys.stdout.write(f"seconds from SIGTERM to exit, drain 1 s: {sorted(took)}\n")
    assert max(took) <= 2.0, took


def _reached(gateway: Stage, count: int) -> bool:
    return gateway.world.book.requests["cancel"] >= count
