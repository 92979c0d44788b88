"""Signals before the engine begins and after it has ended (row 102); test_ends has the others."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.system.stage import Stage, devices, stage, wait_until
from worker.simulator.faults import Faults, Profile

_SLOW = Profile("steady", cancel=Faults(slow=1.0, wait=(0.4, 0.8)))  # x 0.05 in these worlds
_HANGING = Profile("hanging", search=Faults(slow=1.0, wait=(400.0, 400.0)))
_BOTH = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)

# The command with reports that take their time: so many seconds a row; and another grace.
_UNHURRIED = """
import sys, time
from worker.cli import main, signals
from worker.ledger.store import Store
rows, pause, signals.GRACE = Store.rows, float(sys.argv.pop(1)), float(sys.argv.pop(1))
def unhurried(self, run_id):
    for row in rows(self, run_id):
        time.sleep(pause)
        yield row
Store.rows = unhurried
main()
"""


def _start(
    gateway: Stage, *words: str, pause: float, grace: float = 20.0, stdout: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _UNHURRIED, str(pause), str(grace), *words],
        env=gateway.environment,
        cwd=gateway.folder,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def _until_finished(gateway: Stage, runs: int = 1) -> None:
    """The last target settled, verification ended: reports are being written."""
    log = gateway.folder / "log.ndjson"
    wait_until(lambda: log.exists() and log.read_text().count('"run.finished"') == runs)


def _large(gateway: Stage, rows: int) -> Path:
    gateway.write_job("large", [])
    with (gateway.folder / "fleet.csv").open("w") as file:
        file.write("productKey,deviceKey\n")
        file.writelines(f"p,mqtt_{n:07d}\n" for n in range(rows))
    job = gateway.folder / "large.yaml"
    text = job.read_text().replace("devices:", "devices_from:\n  - file: fleet.csv")
    job.write_text(f"limits: {{max_devices: 9000000}}\n{text}")
    return job


# ---------------------------------------------------------------- planning


@_BOTH
@pytest.mark.parametrize("after", [0.3, 1.5, 3.0])
def test_while_a_large_job_is_planned(
    tmp_path: Path, number: signal.Signals, code: int, after: float
) -> None:
    """Reading or freezing: over soon, nothing sent, and no plan is left behind."""
    with stage(tmp_path) as gateway:
        job = _large(gateway, 400_000)
        process = gateway.start("run", job, "--yes")
        wait_until((tmp_path / "log.ndjson").exists)
        time.sleep(after)
        assert process.poll() is None
        process.send_signal(number)
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (code, "")
        assert err == f"stopped: {number.name}: nothing was sent\n"
        assert time.monotonic() - began < 6
        assert gateway.world.truth().requests == {}
        assert gateway.run("runs") == (0, [])


@_BOTH
def test_while_a_question_waits(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The answer is a signal: nothing is sent, and the plan is forgotten."""
    with stage(tmp_path) as gateway:
        gateway.job("asked", devices(3))
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "run", "asked.yaml"],
            env=gateway.environment,
            cwd=tmp_path,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(ours, 4096)
        process.send_signal(signal.SIGHUP)  # kills nothing
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(number)
        assert process.communicate(timeout=20)[0] == b""
        assert process.returncode == code
        assert (
            f"stopped before job asked: {number.name}: nothing was sent"
            in os.read(ours, 4096).decode()
        )
        os.close(ours)
        assert gateway.world.truth().requests == {}
        assert gateway.run("runs") == (0, [])


# ---------------------------------------------------------------- reports and summary


_FORMATS = ("csv", "ndjson", "json", "restore")


def _reports(folder: Path) -> list[str]:
    return [word for f in _FORMATS for word in ("--report", f"{f}={folder}/all.{f}")]


