"""What is refused leaves nothing behind, and says what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.system.stage import devices, stage


def test_a_refused_run_is_never_the_last_one(tmp_path: Path) -> None:
    """`last` stays the run that was begun: whoever resumes it never starts a refused list."""
    with stage(tmp_path, busy=0.5) as gateway:
        job = gateway.job("refused", devices(5))
        _, done = gateway.run("run", job, "--yes")
        refused = gateway.command("run", job)  # nobody confirms
        assert refused.returncode == 7
        listed = gateway.command("runs")
        assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == [done["run_id"]]


def test_a_plan_that_was_asked_for_survives_a_refusal(tmp_path: Path) -> None:
    """`run --plan` may be refused and confirmed later."""
    with stage(tmp_path, busy=0.5) as gateway:
        job = gateway.job("planned", devices(5))
        assert gateway.command("plan", job).returncode == 0
        codes = [
            gateway.command("run", "--plan", "last", *words).returncode for words in ([], ["--yes"])
        ]
        assert codes == [7, 0]


def test_above_the_ceiling_no_flag_is_offered(tmp_path: Path) -> None:
    """A remedy that would be refused too is none."""
    with stage(tmp_path) as gateway:
        job = gateway.job("large", devices(5))
        done = gateway.command("run", job, "--yes", CANCEL_WORKER_CEILING_MAX_DEVICES="4")
        assert done.returncode == 7
        assert "no more than 4 (ceiling.max_devices): split the list" in done.stderr
        assert "--max-devices" not in done.stderr


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE meta SET value = '99'", "written by a newer cancel-worker (schema 99)"),
        (
            "UPDATE run SET settings = CAST(json_set(settings || '', '$.window', 1) AS BLOB)",
            "unknown field `window`",
        ),
    ],
    ids=["ledger", "settings"],
)
def test_what_a_newer_version_wrote_is_not_worked_off(
    tmp_path: Path, statement: str, said: str
) -> None:
    """A ledger, or the settings of a run, that this version cannot read whole: 2, nothing sent."""
    with stage(tmp_path, busy=0.5) as gateway:
        assert gateway.command("plan", gateway.job("newer", devices(5))).returncode == 0
        with sqlite3.connect(gateway.ledger) as raw:
            raw.execute(statement)
        raw.close()
        for words in (
            ["run", "--yes", "--plan", "last"],
            ["resume", "--yes", "last"],
            ["verify", "last"],
        ):
            done = gateway.command(*words)
            assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert gateway.world.truth().requests == {}


@pytest.mark.parametrize("words", [("serve",), ("run", "j.yaml", "--allow", "5")])
def test_what_a_later_version_has_is_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Not `no such option`: the documentation of a later version may have been read."""
    with stage(tmp_path) as gateway:
        done = gateway.command(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith(": not supported yet\n")
