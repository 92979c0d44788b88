"""How a run ends when somebody or something ends it: signals, kills, locks, pipes, full disks."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.system.stage import COMMAND, Stage, devices, stage, wait_until
from worker.simulator.faults import Faults, Profile

_HANGING = Profile("hanging", cancel=Faults(slow=1.0, wait=(400.0, 400.0)))
_SLOW = Profile("steady", cancel=Faults(slow=1.0, wait=(0.4, 0.8)))  # x 0.05 in these worlds


def _rows(gateway: Stage, run: str = "last") -> list[dict[str, object]]:
    text = gateway.command("report", run, "--format", "ndjson").stdout
    return [json.loads(line) for line in text.splitlines()]


def _check_nothing_lost(gateway: Stage, run: str = "last") -> None:
    """Invariants 2, 3, 5 over the ledger, whatever ended the run."""
    rows = _rows(gateway, run)
    recorded = {i for row in rows for i in row["commandIds"]}  # type: ignore[attr-defined]
    uncertain = {
        row["deviceKey"] for row in rows if row["outcome"] in ("unknown", "cancelled_incomplete")
    }
    for device, executed in gateway.world.truth().cancelled.items():
        missing = {each.commandId for each in executed} - recorded
        assert not missing or device.deviceKey in uncertain
    assert recorded <= gateway.cancelled()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_stops_politely(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Rows 42, 43: in flight is drained, the report is complete, the exit code is the signal's."""
    with stage(tmp_path, _SLOW, busy=0.5) as gateway:
        job = gateway.job("stopped", devices(2000))
        process = gateway.start("run", job, "--yes", "-o", "json", "--concurrency", "8")
        wait_until(lambda: gateway.world.truth().requests.get("cancel", 0) > 40)
        process.send_signal(number)
        began = time.monotonic()
        out, err = process.communicate(timeout=30)
        took = time.monotonic() - began
        assert process.returncode == code, err
        document = json.loads(out)
        assert document["exit_code"] == code
        assert document["stop"]["rule"] == "signal"
        assert sum(document["outcomes"].values()) == 2000
        assert document["outcomes"]["not_attempted"] > 0
        assert took < 9
        assert {row["cause"] for row in _rows(gateway) if row["outcome"] == "not_attempted"} == {
            "signal"
        }
        _check_nothing_lost(gateway)
        resumed, document = gateway.run("resume", "last", "--yes")
        assert (resumed, document["outcomes"]["not_attempted"]) == (0, 0)
        assert {i for row in _rows(gateway) for i in row["commandIds"]} == gateway.cancelled()  # type: ignore[attr-defined]


def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    """Row 43: what is in flight becomes unknown, is recorded, and the process is gone in 1 s."""
    with stage(tmp_path, _HANGING, busy=0.5) as gateway:
        job = gateway.job("hanging", devices(100))
        process = gateway.start("run", job, "--yes", "--concurrency", "4")
        wait_until(lambda: gateway.world.truth().requests.get("cancel", 0) >= 4)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        process.communicate(timeout=20)
        assert time.monotonic() - began < 1.5
        assert process.returncode == 130
        outcomes = [row["outcome"] for row in _rows(gateway)]
        assert outcomes.count("unknown") == 4
        assert outcomes.count("not_attempted") == 96
        _check_nothing_lost(gateway)


@pytest.mark.parametrize("seed", range(5))
def test_a_kill_at_any_instant_loses_nothing(tmp_path: Path, seed: int) -> None:
    """Rows 44, 85: after SIGKILL every device is recorded or named; a resume settles the rest."""
    chance = random.Random(seed)
    concurrency = 8
    with stage(tmp_path, _SLOW, seed=seed, busy=0.5) as gateway:
        job = gateway.job("killed", devices(400))
        process = gateway.start("run", job, "--yes", "--concurrency", str(concurrency))
        after = chance.randrange(1, 350)
        wait_until(lambda: gateway.world.truth().requests.get("cancel", 0) >= after)
        process.kill()
        process.communicate()
        _check_nothing_lost(gateway)
        uncertain = [row for row in _rows(gateway) if row["outcome"] == "unknown"]
        assert len(uncertain) <= 2 * concurrency + 50
        calls = gateway.world.truth().requests.get("cancel", 0)
        code, document = gateway.run("resume", "last", "--yes")
        assert code == 0
        assert {i for row in _rows(gateway) for i in row["commandIds"]} == gateway.cancelled()  # type: ignore[attr-defined]
        again = gateway.world.truth().requests.get("cancel", 0) - calls
        assert again <= 400 - (calls - len(uncertain))
        assert document["outcomes"]["unknown"] == 0


