"""What is refused leaves nothing behind, and says what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.system.stage import ORG, Stage, devices, stage
from worker.model import AllCached, Target
from worker.simulator.faults import Faults, Profile


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
            ["resume", "--yes", "2"],
            ["verify", "2"],
        ):
            done = gateway.command(*words)
            assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert gateway.world.truth().requests == {}


_LATE = "2036-11-22T04:00:00+01:00"
_UNKNOWN = "HTTP 200, code 99400: invalid argument: unknown orgId o15541858646510"


def _misspelled(gateway: Stage, **keys: str) -> Path:
    """A job whose orgId has two digits in the wrong order."""
    job = gateway.job("misspelled", devices(30), **keys)
    job.write_text(job.read_text().replace(ORG, "o15541858646510"))
    return job


def test_an_organization_that_the_gateway_does_not_know(tmp_path: Path) -> None:
    """Its own words, and the first question is about orgId; the first line says so (5)."""
    with stage(tmp_path) as gateway:
        job = _misspelled(gateway)
        code, document = gateway.run("run", job, "--yes")
        assert code == 5
        told = document["stop"]["message"]
        assert told.split(" (requestId ")[0] == (
            f"the gateway refused the first cancel-all ({_UNKNOWN}): is orgId o15541858646510 "
            "right? Only if it is, and this gateway requires a commandId, set "
            "gateway.cancel_all: by_id"
        )
        first = gateway.command("run", job, "--yes").stdout.splitlines()[0]
        assert told.split(" (requestId ")[0] in first


@pytest.mark.parametrize("by", ["by_id", "verify"])
def test_an_unknown_organization_where_searches_come_first(tmp_path: Path, by: str) -> None:
    """Not the permission is asked for: the same words, the same question (7)."""
    with stage(tmp_path) as gateway:
        keys = {"verify": "touched"} if by == "verify" else {}
        more = {"CANCEL_WORKER_GATEWAY_CANCEL_ALL": "by_id"} if by == "by_id" else {}
        done = gateway.command("run", _misspelled(gateway, **keys), "--yes", **more)
        assert done.returncode == 7
        assert f"{_UNKNOWN} (requestId " in done.stderr
        assert done.stderr.endswith("nothing was cancelled. Is orgId o15541858646510 right?\n")


def test_a_preview_that_could_not_look(tmp_path: Path) -> None:
    """It ends as a run would (7), says why, and offers no run."""
    with stage(tmp_path) as gateway:
        job = _misspelled(gateway)
        done = gateway.command("plan", job, "--preview")
        assert done.returncode == 7
        assert f"preview    not possible: searches were refused ({_UNKNOWN})\n" in done.stdout
        assert "run it" not in done.stdout
        assert done.stderr.endswith(" Is orgId o15541858646510 right?\n")
        assert "refused: the preview was not possible: searches were refused" in done.stderr
        code, document = gateway.run("plan", job, "--preview")
        assert (code, document["preview"]) == (
            7,
            {
                "searched": 0,
                "not_searched": 30,
                "not_searched_because": f"searches were refused ({_UNKNOWN})",
                "not_found": 0,
                "devices_with_commands": 0,
                "commands": 0,
                "devices": [],
            },
        )


def test_a_preview_of_devices_that_do_not_exist(tmp_path: Path) -> None:
    """A run would stop for its rule `not_found`; so does the preview (5)."""
    with stage(tmp_path) as gateway:
        gateway.world.seed_target(Target(0, devices(99)[98], ORG, AllCached(), ""))
        entries = [{"productKey": "bXuuAiku", "deviceKey": f"gone_{n}"} for n in range(25)]
        done = gateway.command("plan", gateway.write_job("gone", entries), "--preview")
        assert done.returncode == 5
        assert "25 devices do not exist for this orgId" in done.stdout
        assert "wrong organization, gateway or list?" in done.stderr


def test_a_preview_of_a_gateway_that_is_down(tmp_path: Path) -> None:
    """Searches that fail to the last: a run would stop too (5)."""
    with stage(tmp_path, "down") as gateway:
        done = gateway.command("plan", gateway.job("down", devices(5)), "--preview")
        assert done.returncode == 5
        assert "stopped: the preview was not possible: searches failed (HTTP 503" in done.stderr


def test_the_header_says_when_a_run_ends_and_that_its_rate_is_out_of_reach(
    tmp_path: Path,
) -> None:
    """--until with its time zone, the deadline, and what concurrency allows."""
    with stage(tmp_path) as gateway:
        job = gateway.job("bounded", devices(2), limits="{rate: 500/s, deadline: 45m}")
        done = gateway.command(
            "run", job, "--yes", "--until", "2036-11-22T04:00:00+01:00", TZ="UTC"
        )
        assert done.returncode == 0
        said = done.stderr.splitlines()
        assert "ends           2036-11-22T03:00:00+00:00 UTC (--until)" in said
        assert [line for line in said if "45m after its start" in line] != []
        assert [line.strip() for line in said if "out of reach" in line] == [
            "500/s is out of reach: 16 requests at once, each answered after 100 ms, are 160/s"
        ]


def test_until_that_has_passed_is_not_now(tmp_path: Path) -> None:
    """9, before any request, with the moment in the host's time zone."""
    with stage(tmp_path) as gateway:
        job = gateway.job("late", devices(2))
        moment = "2020-01-01T00:00:00Z"
        done = gateway.command("run", job, "--yes", "--until", moment, TZ="UTC")
        assert done.returncode == 9
        assert done.stderr.startswith(f"not now: --until {moment} passed ")
        assert "+00:00 UTC" in done.stderr
        assert gateway.world.truth().requests == {}


