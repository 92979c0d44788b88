"""The lines of `runs` and `find`: what is told of each run, on 80 columns."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ledger.plans import claim, devices, new_run, outcome, record, staged
from worker.cli import history
from worker.cli.desk import Common
from worker.errors import UsageError
from worker.ledger.store import Store
from worker.model import OutcomeKind, Rehearsal, RunEnd, Stop, Verified

NIGHT = 1_795_313_100_000  # 2026-11-22T02:05:00Z, 03:05 in Berlin


@pytest.fixture(autouse=True)
def _berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    monkeypatch.setenv("COLUMNS", "80")
    time.tzset()
    yield
    monkeypatch.delenv("TZ")
    time.tzset()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url)
    yield opened
    opened.close()


def begun(store: Store, run_id: str, count: int, job: str = "nightly", **more: Any) -> None:
    """A run of so many devices that was started and claimed all but the last."""
    with store.draft() as draft:
        draft.add([staged(name) for name in devices(count)])
        store.freeze(draft, new_run(run_id, job, planned_ms=NIGHT, **more), ["a.yaml"])
    store.start(run_id, NIGHT + 1000)
    claim(store, count - 1, run_id=run_id)


def shown(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    out, err = capsys.readouterr()
    return out.splitlines(), err


def test_lines(store: Store, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Start in local time, what is left, the state, and what a person may want to look at."""
    begun(store, "20261122T020500Z-aaaaaa", 3)
    record(store, outcome(0), outcome(1, "failed"), run_id="20261122T020500Z-aaaaaa")
    stop = Stop("forbidden", "orgId o1 is refused", 20, 20)
    store.finish("20261122T020500Z-aaaaaa", RunEnd(NIGHT + 9000, 5, stop=stop))
    begun(store, "20261122T020501Z-bbbbbb", 2, rehearsal=True)
    record(store, outcome(0), run_id="20261122T020501Z-bbbbbb")
    begun(store, "20261122T020502Z-cccccc", 4)
    record(store, outcome(0), outcome(1, "unknown"), run_id="20261122T020502Z-cccccc")
    with store.draft() as draft:
        draft.add([staged("a")])
        store.freeze(draft, new_run("20261122T020503Z-dddddd", planned_ms=NIGHT), ["a.yaml"])
    history.runs(Common(ledger=url), job=None, limit=20, as_json=False)
    assert shown(capsys) == (
        [
            "run               start         job      targets  left  state        note",
            "20261122T020502Z  Nov 22 03:05  nightly        4     1  interrupted  2 unknown",
            "20261122T020501Z  Nov 22 03:05  nightly        2     1  interrupted  rehearsal",
            "20261122T020500Z  Nov 22 03:05  nightly        3     1  stopped      forbidden,…",
            "20261122T020503Z  -             nightly        1     1  planned",
        ],
        "",
    )