def test_one_run_of_a_job_at_a_time(tmp_path: Path) -> None:
    """Row 82: the second run of a job exits 9 before it sends anything."""
    with stage(tmp_path, _HANGING, busy=0.5) as gateway:
        job = gateway.job("twice", devices(40))
        first = gateway.start("run", job, "--yes")
        wait_until(lambda: gateway.world.truth().requests.get("cancel", 0) > 10)
        second = gateway.command("run", job, "--yes")
        first.kill()
        first.communicate(timeout=30)
        assert second.returncode == 9
        assert "another run of job twice is at work" in second.stderr


def test_two_names_of_one_ledger_are_one_lock(tmp_path: Path) -> None:
    """Row 98: by a link the second run exits 9; by a hard link it is refused. Nothing is sent."""
    with stage(tmp_path, _HANGING, busy=0.5) as gateway:
        job = gateway.job("twice", devices(40))
        linked, second = tmp_path / "linked.db", tmp_path / "second.db"
        linked.symlink_to("ledger.db")
        first = gateway.start("run", job, "--yes", "--concurrency", "8")
        wait_until(lambda: gateway.world.truth().requests.get("cancel", 0) >= 8)
        ended = [gateway.command("run", job, "--yes", "--ledger", f"sqlite:///{linked}")]
        second.hardlink_to(gateway.ledger)
        ended.append(gateway.command("run", job, "--yes", "--ledger", f"sqlite:///{second}"))
        first.kill()
        first.communicate(timeout=30)
        assert [done.returncode for done in ended] == [9, 2]
        assert "another run of job twice is at work" in ended[0].stderr
        assert f"ledger {second}: the file has a second name (a hard link)" in ended[1].stderr
        assert gateway.world.truth().requests["cancel"] == 8
        assert not [file for file in tmp_path.iterdir() if "linked.db." in file.name]


def test_a_run_that_is_on_is_not_resumed(tmp_path: Path) -> None:
    """Row 82: a resume of a run that is at work exits 9 before it sends anything."""
    with stage(tmp_path, _HANGING, busy=0.5) as gateway:
        first = gateway.start("run", gateway.job("twice", devices(40)), "--yes")
        wait_until(lambda: gateway.world.truth().requests.get("cancel", 0) > 10)
        second = gateway.command("resume", "last", "--yes")
        first.kill()
        first.communicate(timeout=30)
        assert second.returncode == 9
        assert "another run of job twice is at work" in second.stderr


def test_a_reader_that_leaves_changes_nothing(tmp_path: Path) -> None:
    """Row 50: stdout closed by the reader; the run goes on and exits as it would."""
    with stage(tmp_path, busy=0.5) as gateway:
        job = gateway.job("piped", devices(50))
        process = gateway.start("run", job, "--yes")
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert {i for row in _rows(gateway) for i in row["commandIds"]} == gateway.cancelled()  # type: ignore[attr-defined]


def test_a_full_log_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    """Row 49: a log on a full device: the run is complete and says how many lines it lost."""
    with stage(tmp_path, busy=0.5) as gateway:
        job = gateway.job("full-log", devices(50))
        code, document = gateway.run("run", job, "--yes", CANCEL_WORKER_LOG_FILE="/dev/full")
        assert code == 0
        assert document["log_dropped"] > 0
        assert document["commands"] == len(gateway.cancelled())


def test_an_unwritable_ledger_refuses_before_anything_is_sent(tmp_path: Path) -> None:
    """Row 51: exit 2, no request, not even for a token."""
    with stage(tmp_path) as gateway:
        job = gateway.job("no-ledger", devices(3))
        blocked = tmp_path / "file"
        blocked.write_text("not a folder")
        done = gateway.command("run", job, "--yes", "--ledger", f"sqlite:///{blocked}/ledger.db")
        assert done.returncode == 2
        assert gateway.world.truth().requests == {}


def test_a_disk_that_fills_up_ends_the_run_with_6(tmp_path: Path) -> None:
    """Row 46: nothing new goes out, what was in flight is on stderr and in doubt in the ledger."""
    with stage(tmp_path, _SLOW, busy=0.5) as gateway:
        job = gateway.job("disk", devices(3000))
        limited = ["bash", "-c", 'ulimit -f 700; exec "$@"', "limited"]
        process = subprocess.run(
            [*limited, *COMMAND, "run", str(job), "--yes", "--concurrency", "8"],
            env={**gateway.environment, "CANCEL_WORKER_LOG_FILE": ""},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert process.returncode == 6, process.stderr[-2000:]
        assert gateway.world.truth().requests.get("cancel", 0) < 3000
        _check_nothing_lost(gateway)