def test_a_verification_that_may_not_search(tmp_path: Path) -> None:
    """The run is done (0), the summary says why nothing was verified, and how to do it later."""
    with stage(tmp_path, Profile("unsearchable", search=Faults(error_before=1.0)), busy=1.0) as it:
        done = it.command("run", it.job("blind", devices(30)), "--yes")
        assert done.returncode == 0
        [told] = [line for line in done.stdout.splitlines() if line.startswith("verified")]
        assert told.startswith("verified  not verified: searches failed (HTTP ")
        run_id = done.stdout.splitlines()[1].split()[1]
        assert f"next      cancel-worker verify {run_id}" in done.stdout.splitlines()
        assert told in it.command("report", "last").stdout.splitlines()
        verified = it.command("verify", "last")
        assert (verified.returncode, verified.stdout.split(": ")[1]) == (4, "not verified")
        code, document = it.run("run", it.job("asked", devices(30), verify="all"), "--yes")
        assert (code, document["verified"]) == (
            4,
            {"targets": 0, "still_cached": 0, "newer": 0, "unsearched": 30},
        )
        [reason] = document["exit_reasons"]
        assert reason.startswith("not searched: 30, although the job asks for it: searches failed")


_OTHER_ORG = {"CANCEL_WORKER_GATEWAY_ORGS": "o1,o2"}
_GUARDS = [
    (("--max-devices", "4"), {}, "max_devices is 4: nothing was sent"),
    ((), {"CANCEL_WORKER_CEILING_MAX_DEVICES": "4"}, "no more than 4 (ceiling.max_devices)"),
    ((), {}, "min_devices is 6: nothing was sent. Is the inventory complete?"),
    ((), _OTHER_ORG, "orgId"),
    ((), None, "There is no terminal to ask on"),
]


@pytest.mark.parametrize(("flags", "environment", "said"), _GUARDS)
@pytest.mark.parametrize("command", ["run", "run --plan", "resume"])
def test_whatever_sends_goes_through_the_same_guards(
    tmp_path: Path,
    command: str,
    flags: tuple[str, ...],
    environment: dict[str, str] | None,
    said: str,
) -> None:
    """A list that one command refuses is not sent by another one: 7, and no request."""
    few = "min_devices" in said
    with stage(tmp_path, busy=0.5) as gateway:
        job = gateway.job("guarded", devices(5), limits="{min_devices: 6}" if few else "{}")
        words: list[str | Path] = ["run", "--plan", "last"]
        if command == "run":
            words = ["run", job]
        if command != "run":
            assert gateway.command("plan", job).returncode == 0
        if command == "resume":
            words = ["resume", _begun(gateway.ledger)]
        confirmed = [] if environment is None else ["--yes"]
        done = gateway.command(*words, *confirmed, *flags, **environment or {})
        assert (done.returncode, said in done.stderr) == (7, True), done.stderr
        assert gateway.world.truth().requests == {}


def _begun(ledger: Path) -> str:
    """The plan, as a run that was killed before it sent anything."""
    with sqlite3.connect(ledger) as raw:
        raw.execute("UPDATE run SET started_ms = planned_ms, first_started_ms = planned_ms")
        [(run_id,)] = raw.execute("SELECT run_id FROM run").fetchall()
    raw.close()
    return str(run_id)


def test_a_verification_asks_which_organization_too(tmp_path: Path) -> None:
    """It would search with the keys of another one; a rehearsal's devices are nowhere."""
    with stage(tmp_path, busy=0.5) as gateway:
        job = gateway.job("looked", devices(5))
        gateway.run("run", job, "--yes")
        before = gateway.world.truth().requests
        done = gateway.command("verify", "last", **_OTHER_ORG)
        assert (done.returncode, "o1" in done.stderr) == (7, True), done.stderr
        ledger = f"sqlite:///{gateway.ledger}"
        gateway.run("run", job, "--rehearse", "--ledger", ledger)
        done = gateway.command("verify", "last")
        assert (done.returncode, "was a rehearsal" in done.stderr) == (2, True), done.stderr
        assert gateway.world.truth().requests == before


def test_a_canary(tmp_path: Path) -> None:
    """A hundred first, then the rest: each device has one outcome; the guards hold in between."""
    with stage(tmp_path, busy=0.5) as gateway:
        job = gateway.job("canary", devices(3000))
        code, document = gateway.run("run", job, "--yes", "--limit", "100")
        outcomes = document["outcomes"]
        assert (code, outcomes["not_attempted"], document["exit_reasons"]) == (0, 2900, [])
        assert gateway.command("resume", "last", "--yes", "--max-devices", "1").returncode == 7
        asked = gateway.command("resume", "last")
        assert (asked.returncode, "2900 of 3000 devices left" in asked.stderr) == (7, True)
        code, document = gateway.run("resume", "last", "--yes")
        settled = {name: number for name, number in document["outcomes"].items() if number}
        assert (code, sum(settled.values())) == (0, 3000)
        assert set(settled) == {"cancelled", "nothing_cached"}
        truth = gateway.world.truth()
        assert document["requests"]["cancel"] == 3000 == truth.requests["cancel"]
        with sqlite3.connect(gateway.ledger) as raw:
            counts = raw.execute("SELECT count(*), count(DISTINCT ordinal) FROM outcome").fetchall()
        raw.close()
        assert counts == [(3000, 3000)]
        complete = gateway.command("resume", "last", "--yes")
        assert (complete.returncode, "is complete" in complete.stderr) == (0, True)


@pytest.mark.parametrize("words", [("serve",), ("run", "j.yaml", "--allow", "5")])
def test_what_a_later_version_has_is_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Not `no such option`: the documentation of a later version may have been read."""
    with stage(tmp_path) as gateway:
        done = gateway.command(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith(": not supported yet\n")