@_BOTH
def test_once_all_is_settled_the_verdict_stands(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """The reports are finished and the summary is printed: exit code 0 as without a signal."""
    with stage(tmp_path, busy=0.5) as gateway:
        gateway.job("done", devices(30), verify="none")
        words = ["run", "done.yaml", "--yes", "-o", "json", *_reports(tmp_path)]
        process = _start(gateway, *words, pause=0.02)
        _until_finished(gateway)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        document = json.loads(out)
        assert (process.returncode, document["exit_code"], document["stop"]) == (0, 0, None), err
        assert set(document["reports"]) == {f"{tmp_path}/all.{f}" for f in _FORMATS}
        assert len((tmp_path / "all.ndjson").read_text().splitlines()) == 30
        assert list(tmp_path.glob(".*")) == []
        assert [line["event"] for line in gateway.log()][-1] == "run.finished"


@_BOTH
def test_a_second_signal_leaves_at_once_and_names_what_is_missing(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """What is whole stays; the rest comes with the command that writes it; exit code 1."""
    with stage(tmp_path, busy=0.5) as gateway:
        gateway.job("left", devices(50), verify="none")
        process = _start(gateway, "run", "left.yaml", "--yes", *_reports(tmp_path), pause=0.05)
        wait_until((tmp_path / "all.csv").exists)
        process.send_signal(number)
        time.sleep(0.3)
        process.send_signal(number)
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 1.5
        assert (process.returncode, out) == (1, "")
        run_id = gateway.logged("run.finished")[0]["run_id"]
        report = f"cancel-worker report {run_id}"
        assert err.splitlines()[-4:] == [
            *(
                f"report {tmp_path}/all.{f} was not written: stopped by {number.name}: "
                f"{report} --format {f} > {tmp_path}/all.{f}"
                for f in ("ndjson", "json", "restore")
            ),
            f"the summary was not printed: {report}",
        ]
        assert len((tmp_path / "all.csv").read_text().splitlines()) == 51
        assert [path.name for path in tmp_path.glob("*all*")] == ["all.csv"]
        assert list(tmp_path.rglob("*.part")) == []
        _, document = gateway.run("report", "last")
        assert document["exit_code"] == 1
        assert document["outcomes"]["not_attempted"] == 0


def test_large_reports_have_twenty_seconds_more(tmp_path: Path) -> None:
    """Here one: then what is missing is named, and the summary is printed."""
    with stage(tmp_path, busy=0.5) as gateway:
        gateway.job("long", devices(50), verify="none")
        words = ["run", "long.yaml", "--yes", *_reports(tmp_path)]
        process = _start(gateway, *words, pause=0.1, grace=1.0)
        _until_finished(gateway)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        out, _ = process.communicate(timeout=60)
        assert 0.5 < time.monotonic() - began < 3.5
        assert process.returncode == 1
        assert out.startswith("INTERNAL ERROR: report not written: ")
        assert out.count("was not written: stopped by SIGTERM: cancel-worker report ") == 4
        assert "exit code 1: report not written" in out
        assert list(tmp_path.glob("all.*")) == []


def _full_pipe() -> tuple[int, int]:
    """A pipe that takes nothing more, and whose reader does not read."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETFL, os.O_NONBLOCK)
    try:
        while True:
            os.write(writing, b"x" * 65_536)
    except BlockingIOError:
        fcntl.fcntl(writing, fcntl.F_SETFL, 0)
    return reading, writing


@pytest.mark.parametrize("signals", [1, 2])
def test_a_summary_that_nobody_reads(tmp_path: Path, signals: int) -> None:
    """After the grace, or at once at a second signal, its command is named."""
    with stage(tmp_path, busy=0.5) as gateway:
        gateway.job("unread", devices(3))
        reading, writing = _full_pipe()
        grace = 1.0 if signals == 1 else 20.0
        process = _start(
            gateway, "run", "unread.yaml", "--yes", pause=0.0, grace=grace, stdout=writing
        )
        _until_finished(gateway)
        time.sleep(0.5)
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        _, err = process.communicate(timeout=10)
        os.close(reading)
        os.close(writing)
        run_id = gateway.logged("run.finished")[0]["run_id"]
        assert process.returncode == 1
        assert err.endswith(f"the summary was not printed: cancel-worker report {run_id}\n")


def test_a_signal_in_the_reports_ends_the_series(tmp_path: Path) -> None:
    """The first job is reported whole, the second is not begun, its plan is forgotten: 143."""
    with stage(tmp_path, busy=0.5) as gateway:
        for name in ("one", "two"):
            gateway.job(name, devices(30), verify="none")
        words = ["run", "one.yaml", "two.yaml", "--yes", "--report", "csv={job}.csv"]
        process = _start(gateway, *words, pause=0.03)
        _until_finished(gateway)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 143
        assert out.startswith("DONE\n")
        assert err.endswith("stopped before job two: SIGTERM: nothing was sent\n")
        assert len((tmp_path / "one.csv").read_text().splitlines()) == 31
        [run] = json.loads(gateway.command("runs", "-o", "json").stdout)
        assert (run["job"], run["exit_code"]) == ("one", 0)


def test_a_hurry_names_what_is_missing(tmp_path: Path) -> None:
    """Two SIGINTs while requests hang: no report, and the commands that write them."""
    hanging = Profile("hanging", cancel=Faults(slow=1.0, wait=(400.0, 400.0)))
    with stage(tmp_path, hanging, busy=0.5) as gateway:
        gateway.job("hurried", devices(40))
        process = gateway.start("run", "hurried.yaml", "--yes", "--report", "csv=all.csv")
        wait_until(lambda: gateway.world.book.requests["cancel"] >= 16)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        _, err = process.communicate(timeout=20)
        run_id = gateway.logged("run.finished")[0]["run_id"]
        report = f"cancel-worker report {run_id}"
        assert process.returncode == 130
        assert err.splitlines()[-2:] == [
            f"report all.csv was not written: stopped: {report} --format csv > all.csv",
            f"the summary was not printed: {report}",
        ]


# ---------------------------------------------------------------- SIGHUP, other commands, anywhere


def test_sighup_reopens_the_log_whatever_the_stage(tmp_path: Path) -> None:
    """While reports are written: the log moves on to a new file, and nothing is killed."""
    with stage(tmp_path, busy=0.5) as gateway:
        log = tmp_path / "log.ndjson"
        gateway.job("rotated", devices(40), verify="none")
        words = ["run", "rotated.yaml", "--yes", "--report", "csv=all.csv"]
        process = _start(gateway, *words, pause=0.05)
        _until_finished(gateway)
        log.rename(tmp_path / "log.1")
        process.send_signal(signal.SIGHUP)
        wait_until(log.exists, 1.5)
        assert process.poll() is None
        process.communicate(timeout=60)
        assert process.returncode == 0
        assert len((tmp_path / "all.csv").read_text().splitlines()) == 41


@_BOTH
@pytest.mark.parametrize("words", ["verify last", "plan searched.yaml --preview"])
def test_while_only_searching(
    tmp_path: Path, number: signal.Signals, code: int, words: str
) -> None:
    """verify and a preview stop politely, with the code of the signal."""
    with stage(tmp_path, _HANGING, busy=0.5) as gateway:
        gateway.job("searched", devices(5), verify="none")
        assert gateway.command("run", "searched.yaml", "--yes").returncode == 0
        process = gateway.start(*words.split(), CANCEL_WORKER_DRAIN="200ms")
        wait_until(lambda: gateway.world.book.requests["search"] > 0)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert process.returncode == code, err
        assert f"stopped: signal: {number.name} received" in err
        assert "Traceback" not in err + out


@_BOTH
def test_while_a_report_is_printed(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """A command that only looks ends at once, and never with a traceback."""
    with stage(tmp_path, busy=0.5) as gateway:
        gateway.job("printed", devices(2000), verify="none")
        assert gateway.command("run", "printed.yaml", "--yes").returncode == 0
        process = gateway.start("report", "last", "-f", "ndjson")
        assert process.stdout is not None
        assert process.stdout.read(1) == "{"
        time.sleep(0.5)  # the pipe is full by then
        assert process.poll() is None
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (code, f"stopped: {number.name}: nothing was sent\n")


@pytest.mark.parametrize("seed", range(int(os.environ.get("SIGNALS", "6"))))
def test_a_signal_at_any_instant(tmp_path: Path, seed: int) -> None:
    """From the first line of the log on: a code of ours, no traceback, no part, nothing lost."""
    chance = random.Random(seed)
    with stage(tmp_path, _SLOW, busy=0.5) as gateway:
        gateway.job("any", devices(120))
        process = gateway.start("run", "any.yaml", "--yes", *_reports(tmp_path))
        wait_until((tmp_path / "log.ndjson").exists)
        time.sleep(chance.uniform(0.0, 2.5))
        process.send_signal(chance.choice([signal.SIGTERM, signal.SIGINT]))
        out, err = process.communicate(timeout=60)
        assert process.returncode in {0, 130, 143}, err
        assert "Traceback" not in err
        assert list(tmp_path.rglob("*.part")) == []
        if out:
            written = [tmp_path / f"all.{f}" for f in _FORMATS]
            assert [path.exists() for path in written] == [True] * 4
            rows = [json.loads(line) for line in (tmp_path / "all.ndjson").read_text().splitlines()]
            recorded = {i for row in rows for i in row["commandIds"]}
            uncertain = {row["deviceKey"] for row in rows if row["outcome"] == "unknown"}
            for device, executed in gateway.world.truth().cancelled.items():
                missing = {each.commandId for each in executed} - recorded
                assert not missing or device.deviceKey in uncertain
        else:
            assert gateway.world.truth().requests == {}
