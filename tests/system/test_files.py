"""No report and no log is written over a file that is not ours (row 98)."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.system.stage import SECRET, Stage, devices, stage, wait_until
from worker.simulator.faults import Faults, Profile

_SLOW = Profile("steady", cancel=Faults(slow=1.0, wait=(0.4, 0.8)))  # x 0.05 in these worlds


def _prepare(gateway: Stage) -> dict[str, Path]:
    """A job, and every file that a run of it must leave as it is: what it is, and where."""
    folder = gateway.folder
    gateway.job("victim", devices(2))
    (folder / "fleet.csv").write_text("productKey,deviceKey\nbXuuAiku,mqtt_00001\n")
    job = (folder / "victim.yaml").read_text()
    (folder / "victim.yaml").write_text(job + "devices_from:\n  - file: fleet.csv\n")
    (folder / "secret.key").write_text(SECRET)
    (folder / "secret.key").chmod(0o600)
    (folder / "config.yaml").write_text("gateway: {secret_key_file: secret.key}\n")
    (folder / "notes.txt").write_text("of somebody else\n")
    del gateway.environment["CANCEL_WORKER_GATEWAY_SECRET_KEY"]
    assert gateway.command("plan", folder / "victim.yaml").returncode == 0
    ledger = gateway.ledger
    return {
        "the ledger, or a file beside it": ledger,
        "an input of job victim": folder / "victim.yaml",
        "the configuration": folder / "config.yaml",
        "the file of the secret key": folder / "secret.key",
        "holds something else": folder / "notes.txt",
    } | {
        f"{what} again": path
        for what, path in {
            "the ledger, or a file beside it": ledger.with_name("ledger.db.lock"),
            "an input of job victim": folder / "fleet.csv",
        }.items()
    }


def _names(path: Path) -> list[str]:
    """Its own name, a detour, a link; unit tests have all pairs, and hard links."""
    (path.parent / "sub").mkdir(exist_ok=True)
    link = path.with_name(f"{path.name}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(path.name)
    return [str(path), f"./sub/../{path.name}", str(link)]


def _contents(folder: Path) -> dict[str, bytes]:
    """Every file but those of SQLite, which change when a plan is written and forgotten."""
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("ledger.db")
    }


def test_no_report_is_written_over_another_file(tmp_path: Path) -> None:
    """Each victim by its own name or another: 2 before any request, nothing changed."""
    with stage(tmp_path, busy=0.5) as gateway:
        victims = _prepare(gateway)
        before = _contents(tmp_path)
        for number, (what, victim) in enumerate(victims.items()):
            path = _names(victim)[number % 3]
            done = gateway.command("run", "victim.yaml", "--yes", "--report", f"json={path}")
            assert (done.returncode, done.stdout) == (2, "")
            assert what.removesuffix(" again") in done.stderr, done.stderr
        for format_ in ("csv", "remaining"):
            hard = tmp_path / "sub" / "fleet.hard"
            hard.hardlink_to(tmp_path / "fleet.csv")
            done = gateway.command("run", "victim.yaml", "--yes", "--report", f"{format_}={hard}")
            hard.unlink()
            assert done.returncode == 2
            assert f"--report {hard}: is an input of job victim" in done.stderr
        assert gateway.world.truth().requests == {}
        for link in tmp_path.glob("*.link"):
            link.unlink()
        assert _contents(tmp_path) == before
        assert len(gateway.command("runs").stdout.splitlines()) == 2  # the plan, and no run


@pytest.mark.parametrize("pair", ["csv=r ndjson=./sub/../r", "csv=log.ndjson", "csv=out"])
def test_two_outputs_are_two_files(tmp_path: Path, pair: str) -> None:
    """Two reports in one, a report that is the log, a report where the result goes."""
    (tmp_path / "sub").mkdir()
    with stage(tmp_path) as gateway, (tmp_path / "out").open("w") as out:
        gateway.job("pair", devices(2))
        reports = [word for report in pair.split() for word in ("--report", report)]
        process = gateway.start("run", "pair.yaml", "--yes", *reports, stdout=out)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 2
        what = {"csv=r": "another report", "csv=l": "the log", "csv=o": "where the result goes"}
        assert f"is {what[pair[:5]]}: give another path" in said
        assert gateway.world.truth().requests == {}


def test_every_command_that_sends_checks_before_it_sends(tmp_path: Path) -> None:
    """run of several jobs before the first of them, run --plan, resume, a rehearsal."""
    with stage(tmp_path, busy=0.5) as gateway:
        for name in ("first", "second", "done"):
            gateway.job(name, devices(2))
        assert gateway.command("run", "done.yaml", "--yes").returncode == 0
        sent = dict(gateway.world.truth().requests)
        _, plan = gateway.run("plan", "first.yaml")
        (tmp_path / "second.csv").write_text("mine\n")
        for words in (
            ["run", "first.yaml", "second.yaml", "--yes", "--report", "csv={job}.csv"],
            ["run", "--plan", plan["run_id"], "--yes", "--report", "csv=first.yaml"],
            ["run", "first.yaml", "--rehearse", "--report", "csv=second.csv"],
            ["resume", "last:done", "--yes", "--report", "csv=done.yaml"],
        ):
            done = gateway.command(*words)
            assert done.returncode == 2, (words, done.stderr)
            assert "give another path" in done.stderr
        assert gateway.world.truth().requests == sent
        assert not (tmp_path / "first.csv").exists()
        assert (tmp_path / "second.csv").read_text() == "mine\n"


def test_no_log_is_appended_to_another_file(tmp_path: Path) -> None:
    """The same victims: run, plan, verify and resume refuse the log before anything is sent."""
    with stage(tmp_path, busy=0.5) as gateway:
        victims = _prepare(gateway)
        assert gateway.command("run", "victim.yaml", "--yes").returncode == 0
        sent = dict(gateway.world.truth().requests)
        before = _contents(tmp_path)
        words = [["run", "victim.yaml", "--yes"], ["plan", "victim.yaml"], ["verify", "last"]]
        words.append(["resume", "last", "--yes"])
        for number, victim in enumerate(victims.values()):
            path = _names(victim)[(number + 1) % 3]
            done = gateway.command(*words[number % 4], "--log-file", path)
            assert done.returncode == 2
            assert f"{path.removeprefix('.')} " in done.stderr
        assert gateway.world.truth().requests == sent
        for link in tmp_path.glob("*.link"):
            link.unlink()
        assert _contents(tmp_path) == before


def test_an_empty_inventory_of_the_job_is_no_log(tmp_path: Path) -> None:
    """Its content tells nothing: it is known by the job that names it."""
    with stage(tmp_path) as gateway:
        gateway.job("plain", devices(2))
        job = (tmp_path / "plain.yaml").read_text()
        (tmp_path / "plain.yaml").write_text(job + "devices_from:\n  - file: fleet.ndjson\n")
        (tmp_path / "fleet.ndjson").write_text('{"assetId": "a"}\n')
        ours = {"timestamp": "2026-11-22T02:05:00.123Z", "level": "info", "event": "run.started"}
        (tmp_path / "log.csv").write_text(json.dumps(ours, separators=(",", ":")) + "\n")
        (tmp_path / "fleet.ndjson").unlink()
        (tmp_path / "fleet.ndjson").hardlink_to(tmp_path / "log.csv")
        done = gateway.command("run", "plain.yaml", "--yes", "--log-file", "log.csv")
        assert done.returncode == 2
        assert gateway.world.truth().requests == {}


@pytest.mark.parametrize("path", ["/dev/stderr", "/dev/null", "/dev/fd/2"])
def test_devices_and_pipes_take_a_log(tmp_path: Path, path: str) -> None:
    """Stderr redirected to a file that has text is still where the log may go."""
    with stage(tmp_path, busy=0.5) as gateway:
        gateway.job("device", devices(2))
        (tmp_path / "err").write_text("earlier\n")
        with (tmp_path / "err").open("a") as err:
            process = gateway.start("run", "device.yaml", "--yes", "--log-file", path, stderr=err)
            process.communicate(timeout=60)
        assert process.returncode == 0
        text = (tmp_path / "err").read_text()
        assert text.startswith("earlier\n")
        assert ('"event":"run.finished"' in text) == (path != "/dev/null")


def test_at_a_sighup_a_file_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    """The run goes on, the log on stderr; when the name is free again the log goes back."""
    with (
        stage(tmp_path, _SLOW, busy=0.5) as gateway,
        (tmp_path / "err").open("w") as stderr,
    ):
        job = gateway.job("rotated", devices(2000))
        log = tmp_path / "log.ndjson"
        words = ("run", job, "--yes", "--concurrency", "8", "--log-level", "debug")
        process = gateway.start(*words, stderr=stderr)
        wait_until(lambda: log.exists() and log.stat().st_size > 10_000)
        log.rename(tmp_path / "log.1")
        log.write_text("notes\n")
        process.send_signal(signal.SIGHUP)
        sent = gateway.world.book.requests["cancel"]
        wait_until(lambda: gateway.world.book.requests["cancel"] > sent + 60)
        notes = log.read_text()
        log.unlink()
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: log.exists() and log.stat().st_size > 0)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        err = (tmp_path / "err").read_text()
        assert process.returncode == 143
        assert notes == "notes\n"
        assert f"log.file: {log} holds something else than a log of ours" in err
        texts = [(tmp_path / "log.1").read_text(), err, log.read_text()]
        done = [text.count('"event":"target.settled"') for text in texts]
        assert all(done)
        _, document = gateway.run("report", "last")
        assert sum(done) == 2000 - document["outcomes"]["not_attempted"]
