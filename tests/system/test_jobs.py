"""The example jobs, as a newcomer meets them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.system.stage import COMMAND, devices, stage

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
@pytest.mark.parametrize("faults", ["calm", "lossy"])
def test_an_example_is_checked_and_rehearsed(job: Path, faults: str) -> None:
    """`check` accepts it; a rehearsal ends well and agrees with the simulator's truth."""
    checked = subprocess.run([*COMMAND, "check", str(job)], cwd=ROOT, check=False)
    rehearsed = subprocess.run(
        [*COMMAND, "run", str(job), "--faults", faults, "--rate", "none", "-o", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    document = json.loads(rehearsed.stdout)
    late = document["outcomes"]["too_late"]  # the simulator lets some listed commands be gone
    assert checked.returncode == 0
    assert rehearsed.returncode == (3 if late else 0), rehearsed.stderr[-1000:]
    assert document["rehearsal"]["truth_matches"] is True


@pytest.mark.parametrize(
    "broken",
    [
        "name: x\norgId: o1\nscope: all_cached\ndevices: []\n",
        "name: x\norgId: o1\nscope: listed\ndevices: [{productKey: p, deviceKey: d}]\n",
        "name: x\norgId: o1\nscope: all_cached\ndevices: [{productKey: p, deviceKey: 012345}]\n",
        (
            "name: x\norgId: o1\nscope: all_cached\nwindow: {opens: '02:00'}\n"
            "devices: [{productKey: p, deviceKey: d}]\n"
        ),
    ],
    ids=["empty", "listed without ids", "retyped", "not supported yet"],
)
def test_a_broken_job_reaches_nobody(tmp_path: Path, broken: str) -> None:
    """Exit 2 with file, line and column; no request, not even for a token."""
    with stage(tmp_path) as gateway:
        job = tmp_path / "broken.yaml"
        job.write_text(broken)
        done = gateway.command("run", job, "--yes")
        assert done.returncode == 2
        assert f"{job}:" in done.stderr
        assert gateway.world.truth().requests == {}


def test_a_list_in_parts(tmp_path: Path) -> None:
    """Row 109: `run --limit` calls the first, `resume --limit` the next, `resume` all the rest."""
    with stage(tmp_path, busy=0.5) as gateway:
        job = gateway.job("parts", devices(12))
        ends = []
        for words in (
            ("run", job, "--limit", "3"),
            ("resume", "last", "--limit", "4"),
            ("resume", "last"),
            ("resume", "last", "--limit", "1"),
        ):
            code, document = gateway.run(*map(str, words), "--yes")
            ends.append((code, 12 - document["outcomes"]["not_attempted"]))
            calls = gateway.world.truth().requests["cancel"]
            assert calls == ends[-1][1]
        assert ends == [(0, 3), (0, 7), (0, 12), (0, 12)]


def test_what_a_resume_asks(tmp_path: Path) -> None:
    """The question names the true counts."""
    with stage(tmp_path, busy=0.5) as gateway:
        gateway.run("run", gateway.job("asked", devices(12)), "--yes", "--limit", "3")
        run_id = gateway.run("report", "last")[1]["run_id"]
        for flags, meant in (((), ""), (("--limit", "4"), ", the next 4 only")):
            done = gateway.command("resume", "last", *flags)
            assert done.returncode == 7
            assert f"resume run {run_id}: 9 of 12 devices left{meant}." in done.stderr


def test_a_complete_run_still_writes_reports(tmp_path: Path) -> None:
    """`resume` of a run that is done sends nothing, writes its reports and exits as before."""
    with stage(tmp_path, busy=0.5) as gateway:
        gateway.run("run", gateway.job("done", devices(10)), "--yes")
        before = gateway.world.truth().requests
        code, document = gateway.run("resume", "last", "--yes", "--report", "ndjson=again.ndjson")
        assert (code, gateway.world.truth().requests) == (0, before)
        assert len((tmp_path / "again.ndjson").read_text().splitlines()) == 10
        assert list(document["reports"]) == ["again.ndjson"]
