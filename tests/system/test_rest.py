"""Row 107 with real processes: a Retry-After outlives whoever heard it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tests.system.stage import Stage, devices, stage, wait_until
from worker.clock import SystemClock, rfc3339
from worker.ledger.store import Store
from worker.simulator.faults import Faults, Profile

BUSY = Profile("busy", cancel=Faults(error_before=1.0, errors=("503",), retry_after=90))
CLOCK = SystemClock()


def kept(ledger: Path) -> list[tuple[str, int]]:
    connection = sqlite3.connect(ledger)
    try:
        return connection.execute("SELECT gateway, until_ms FROM pause").fetchall()
    except sqlite3.OperationalError:  # not there yet
        return []
    finally:
        connection.close()


def keep(gateway: Stage, seconds: float) -> int:
    """As an earlier run would; until when."""
    store = Store.open(f"sqlite:///{gateway.ledger}")
    until_ms = CLOCK.wall_ms() + round(seconds * 1000)
    store.keep_pause(gateway.url, until_ms)
    store.close()
    return until_ms


def test_a_killed_run_leaves_it_in_the_ledger(tmp_path: Path) -> None:
    """Durable soon after the reply, under the gateway's URL."""
    with stage(tmp_path, BUSY) as gateway:
        job = gateway.job("rest", devices(3), limits="{concurrency: 1}")
        began_ms = CLOCK.wall_ms()
        killed = gateway.start("run", job, "--yes")
        wait_until(lambda: gateway.ledger.exists() and bool(kept(gateway.ledger)))
        killed.kill()
        killed.communicate()
        [(url, until_ms)] = kept(gateway.ledger)
    assert url == gateway.url
    assert began_ms + 90_000 <= until_ms <= CLOCK.wall_ms() + 91_000


def test_the_next_command_says_until_when_and_waits(tmp_path: Path) -> None:
    """Nothing is sent before, not for a token either; run, verify and preview alike."""
    with stage(tmp_path) as gateway:
        job = gateway.job("rest", devices(3))
        for command in (["run", job, "--yes"], ["verify", "last"], ["plan", job, "--preview"]):
            until_ms = keep(gateway, 10.0)
            asked = gateway.world.book.requests.total()
            started = gateway.start(*command)
            wait_until(lambda: CLOCK.wall_ms() > until_ms - 100)  # noqa: B023 - at once
            assert gateway.world.book.requests.total() == asked
            _, said = started.communicate(timeout=60)
            assert f"pause          until {rfc3339(until_ms)}: the gateway asked" in said
            assert gateway.world.book.requests.total() > asked
            assert started.returncode == 0, said
            assert kept(gateway.ledger) == []
        causes = [line["cause"] for line in gateway.logged("run.paused")]
    assert causes == ["retry_after_kept"] * 3


def test_one_that_passes_until_is_not_waited_for(tmp_path: Path) -> None:
    """The run ends at once, with 8, nothing was sent and it stays kept."""
    with stage(tmp_path) as gateway:
        job = gateway.job("rest", devices(3))
        until_ms = keep(gateway, 60.0)
        until = rfc3339(CLOCK.wall_ms() + 50_000)
        code, document = gateway.run("run", job, "--yes", "--until", until)
        assert (code, document["stop"]["rule"]) == (8, "window")
        assert document["outcomes"]["not_attempted"] == 3
        assert gateway.world.book.requests.total() == 0
        assert kept(gateway.ledger) == [(gateway.url, until_ms)]


def test_a_rehearsal_neither_keeps_nor_obeys_it(tmp_path: Path) -> None:
    """It touches nothing real, and nothing real keeps it."""
    with stage(tmp_path) as gateway:
        job = gateway.job("rest", devices(120))
        until_ms = keep(gateway, 60.0)
        done = gateway.command(
            "run", job, "--faults", "throttled", "--rate", "none", "--ledger",
            f"sqlite:///{gateway.ledger}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "pause " not in done.stderr
        assert kept(gateway.ledger) == [(gateway.url, until_ms)]
        assert gateway.logged("run.paused")
