"""Row 97: the ledger's file is removed, moved or replaced under a command that uses it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.stage import Stage, devices, stage, wait_until
from worker.simulator.faults import Faults, Profile

# Waits are times 0.05 in these worlds.
_SLOW = Profile("steady", cancel=Faults(slow=1.0, wait=(2.0, 4.0)))
_HANGING = Profile("hanging", cancel=Faults(slow=1.0, wait=(400.0, 400.0)))
_SLOW_SEARCH = Profile("slow search", search=Faults(slow=1.0, wait=(2.0, 4.0)))
_HALF_A_SECOND = Profile("half a second", cancel=Faults(slow=1.0, wait=(10.0, 10.0)))

_LACKS = "now lacks run"


def _remove(gateway: Stage) -> None:
    gateway.ledger.unlink()


def _move(gateway: Stage) -> None:
    gateway.ledger.rename(gateway.ledger.with_name("old.db"))


def _replace(gateway: Stage) -> None:
    """As somebody does who restores yesterday's ledger."""
    copy = gateway.ledger.with_name("yesterday.db")
    shutil.copy(gateway.ledger, copy)
    copy.replace(gateway.ledger)


def _remove_wal(gateway: Stage) -> None:
    gateway.ledger.with_name("ledger.db-wal").unlink()


def _called(gateway: Stage) -> int:
    return gateway.world.truth().requests.get("cancel", 0)


def _in_its_folder(folder: Path, gateway: Stage) -> Path:
    """A folder of its own for the ledger, so that it can be moved as a whole."""
    state = folder / "state"
    state.mkdir()
    gateway.ledger = state / "ledger.db"
    gateway.environment["CANCEL_WORKER_LEDGER_URL"] = f"sqlite:///{gateway.ledger}"
    return state


def _rescued(gateway: Stage) -> list[dict[str, Any]]:
    """The rows beside the ledger's path."""
    [file] = gateway.ledger.parent.glob("ledger.db.*.ndjson")
    return [json.loads(line) for line in file.read_text().splitlines()]


def _check_nothing_lost(rows: list[dict[str, Any]], gateway: Stage) -> None:
    """Every id that was cancelled is in the rows, or its device is one that may have been."""
    recorded = {commandId for row in rows for commandId in row["commandIds"]}
    uncertain = {
        row["deviceKey"] for row in rows if row["outcome"] in ("unknown", "cancelled_incomplete")
    }
    for device, executed in gateway.world.truth().cancelled.items():
        missing = {each.commandId for each in executed} - recorded
        assert not missing or device.deviceKey in uncertain
    assert recorded <= gateway.cancelled()
    assert recorded


def _end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize("change", [_remove, _move, _replace, _remove_wal])
def test_a_run_that_loses_its_ledger(tmp_path: Path, change: Callable[[Stage], None]) -> None:
    """It stops soon, exits 6, and leaves its whole report beside the path."""
    with stage(tmp_path, _SLOW, busy=0.5) as gateway:
        job = gateway.job("lost", devices(2000))
        process = gateway.start("run", job, "--yes", "-o", "json", "--concurrency", "8")
        wait_until(lambda: _called(gateway) > 40)
        change(gateway)
        code, out, err = _end(process)
        document = json.loads(out)
        assert (code, document["exit_code"], document["stop"]["rule"]) == (6, 6, "record")
        assert "while it was in use" in document["stop"]["message"]
        assert _LACKS in err
        rows = _rescued(gateway)
        assert len(rows) == 2000
        assert document["outcomes"]["not_attempted"] > 1500
        _check_nothing_lost(rows, gateway)
        [path] = document["reports"]
        assert path.startswith(f"{gateway.ledger}.")
        assert path in err
        assert (tmp_path / path).stat().st_mode & 0o007 == 0


def test_lost_with_its_folder(tmp_path: Path) -> None:
    """Where nothing can be written beside the path, the rows go to stderr."""
    with stage(tmp_path, _SLOW, busy=0.5) as gateway:
        state = _in_its_folder(tmp_path, gateway)
        job = gateway.job("lost", devices(2000))
        process = gateway.start("run", job, "--yes", "--concurrency", "8")
        wait_until(lambda: _called(gateway) > 40)
        state.rename(tmp_path / "old")
        code, out, err = _end(process)
        assert code == 6
        assert out.startswith(
            f"THE RECORD IS INCOMPLETE: record: ledger {gateway.ledger}: its file"
        )
        rows = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
        assert len(rows) == 2000
        _check_nothing_lost(rows, gateway)
        assert "they are its only record" in err


def test_a_folder_that_becomes_a_link_elsewhere(tmp_path: Path) -> None:
    """What people open is another ledger then; the rows lie beside that one."""
    with stage(tmp_path, _SLOW, busy=0.5) as gateway:
        state = _in_its_folder(tmp_path, gateway)
        job = gateway.job("lost", devices(2000))
        process = gateway.start("run", job, "--yes", "--concurrency", "8")
        wait_until(lambda: _called(gateway) > 40)
        shutil.copytree(state, tmp_path / "copy")
        state.rename(tmp_path / "old")
        state.symlink_to("copy")
        assert _end(process)[0] == 6
        _check_nothing_lost(_rescued(gateway), gateway)
        assert len(list((tmp_path / "copy").glob("ledger.db.*.ndjson"))) == 1


