"""What a run writes: every event, its fields, its level, and how many of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.model import (
    AllCached,
    AssetId,
    Command,
    CommandResult,
    DeviceKey,
    Identity,
    Outcome,
    OutcomeKind,
    Requests,
    RunEnd,
    Spent,
    Stop,
    Target,
)
from worker.observe import runlog
from worker.observe.log import Kept, memory_log
from worker.observe.runlog import RunLog
from worker.observe.schema import log_schema

TARGET = Target(0, DeviceKey("p1", "d1"), "o1", AllCached(), "jobs/a.yaml:9")
RESULT = CommandResult(
    Command(
        "2278935391225618432",
        orgId="o1",
        productKey="p1",
        deviceKey="d1",
        assetId="a1",
        created_ms=1_795_313_100_123,
        type=2,
        name="reboot",
        inputData=b'{"pin": 1234}',
    ),
    "cancelled",
    "response",
    "req-1",
    2,
)
VALIDATOR = jsonschema.Draft202012Validator(log_schema())
HEAD = {"run_id": "r1", "job": "nightly", "orgId": "o1"}
QUIET = ("nothing_cached", "nothing_matched", "not_found", "not_attempted")


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return 1_795_313_100_123

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def chance(self) -> float:
        return 0.5

    def new_run_id(self) -> str:
        return "r1"


def opened(level: str = "debug") -> tuple[RunLog, Kept, HandClock]:
    clock = HandClock()
    sink, kept = memory_log(clock, level)
    return RunLog(sink, clock, "r1", "nightly", "o1"), kept, clock


def said(kept: Kept) -> list[dict[str, Any]]:
    """The lines, without the timestamp that all share; each is held against the schema."""
    lines = [json.loads(line) for line in kept.lines]
    for line in lines:
        assert [error.message for error in VALIDATOR.iter_errors(line)] == []
        assert line.pop("timestamp") == "2026-11-22T02:05:00.123Z"
    return lines


def outcome(kind: OutcomeKind, **more: Any) -> Outcome:
    return Outcome(TARGET, kind, **more)


def tell(
    log: RunLog,
    commands: Sequence[tuple[Target, Identity, CommandResult]],
    outcomes: Sequence[Outcome],
) -> None:
    """What a commit made durable, commands first."""
    for target, identity, result in commands:
        known = Outcome(target, OutcomeKind.NOTHING_CACHED, told=identity)
        log.committed(target, [result], None if identity == Identity() else known)
    for settled in outcomes:
        log.committed(settled.target, [], settled)
    log.told()


def test_a_commit_says_what_was_cancelled_and_then_what_was_settled() -> None:
    """All fields in their order; inputData never."""
    log, kept, _ = opened()
    unknown = CommandResult(Command("9"), "unknown", None, None, 1)
    settled = outcome(
        OutcomeKind.CANCELLED,
        commands=(RESULT, unknown),
        told=Identity(assetId="a1"),
        attempts=2,
        http_status=200,
        code=0,
        requestId="req-1",
        duration_ms=41,
    )
    tell(log, [(TARGET, Identity(), RESULT), (TARGET, Identity(), unknown)], [settled])
    expected: list[dict[str, Any]] = [
        {"level": "info", "event": "command.cancelled"}
        | HEAD
        | {
            "productKey": "p1",
            "deviceKey": "d1",
            "assetId": "a1",
            "commandId": "2278935391225618432",
            "requestId": "req-1",
            "name": "reboot",
            "type": 2,
            "created_at": "2026-11-22T02:05:00.123Z",
            "attempt": 2,
            "evidence": "response",
        },
        {"level": "info", "event": "target.settled"}
        | HEAD
        | {
            "productKey": "p1",
            "deviceKey": "d1",
            "assetId": "a1",
            "outcome": "cancelled",
            "commandIds": ["2278935391225618432"],
            "attempts": 2,
            "http_status": 200,
            "code": 0,
            "requestId": "req-1",
            "duration_ms": 41,
            "cause": None,
        },
    ]
    assert [list(line.items()) for line in said(kept)] == [list(e.items()) for e in expected]
    assert b"1234" not in b"".join(kept.lines)


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_no_level_hides_a_cancelled_command(level: str) -> None:
    """Whoever wants few lines still gets every id."""
    log, kept, _ = opened(level)
    tell(log, [(TARGET, Identity(), RESULT)] * 500, [])
    assert [line["event"] for line in said(kept)] == ["command.cancelled"] * 500


def test_the_level_of_an_outcome_says_how_much_it_matters() -> None:
    """info for cancelled, debug for what did nothing, warning for the rest."""
    log, kept, _ = opened()
    tell(log, [], [outcome(kind) for kind in OutcomeKind])
    assert {line["outcome"]: line["level"] for line in said(kept)} == {
        kind.value: "info"
        if kind is OutcomeKind.CANCELLED
        else "debug"
        if kind.value in QUIET
        else "warning"
        for kind in OutcomeKind
    }


def test_a_command_of_another_device_is_logged_as_the_gateway_said_it() -> None:
    """Never mixed with the device that was asked for; what is merely missing is filled in."""
    log, kept, _ = opened()
    other = msgspec.structs.replace(
        RESULT, command=Command("1", orgId="o2", productKey="p2", deviceKey="d2")
    )
    bare = msgspec.structs.replace(RESULT, command=Command("2"))
    by_asset = msgspec.structs.replace(TARGET, device=AssetId("a1"))
    tell(
        log,
        [
            (TARGET, Identity(assetId="a1"), other),
            (TARGET, Identity(assetId="a1"), bare),
            (by_asset, Identity(), RESULT),
        ],
        [],
    )
    keys = ("orgId", "productKey", "deviceKey", "assetId")
    lines = [line for line in said(kept) if line["event"] == "command.cancelled"]
    assert [tuple(line[key] for key in keys) for line in lines] == [
        ("o2", "p2", "d2", None),
        ("o1", "p1", "d1", "a1"),
        ("o1", "p1", "d1", "a1"),
    ]


def test_the_first_hundred_warnings_of_a_code_are_written_in_full() -> None:
    """Then one line a minute counts; codes are counted apart, and no cancel is left out."""
    log, kept, clock = opened("warning")
    failed = outcome(OutcomeKind.FAILED, cause="refused")
    denied = outcome(OutcomeKind.REJECTED, cause="forbidden", code=99403)
    tell(log, [], [failed] * 150)
    tell(log, [], [denied] * 100)
    assert [line["event"] for line in said(kept)].count("target.settled") == 200
    before = len(kept.lines)
    clock.now += 59
    tell(log, [], [failed] * 7)
    assert len(kept.lines) == before
    clock.now += 1
    tell(log, [], [denied])
    line = {"level": "warning", "event": "targets.suppressed"} | HEAD
    assert said(kept)[before - 1 :] == [
        said(kept)[before - 1],
        line | {"targets": 8, "codes": {"refused": 7, "99403": 1}},
    ]
    assert said(kept)[100] == line | {"targets": 50, "codes": {"refused": 50}}


def test_the_last_suppressed_are_counted_before_the_run_is_finished() -> None:
    """No count is lost in the last minute; the sum is the number of targets."""
    log, kept, clock = opened()
    for _ in range(10):
        tell(log, [], [outcome(OutcomeKind.UNKNOWN, cause="disconnected")] * 37)
        clock.now += 5
    log.run_finished(RunEnd(1, 4, ("unknown: 370",)), {OutcomeKind.UNKNOWN: 370}, Spent())
    lines = said(kept)
    settled = sum(line["event"] == "target.settled" for line in lines)
    left_out = sum(line.get("targets", 0) for line in lines)
    assert (settled, settled + left_out, lines[-1]["event"]) == (100, 370, "run.finished")


def test_a_gateway_that_invents_codes_fills_no_memory() -> None:
    """Beyond a thousand codes the rest is counted as one."""
    log, kept, clock = opened()
    for code in range(1, 3001):
        tell(log, [], [outcome(OutcomeKind.UNKNOWN, code=code)])
    clock.now += 60
    tell(log, [], [])
    lines = said(kept)
    assert sum(line["event"] == "target.settled" for line in lines) == 1100
    assert sum(line.get("targets", 0) for line in lines) == 1900


def test_every_other_event_of_a_run() -> None:
    """Fields, order and level of each; the schema knows them all."""
    log, kept, _ = opened()
    log.run_started(targets=3, digest="d", gateway="g", actor="ann", version="0.1")
    log.run_paused(seconds=12, cause="retry_after")
    log.request_retried(TARGET, attempt=2, wait=0.5, cause="refused")
    log.gateway_throttled(http_status=429, wait=1.5, concurrency=8, retry_after=float("inf"))
    log.internal_error(TARGET, "KeyError")
    log.run_stopping(Stop("forbidden", "m" * 600, 20, 20, ("q" * 600,)))
    end = RunEnd(1, 5, ("stopped for safety: forbidden",), Stop("forbidden", "m"), log_dropped=2)
    log.run_finished(end, {OutcomeKind.CANCELLED: 1}, Spent(Requests(3, 2, 1), 900))
    log.run_empty()
    found = said(kept)
    assert [(line["event"], line["level"]) for line in found] == [
        ("run.started", "info"),
        ("run.paused", "warning"),
        ("request.retried", "info"),
        ("gateway.throttled", "warning"),
        ("internal.error", "error"),
        ("run.stopping", "warning"),
        ("run.finished", "info"),
        ("run.empty", "info"),
    ]
    rest = [{k: v for k, v in x.items() if k not in HEAD | {"level": 0, "event": 0}} for x in found]
    assert rest == [
        {
            "targets": 3,
            "digest": "d",
            "gateway": "g",
            "actor": "ann",
            "version": "0.1",
            "resumed": False,
            "rehearsal": None,
        },
        {"seconds": 12, "cause": "retry_after"},
        {
            "productKey": "p1",
            "deviceKey": "d1",
            "assetId": None,
            "attempt": 2,
            "wait_s": 0.5,
            "cause": "refused",
            "http_status": None,
            "code": None,
            "requestId": None,
        },
        {
            "http_status": 429,
            "wait_s": 1.5,
            "concurrency": 8,
            "retry_after": None,
            "requestId": None,
        },
        {"productKey": "p1", "deviceKey": "d1", "assetId": None, "kind": "KeyError"},
        {
            "rule": "forbidden",
            "count": 20,
            "of": 20,
            "message": "m" * 511 + "…",
            "requestIds": ["q" * 511 + "…"],
        },
        {
            "exit_code": 5,
            "exit_reasons": ["stopped for safety: forbidden"],
            "rule": "forbidden",
            "outcomes": {kind.value: int(kind.value == "cancelled") for kind in OutcomeKind},
            "requests": {"cancel": 3, "search": 2, "retried": 1},
            "log_dropped": 2,
        },
        {},
    ]


def test_the_schema_knows_exactly_the_events_that_exist() -> None:
    """An event without a promise to shippers, or a promise without an event, fails here."""
    constants = {v for k, v in vars(runlog).items() if k.isupper() and isinstance(v, str)}
    assert {line["title"] for line in log_schema()["oneOf"]} == constants


@given(st.text(st.characters()), st.integers(-(2**63), 2**63 - 1))
def test_whatever_a_gateway_says_stays_in_its_field(text: str, number: int) -> None:
    """One line a command and one a target, valid against the schema, never an exception."""
    log, kept, _ = opened()
    command = Command(text, text, text, text, text, number, number, text)
    told = CommandResult(command, "cancelled", "search", text, 1)
    identity = Identity(text, text, text)
    settled = outcome(OutcomeKind.ANOMALOUS, commands=(told,), told=identity, requestId=text)
    log.committed(TARGET, [told], settled)
    assert [line["event"] for line in said(kept)] == ["command.cancelled", "target.settled"]
    assert all(line.count(b"\n") == 1 for line in kept.lines)
