"""A ledger with a past: runs that ended in every way, and all that it answers about them.

`python -m tests.ledger.history FILE` writes such a ledger with the code as it is. The files
`schema_N.sqlite` were made so by the last version of schema N, and `schema_N.json` holds the
answers which that version gave.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from tests.ledger.plans import Staged, claim, mark, new_run, outcome, put_off, record, staged, told
from worker.ledger.entry import Entry, NewRun
from worker.ledger.store import Store
from worker.model import (
    Command,
    CommandResult,
    Identity,
    OutcomeKind,
    Rehearsal,
    Requests,
    RunEnd,
    Spent,
    Stop,
    Verified,
)

# As `cli.terms` wrote it with schema 1.
SETTINGS = {
    "limits": {
        "concurrency": 16,
        "rate": 50.0,
        "max_devices": 5000,
        "max_commands": 100,
        "min_devices": None,
        "deadline": 2700.0,
    },
    "verify": "touched",
    "verify_written": True,
    "abort": {"failed": 0.05, "min_sample": 50, "consecutive": 20},
    "sources": [
        {"file": "jobs/nightly.yaml", "sha256": "ab" * 32, "rows": 5},
        {"file": "jobs/fleet.csv", "sha256": "cd" * 32, "rows": 3},
    ],
    "limit": None,
    "settings": {"limits.rate": "50/s", "ledger.keep_input": True},
}

FINISHED = "20261101T020000Z-aaaaaa"
UNCERTAIN = "20261102T020000Z-bbbbbb"
INTERRUPTED = "20261103T020000Z-cccccc"
LISTED = "20261104T020000Z-dddddd"
REHEARSED = "20261105T020000Z-eeeeee"
PLANNED = "20261106T020000Z-ffffff"
RUNS = (FINISHED, UNCERTAIN, INTERRUPTED, LISTED, REHEARSED, PLANNED)
DAY = 86_400_000
FIRST = 1_793_498_400_000  # 2026-11-01T02:00:00Z


def write(store: Store) -> None:
    """Every run from its plan to wherever it came."""
    _finished(store)
    _uncertain(store)
    _interrupted(store)
    _listed(store)
    _rehearsed(store)
    _plan(store, _head(PLANNED, 5, job="weekly"), ["a", "z"])


def answers(store: Store) -> dict[str, Any]:
    """All that can be asked of the ledger, as plain values of JSON."""
    asked: dict[str, Any] = {
        "runs": store.runs(),
        "last": store.resolve("last").run_id,
        "last:nightly": store.resolve("last:nightly").run_id,
        "unfinished": {
            job: run and run.run_id
            for job in ("nightly", "weekly")
            for run in [store.unfinished(job)]
        },
        "found": {
            **{
                f"deviceKey={key}": store.find("deviceKey", key, rehearsals=True)
                for key in "abcdefgz"
            },
            **{f"assetId={one}": store.find("assetId", one, rehearsals=True) for one in "xz"},
            **{
                f"commandId={one}": store.find("commandId", str(one), rehearsals=True)
                for one in range(101, 112)
            },
        },
        "of": {run_id: _of(store, run_id) for run_id in RUNS},
    }
    plain: dict[str, Any] = msgspec.json.decode(
        json.dumps(msgspec.to_builtins(asked, builtin_types=(bytes,)), default=_text)
    )
    return plain


def _of(store: Store, run_id: str) -> dict[str, Any]:
    kinds = {kind: list(store.ordinals_with_outcome(run_id, [kind])) for kind in OutcomeKind}
    ids = [str(one) for one in range(101, 112)]
    return {
        "planned": store.planned(run_id),
        "counts": {kind: number for kind, number in store.counts(run_id).items() if number},
        "commands": store.commands(run_id),
        "in_doubt": store.in_doubt(run_id),
        "deferred": list(store.deferred(run_id)),
        "unclaimed": list(store.unclaimed(run_id)),
        "with_outcome": {kind: found for kind, found in kinds.items() if found},
        "last_pass": store.last_pass(run_id),
        "open_intents": sorted(
            [*msgspec.structs.astuple(device), since_ms]
            for device, since_ms in store.open_intents(run_id).items()
        ),
        "also_touched_by": store.also_touched_by(run_id).runs,
        "recorded_elsewhere": sorted(store.recorded_elsewhere(run_id, 0, ids, in_order_ms=2**62)),
        "rows": list(store.rows(run_id)),
    }


def _text(value: object) -> str:
    assert isinstance(value, bytes)
    return value.decode()


def shown(value: Any, deep: int = 0) -> str:
    """JSON for people: a list of objects has one a line, as has an object near the top."""
    inner, outer = "\n" + " " * (deep + 1), "\n" + " " * deep
    if isinstance(value, dict) and deep < 3:
        parts = [f"{json.dumps(name)}: {shown(each, deep + 1)}" for name, each in value.items()]
        return f"{{{inner}{f',{inner}'.join(parts)}{outer}}}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        parts = [json.dumps(each, ensure_ascii=False) for each in value]
        return f"[{inner}{f',{inner}'.join(parts)}{outer}]"
    return json.dumps(value, ensure_ascii=False)


def _head(run_id: str, day: int, *, job: str = "nightly", scope: str = "all_cached") -> NewRun:
    head = new_run(run_id, job, scope=scope, planned_ms=FIRST + day * DAY)
    return replace(head, settings=msgspec.json.encode(SETTINGS))


def _plan(store: Store, head: NewRun, names: list[str], ids: str | None = None) -> None:
    """Freeze a plan: the first five of the job file, the rest of an inventory."""
    rows: list[Staged] = [
        staged(name, 4 + index, source=int(index > 4), ids=ids) for index, name in enumerate(names)
    ]
    with store.draft() as draft:
        draft.add(rows)
        store.freeze(draft, head, ["jobs/nightly.yaml", "jobs/fleet.csv"])


def _start(store: Store, head: NewRun, names: list[str], ids: str | None = None) -> int:
    """The plan, started a minute later; the moment of the start."""
    _plan(store, head, names, ids)
    started_ms = head.planned_ms + 60_000
    store.start(head.run_id, started_ms)
    return started_ms


def _finished(store: Store) -> None:
    """A run that ended well, of two sources, with a target by its assetId."""
    at = _start(store, _head(FINISHED, 0), ["a", "b", "c", "d", "@x", "e", "f"])
    claim(store, 4, run_id=FINISHED, now_ms=at + 100)
    claim(store, 4, run_id=FINISHED, now_ms=at + 200)
    said = Command(
        "101",
        orgId="o1",
        productKey="p",
        deviceKey="a",
        created_ms=at - 5000,
        type=2,
        name="reboot",
        tslIdentifier="reboot",
        state=2,
        timeout=30,
        pendingTtl=86400,
        inputData=b'{"delay":5}',
    )
    whole = CommandResult(said, "cancelled", "response", "req-1", 1)
    entries = [
        Entry(0, 1, (whole, told("102", created_ms=at - 4000)), outcome(0, "cancelled").verdict),
        outcome(1),
        outcome(2, "not_found", code=99404, message="no such device"),
        outcome(3, "rejected", code=99400, cause="bad_request"),
        outcome(4, "cancelled", "103", identity=Identity("p", "x", "x")),
        outcome(5, "failed", cause="throttled", http_status=429, attempts=4),
        outcome(6),
    ]
    record(store, *entries, run_id=FINISHED, now_ms=at + 900)
    end = RunEnd(
        at + 1000,
        3,
        ("1 failed, 1 not_found, 1 rejected",),
        verified=Verified(2, 0, 1),
        reports={"out.ndjson": "ef" * 32},
    )
    spent = Spent(Requests(cancel=11, search=2, retried=4), 1000)
    store.finish(FINISHED, end, spent=spent)


def _uncertain(store: Store) -> None:
    """A run that was stopped: unknown, incomplete, anomalous, a clash of ids."""
    at = _start(store, _head(UNCERTAIN, 1), ["a", "b", "c", "d", "@x", "e", "f"])
    claim(store, 6, run_id=UNCERTAIN, now_ms=at + 100)
    entries = [
        mark(0, first=at + 110, last=at + 120),
        Entry(1, 1, (told("104"),), mark(1, first=at + 110, last=at + 130).verdict),
        outcome(2, "cancelled", "105", evidence="search", tainted=True),
        outcome(3, "anomalous", "105", identity=Identity("p", "other")),
    ]
    record(store, *entries, run_id=UNCERTAIN, now_ms=at + 500)
    entries = [
        outcome(0, "unknown", cause="disconnected", tainted=True, evidence=None),
        outcome(1, "cancelled_incomplete", "104", cause="disconnected", tainted=True),
    ]
    record(store, *entries, run_id=UNCERTAIN, now_ms=at + 600)
    stop = Stop("anomaly", "other_device", 1, 4, ("req-1",))
    end = RunEnd(at + 1000, 5, ("anomaly",), stop=stop)
    store.finish(UNCERTAIN, end, spent=Spent(Requests(6), 1000))


def _interrupted(store: Store) -> None:
    """A run that was killed in its second pass, after a first that put targets off."""
    at = _start(store, _head(INTERRUPTED, 2, job="weekly"), ["a", "b", "c", "d", "@x", "e", "g"])
    claim(store, 5, run_id=INTERRUPTED, now_ms=at + 100)
    entries = [
        outcome(0, "cancelled", "106"),
        put_off(1),
        put_off(2),
        mark(3, first=at + 90, last=at + 150),
        Entry(4, 1, (told("107"),)),
    ]
    record(store, *entries, run_id=INTERRUPTED, now_ms=at + 400)
    claim(store, run_id=INTERRUPTED, pass_no=2, members=(1,), now_ms=at + 10_000)
    store.start(INTERRUPTED, at + 3_600_000)


def _listed(store: Store) -> None:
    """A run of listed commands; some were too late."""
    head = _head(LISTED, 3, scope="listed")
    at = _start(store, head, ["a", "b", "c"], ids="108 109")
    claim(store, 3, run_id=LISTED, now_ms=at + 100)
    late = tuple(told(one, "not_cached", state=5) for one in ("108", "109"))
    entries = [
        Entry(0, 1, late, outcome(0, "too_late").verdict),
        outcome(1, "cancelled", "110"),
        outcome(2, "nothing_matched"),
    ]
    record(store, *entries, run_id=LISTED, now_ms=at + 300)
    store.finish(LISTED, RunEnd(at + 1000, 3, ("1 too_late",)), spent=Spent(Requests(5), 1000))


def _rehearsed(store: Store) -> None:
    """A rehearsal: its ids are invented."""
    calm = Rehearsal("calm", 7)
    at = _start(store, replace(_head(REHEARSED, 4), rehearsal=calm), ["a", "b"])
    claim(store, 2, run_id=REHEARSED, now_ms=at + 100)
    record(store, outcome(0, "cancelled", "111"), outcome(1), run_id=REHEARSED, now_ms=at + 200)
    told = replace(calm, truth_matches=True)
    store.finish(REHEARSED, RunEnd(at + 300, 0), told, Spent(active_ms=300))


def main(path: Path) -> None:
    """Write the ledger, with nothing left in side files, and its answers beside it."""
    store = Store.open(f"sqlite:///{path}")
    write(store)
    told = shown(answers(store))
    store.close()
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()
    path.with_suffix(".json").write_text(told + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
