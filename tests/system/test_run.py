"""The main job, end to end: real processes, a real server, the truth on the other side."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.system.stage import ORG, SECRET, devices, stage
from worker.model import AssetId, Device, DeviceKey
from worker.simulator.faults import Faults, Profile


def _ids(document: dict[str, Any]) -> list[str]:
    return [i for row in document["rows"] for i in row["commandIds"]]


def test_a_fleet_of_2000_is_cancelled_and_every_record_agrees(tmp_path: Path) -> None:
    """Log, ledger, JSON and CSV name exactly the commands that the gateway cancelled, each once."""
    with stage(tmp_path, busy=0.5) as gateway:
        job = gateway.job("fleet", devices(2000), limits="{concurrency: 16}")
        code, document = gateway.run(
            "run", job, "--yes", "--report", "json=all.json", "--report", "csv=all.csv"
        )
        truth = gateway.world.truth()
        executed = gateway.cancelled()
        logged = [line["commandId"] for line in gateway.logged("command.cancelled")]
        written = json.loads((tmp_path / "all.json").read_text())
        with (tmp_path / "all.csv").open(newline="") as file:
            table = [i for row in csv.DictReader(file) for i in row["commandIds"].split()]
        assert (code, document["exit_code"]) == (0, 0)
        assert len(executed) > 1000
        assert Counter(logged) == Counter(_ids(written)) == Counter(table) == Counter(executed)
        assert document["commands"] == len(executed)
        assert sum(document["outcomes"].values()) == 2000
        assert (truth.stray_count, truth.overlaps) == (0, 0)
        assert truth.max_in_flight <= 16


def test_a_rate_is_never_passed_and_never_bursts(tmp_path: Path) -> None:
    """In any second the gateway sees at most 1.1 x rate requests, searches included."""
    with stage(tmp_path, busy=0.5) as gateway:
        job = gateway.job("paced", devices(150))
        code, _ = gateway.run("run", job, "--yes", "--rate", "40/s")
        assert code == 0
        assert gateway.world.truth().peak <= 44


@pytest.mark.parametrize("profile", ["calm", "flaky", "slow", "expiring", "throttled"])
def test_in_every_weather_the_record_is_the_truth(tmp_path: Path, profile: str) -> None:
    """Whatever the gateway suffers, nothing is lost or invented unless it is named uncertain."""
    with stage(tmp_path, profile, busy=0.5) as gateway:
        job = gateway.job("weather", devices(120), abort="off")
        code, document = gateway.run("run", job, "--yes", "--report", "json=all.json")
        rows = json.loads((tmp_path / "all.json").read_text())["rows"]
        sure = {i for row in rows for i in row["commandIds"]}
        uncertain = {"unknown", "cancelled_incomplete"} & {row["outcome"] for row in rows}
        assert sure <= gateway.cancelled()
        assert uncertain or sure == gateway.cancelled()
        assert code in (0, 3, 4)
        assert document["exit_code"] == code
        if profile != "flaky":
            assert (code, document["outcomes"]["not_attempted"]) == (0, 0)


def test_every_reply_lost_is_told_by_searches(tmp_path: Path) -> None:
    """Row 41: all cancels executed, all replies lost: found by search, nothing failed, exit 0."""
    lost = Profile("all-lost", cancel=Faults(reset_after=1.0))
    with stage(tmp_path, lost, busy=0.6) as gateway:
        job = gateway.job("lost", devices(60))
        code, document = gateway.run("run", job, "--yes", "--report", "json=all.json")
        rows = json.loads((tmp_path / "all.json").read_text())["rows"]
        proofs = {row["evidence"] for row in rows if row["outcome"] == "cancelled"}
        assert code == 0
        assert {i for row in rows for i in row["commandIds"]} == gateway.cancelled()
        assert proofs == {"search"}
        assert document["outcomes"]["failed"] == document["outcomes"]["unknown"] == 0


def test_a_listed_job_touches_nothing_else(tmp_path: Path) -> None:
    """scope: listed cancels the listed commands only and says of the others what they are."""
    names: list[Device] = [DeviceKey("bXuuAiku", f"m_{n:04}") for n in range(30)]
    commands = [
        (device, tuple(f"22789353912256{n:03}{k:02}" for k in range(3)))
        for n, device in enumerate(names)
    ]
    with stage(tmp_path, busy=1.0) as gateway:
        job = gateway.listed_job("listed", commands)
        code, document = gateway.run("run", job, "--yes", "--report", "json=all.json")
        rows = json.loads((tmp_path / "all.json").read_text())["rows"]
        listed = {i for _, ids in commands for i in ids}
        assert gateway.cancelled() <= listed
        assert {i for row in rows for i in row["commandIds"]} == gateway.cancelled()
        assert all(len(row["commands"]) == 3 for row in rows)
        assert code == (3 if document["outcomes"]["too_late"] else 0)


@pytest.mark.parametrize(
    "key", ["AA:BB:CC:01", "a&commandId=1", "100%2B", "a b", "设备1", "a+b#/?"]
)
def test_a_device_key_reaches_the_gateway_as_itself(tmp_path: Path, key: str) -> None:
    """Row 68: whatever the key, one signed request for exactly this device."""
    with stage(tmp_path, busy=1.0) as gateway:
        job = gateway.job("odd-key", [DeviceKey("bXuuAiku", key)])
        code, document = gateway.run("run", job, "--yes")
        truth = gateway.world.truth()
        assert (code, document["outcomes"]["cancelled"]) == (0, 1)
        assert truth.stray_count == 0
        assert [device.deviceKey for device in truth.cancelled] == [key]


def test_by_id_searches_and_cancels_one_by_one(tmp_path: Path) -> None:
    """cancel_all: by_id sends no cancel without a commandId and reaches the same end."""
    with stage(tmp_path, busy=0.6) as gateway:
        job = gateway.job("by-id", [AssetId(f"asset{n:03}") for n in range(20)])
        code, document = gateway.run(
            "run",
            job,
            "--yes",
            "--report",
            "json=all.json",
            CANCEL_WORKER_GATEWAY_CANCEL_ALL="by_id",
        )
        assert code == 0
        assert set(_ids(json.loads((tmp_path / "all.json").read_text()))) == gateway.cancelled()
        assert document["outcomes"]["nothing_cached"] == 0
        assert document["outcomes"]["nothing_matched"] > 0


def test_a_plan_is_previewed_run_verified_and_found(tmp_path: Path) -> None:
    """plan --preview, run --plan, verify, report and find tell one story."""
    with stage(tmp_path, busy=0.5) as gateway:
        job = gateway.job("story", devices(30))
        code, plan = gateway.run("plan", job, "--preview")
        assert (code, plan["targets"], plan["preview"]["searched"]) == (0, 30, 30)
        assert gateway.cancelled() == set()
        code, document = gateway.run("run", "--plan", plan["run_id"], "--yes")
        assert (code, document["run_id"]) == (0, plan["run_id"])
        assert document["commands"] == plan["preview"]["commands"] == len(gateway.cancelled())
        assert gateway.command("run", "--plan", plan["run_id"], "--yes").returncode == 7
        code, verified = gateway.run("verify", "last:story")
        assert (code, verified["verified"]["still_cached"]) == (0, 0)
        one = next(iter(gateway.cancelled()))
        _, found = gateway.run("find", f"commandId={one}")
        assert [each["run_id"] for each in found["found"]] == [plan["run_id"]]
        rendered = gateway.command("report", "last", "--format", "ndjson").stdout
        assert len(rendered.splitlines()) == 30


def test_no_secret_reaches_any_output(tmp_path: Path) -> None:
    """Invariant 13: the secret key stands in no file and no stream of a run."""
    with stage(tmp_path, "flaky", busy=0.5) as gateway:
        job = gateway.job("canary", devices(40), abort="off")
        done = gateway.command("run", job, "--yes", "--log-level", "debug")
        told = [done.stdout.encode(), done.stderr.encode()]
        told += [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
        assert not [text for text in told if SECRET.encode() in text]
        assert ORG.encode() in b"".join(told)


def test_a_deadline_within_the_limit_leaves_work(tmp_path: Path) -> None:
    """--limit reached is an end (0); a deadline before that leaves work (8)."""
    slow = Profile("slow", cancel=Faults(slow=1.0, wait=(4.0, 4.0)))  # x 0.05
    with stage(tmp_path, slow) as gateway:
        job = gateway.job("bounded", devices(40), limits="{deadline: 700ms, concurrency: 1}")
        code, document = gateway.run("run", job, "--yes", "--limit", "20")
        assert document["stop"]["rule"] == "deadline"
        assert 20 < document["outcomes"]["not_attempted"] < 40
        assert code == 8
        code, document = gateway.run("run", job, "--yes", "--limit", "1")
        assert (code, document["outcomes"]["not_attempted"]) == (0, 39)