def test_whole_ids_where_there_is_room(
    store: Store, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run_id is cut only where a line would be too long, and only if the rest is its own."""
    for letter in "ab":
        begun(store, f"20261122T020500Z-{letter}", 2, "j")
        record(store, outcome(0), run_id=f"20261122T020500Z-{letter}")
        store.finish(f"20261122T020500Z-{letter}", RunEnd(NIGHT, 0))
    history.runs(Common(ledger=url), job=None, limit=20, as_json=False)
    whole = [
        "run                 start         job  targets  left  state    note",
        "20261122T020500Z-b  Nov 22 03:05  j          2     1  stopped",
        "20261122T020500Z-a  Nov 22 03:05  j          2     1  stopped",
    ]
    assert shown(capsys)[0] == whole
    monkeypatch.setenv("COLUMNS", "50")
    history.runs(Common(ledger=url), job=None, limit=20, as_json=False)
    assert shown(capsys)[0] == [whole[0][:49] + "…", whole[1][:49] + "…", whole[2][:49] + "…"]


@pytest.mark.parametrize("name", ["nightly-cleanup-of-the-whole-northern-fleet-and-more", "n"])
@pytest.mark.parametrize("count", [2, 200])
def test_every_line_fits(
    store: Store, url: str, name: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """However long the name, however much there is to tell: 80 columns, one line a run."""
    begun(store, "20261122T020500Z-aaaaaa", count, name)
    kinds = [kind for kind in OutcomeKind if kind is not OutcomeKind.NOT_ATTEMPTED]
    entries = [outcome(at, kinds[at % len(kinds)].value) for at in range(count - 1)]
    record(store, *entries, run_id="20261122T020500Z-aaaaaa")
    end = RunEnd(NIGHT + 9, 4, verified=Verified(1, 2, 3))
    store.finish("20261122T020500Z-aaaaaa", end, Rehearsal("calm", 1))
    history.runs(Common(ledger=url), job=None, limit=20, as_json=False)
    lines, _ = shown(capsys)
    assert (len(lines), max(map(len, lines)) <= 80) == (2, True)
    assert lines[1].startswith("20261122T020500Z  Nov 22 03:05  n")


def test_some_of_them(store: Store, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """So many, of one job; that there are more is said beside the result."""
    for number, name in enumerate("abab"):
        begun(store, f"r{number}", 2, name)
    asked: tuple[tuple[str | None, int, list[str], str], ...] = (
        (None, 20, ["r3", "r2", "r1", "r0"], ""),
        ("a", 20, ["r2", "r0"], ""),
        ("b", 1, ["r3"], "there are earlier runs: --limit 2 lists more of them\n"),
    )
    for job, limit, ids, said in asked:
        history.runs(Common(ledger=url), job=job, limit=limit, as_json=False)
        lines, err = shown(capsys)
        assert ([line.split()[0] for line in lines[1:]], err) == (ids, said)


def test_no_runs(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty ledger is named: it may be the wrong one."""
    asked: tuple[tuple[str | None, str], ...] = ((None, "no runs"), ("j", "no runs of job j"))
    for job, said in asked:
        history.runs(Common(ledger=url), job=job, limit=20, as_json=False)
        assert shown(capsys) == ([f"{said} in ledger {tmp_path}/ledger.db"], "")
    history.runs(Common(ledger=url), job=None, limit=20, as_json=True)
    assert shown(capsys) == (["[]"], "")


def test_document(store: Store, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The first start, what is left, each outcome, and whether anything was real."""
    begun(store, "r1", 3)
    record(store, outcome(0), outcome(1, "cancelled", "1"), run_id="r1")
    store.start("r1", NIGHT + 5000)
    ended = RunEnd(NIGHT + 9000, 143, stop=Stop("signal", "SIGTERM received", 15))
    store.finish("r1", ended, Rehearsal("calm", 7, truth_matches=True))
    history.runs(Common(ledger=url), job=None, limit=20, as_json=True)
    counts = {"nothing_cached": 1, "cancelled": 1, "not_attempted": 1}
    assert json.loads(capsys.readouterr().out) == [
        {
            "run_id": "r1",
            "job": "nightly",
            "state": "stopped",
            "rehearsal": {
                "profile": "calm",
                "seed": 7,
                "truth_matches": True,
                "differences": [],
            },
            "started_at": "2026-11-22T02:05:01.000Z",
            "finished_at": "2026-11-22T02:05:09.000Z",
            "targets": 3,
            "left": 1,
            "outcomes": {kind.value: counts.get(kind.value, 0) for kind in OutcomeKind},
            "exit_code": 143,
        }
    ]


def test_find(store: Store, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By any name; a rehearsal only when asked for, and marked; 3 when there is nothing."""
    for run_id in ("real", "tried"):
        begun(store, run_id, 2, rehearsal=run_id == "tried")
        record(store, outcome(0, "cancelled", "7"), run_id=run_id, now_ms=NIGHT)
    line = (
        "job=nightly  productKey=p  deviceKey=d0  outcome=cancelled  at=2026-11-22T02:05:00.000Z"
        "  commandId=7  result=cancelled"
    )
    common = Common(ledger=url)
    assert history.find("deviceKey=d0", common, rehearsals=False, as_json=False) == 0
    assert shown(capsys) == ([f"run_id=real  {line}"], "")
    assert history.find("commandId=7", common, rehearsals=True, as_json=False) == 0
    assert shown(capsys) == ([f"REHEARSAL  run_id=tried  {line}", f"run_id=real  {line}"], "")
    assert history.find("assetId=d0", common, rehearsals=True, as_json=False) == 3
    said = f"no run in ledger {tmp_path}/ledger.db touched assetId=d0"
    assert shown(capsys) == ([said], "")
    assert history.find("assetId=d0", common, rehearsals=True, as_json=True) == 3
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "found": []}
    assert history.find("deviceKey=d0", common, rehearsals=False, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["found"] == [
        {
            "run_id": "real",
            "job": "nightly",
            "rehearsal": False,
            "productKey": "p",
            "deviceKey": "d0",
            "assetId": None,
            "outcome": "cancelled",
            "at": "2026-11-22T02:05:00.000Z",
            "commandId": "7",
            "result": "cancelled",
        }
    ]
    for wrong in ("d0", "deviceKey=", "productKey=p"):
        with pytest.raises(UsageError, match=r"write commandId=…, deviceKey=… or assetId=…"):
            history.find(wrong, common, rehearsals=False, as_json=False)
