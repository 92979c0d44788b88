"""Row 106: a ledger that was restored from a backup made in mid-run knows less than was sent."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.system.stage import Stage, devices, stage, wait_until
from worker.simulator.faults import Faults, Profile

_SLOW = Profile("steady", cancel=Faults(slow=1.0, wait=(0.4, 0.8)))  # x 0.05 in these worlds
_DEVICES = 300


def _cancels(gateway: Stage) -> int:
    return gateway.world.truth().requests.get("cancel", 0)


def _back_up(gateway: Stage) -> Path:
    """As operations.md says: `.backup`, in mid-run."""
    copy = gateway.ledger.with_name("backup.db")
    with sqlite3.connect(gateway.ledger) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    return copy


def _restore(gateway: Stage, backup: Path) -> None:
    for side in gateway.ledger.parent.glob("ledger.db-*"):
        side.unlink()
    backup.replace(gateway.ledger)


def _restored(gateway: Stage, *, kill: bool) -> int:
    """A run of which the ledger lost the end; how many calls it made. kill: it was not done."""
    job = gateway.job("restored", devices(_DEVICES), verify="none")
    process = gateway.start("run", job, "--yes", "--concurrency", "8")
    wait_until(lambda: _cancels(gateway) > 60)
    backup = _back_up(gateway)
    if kill:
        wait_until(lambda: _cancels(gateway) > 160)
        process.kill()
    process.communicate(timeout=60)
    _restore(gateway, backup)
    return _cancels(gateway)


def _rows(gateway: Stage) -> list[dict[str, Any]]:
    text = gateway.command("report", "last", "--format", "ndjson").stdout
    return [json.loads(line) for line in text.splitlines()]


def _recorded(gateway: Stage) -> set[str]:
    return {commandId for row in _rows(gateway) for commandId in row["commandIds"]}


def test_everything_without_an_outcome_is_looked_up(tmp_path: Path) -> None:
    """Found cancelled is recorded as found; what holds nothing any more is not called again."""
    with stage(tmp_path, _SLOW, busy=0.5) as gateway:
        called = _restored(gateway, kill=False)
        assert called == _DEVICES
        known = _recorded(gateway)
        code, done = gateway.run("resume", "last", "--yes", "--assume-sent")
        assert (code, _cancels(gateway)) == (0, called)
        assert done["outcomes"]["cancelled"] + done["outcomes"]["nothing_cached"] == _DEVICES
        assert known < _recorded(gateway) == gateway.cancelled()
        found = [row for row in _rows(gateway) if set(row["commandIds"]) - known]
        assert {(row["outcome"], row["evidence"]) for row in found} == {("cancelled", "search")}
        assert gateway.run("resume", "last", "--yes")[1]["outcomes"] == done["outcomes"]


def test_what_was_never_sent_is_sent(tmp_path: Path) -> None:
    """The look-up shows what is still cached: that is called, once."""
    with stage(tmp_path, _SLOW, busy=0.5) as gateway:
        called = _restored(gateway, kill=True)
        code, done = gateway.run("resume", "last", "--yes", "--assume-sent", "--rate", "none")
        assert code == 0
        assert done["outcomes"]["cancelled"] + done["outcomes"]["nothing_cached"] == _DEVICES
        assert _recorded(gateway) == gateway.cancelled()
        assert gateway.command("verify", "last").returncode == 0
        assert called < _cancels(gateway) <= _DEVICES


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_said_once_is_enough(tmp_path: Path, number: signal.Signals) -> None:
    """A resume that is stopped in the middle goes on as it began, without the flag."""
    with stage(tmp_path, _SLOW, busy=0.5) as gateway:
        called = _restored(gateway, kill=False)
        process = gateway.start("resume", "last", "--yes", "--assume-sent", "--concurrency", "2")
        wait_until(lambda: gateway.world.truth().requests.get("search", 0) > 60)
        process.send_signal(number)
        process.communicate(timeout=30)
        assert process.returncode in (143, -9)
        outcomes = [row["outcome"] for row in _rows(gateway)]
        assert "not_attempted" not in outcomes
        assert outcomes.count("unknown") > 50
        code, _ = gateway.run("resume", "last", "--yes")
        assert (code, _cancels(gateway)) == (0, called)
        assert _recorded(gateway) == gateway.cancelled()


def test_without_the_flag_it_cannot_be_seen(tmp_path: Path) -> None:
    """What the documentation warns of: nothing in a restored ledger tells that it is one."""
    with stage(tmp_path, _SLOW, busy=0.5) as gateway:
        called = _restored(gateway, kill=False)
        code, _ = gateway.run("resume", "last", "--yes")
        assert (code, _cancels(gateway) > called) == (0, True)
        assert _recorded(gateway) < gateway.cancelled()