def test_a_folder_that_moves_and_is_linked_to_is_no_loss(tmp_path: Path) -> None:
    """The path still leads to the same file."""
    with stage(tmp_path, _SLOW, busy=0.5) as gateway:
        state = _in_its_folder(tmp_path, gateway)
        job = gateway.job("kept", devices(200))
        process = gateway.start("run", job, "--yes", "--concurrency", "8")
        wait_until(lambda: _called(gateway) > 40)
        state.rename(tmp_path / "new")
        state.symlink_to("new")
        assert _end(process)[0] == 0
        assert gateway.command("report", "last").stdout.startswith("DONE")


def test_lost_in_the_last_moment(tmp_path: Path) -> None:
    """A run that is over before the next look: the look at its end finds it."""
    with stage(tmp_path, _HALF_A_SECOND, busy=1.0) as gateway:
        job = gateway.job("short", devices(1), verify="none")
        process = gateway.start("run", job, "--yes", "-o", "json")
        wait_until(lambda: _called(gateway) == 1)
        _remove(gateway)
        code, out, _ = _end(process)
        document = json.loads(out)
        assert (code, document["exit_code"]) == (6, 6)
        assert document["outcomes"]["cancelled"] == 1
        assert {i for row in _rescued(gateway) for i in row["commandIds"]} == gateway.cancelled()


def test_a_series_ends_with_it(tmp_path: Path) -> None:
    """The jobs that come after are not begun on a ledger that is gone."""
    with stage(tmp_path, _SLOW, busy=0.5) as gateway:
        jobs = [gateway.job(name, devices(500)) for name in ("first", "second")]
        process = gateway.start("run", *jobs, "--yes", "--concurrency", "8")
        wait_until(lambda: _called(gateway) > 40)
        _move(gateway)
        code, out, _ = _end(process)
        assert code == 6
        assert "of job first" in out
        assert "of job second" not in out
        assert _called(gateway) < 500


def test_a_second_interrupt_still_leaves_the_rows(tmp_path: Path) -> None:
    """Leaving at once is no reason to lose the record."""
    with stage(tmp_path, _HANGING, busy=0.5) as gateway:
        job = gateway.job("hurried", devices(100))
        process = gateway.start("run", job, "--yes", "--concurrency", "4")
        wait_until(lambda: _called(gateway) >= 4)
        process.send_signal(signal.SIGINT)
        wait_until(lambda: any("run.stopping" in line["event"] for line in gateway.log()))
        _remove(gateway)
        process.send_signal(signal.SIGINT)
        code, _, err = _end(process)
        assert (code, _LACKS in err) == (6, True)
        outcomes = [row["outcome"] for row in _rescued(gateway)]
        assert (outcomes.count("unknown"), outcomes.count("not_attempted")) == (4, 96)


def test_a_resume_that_loses_its_ledger(tmp_path: Path) -> None:
    """As a run: everything that the run ever did is in the rows."""
    with stage(tmp_path, _SLOW, busy=0.5) as gateway:
        job = gateway.job("resumed", devices(1000))
        process = gateway.start("run", job, "--yes", "--concurrency", "8")
        wait_until(lambda: _called(gateway) > 40)
        process.kill()
        process.communicate(timeout=30)
        before = _called(gateway)
        process = gateway.start("resume", "last", "--yes", "--concurrency", "8")
        wait_until(lambda: _called(gateway) > before + 40)
        _replace(gateway)
        assert _end(process)[0] == 6
        rows = _rescued(gateway)
        assert len(rows) == 1000
        _check_nothing_lost(rows, gateway)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_verify_that_loses_its_ledger(tmp_path: Path, form: str) -> None:
    """What it had open was the last copy of the run's record: it is kept, and never 0."""
    with stage(tmp_path, _SLOW_SEARCH, busy=0.5) as gateway:
        job = gateway.job("verified", devices(100), verify="none")
        assert gateway.command("run", job, "--yes").returncode == 0
        process = gateway.start("verify", "last", "-o", form)
        wait_until(lambda: gateway.world.truth().requests.get("search", 0) > 10)
        _remove(gateway)
        code, out, err = _end(process)
        assert (code, _LACKS in err) == (6, True)
        if form == "json":
            assert json.loads(out)["exit_code"] == 6
        _check_nothing_lost(_rescued(gateway), gateway)


def test_a_plan_that_loses_its_ledger(tmp_path: Path) -> None:
    """A plan that is gone is not offered to be run."""
    with stage(tmp_path, _SLOW_SEARCH, busy=0.5) as gateway:
        job = gateway.job("planned", devices(100))
        process = gateway.start("plan", job, "--preview")
        wait_until(lambda: gateway.world.truth().requests.get("search", 0) > 10)
        _remove(gateway)
        code, out, err = _end(process)
        assert (code, out) == (6, "")
        assert err.endswith("while it was in use: the plan went with it, plan again\n")
