"""One run that shows everything: its head, its end and a row of every interesting kind."""

from __future__ import annotations

import pytest

from worker.model import (
    AllCached,
    Command,
    CommandResult,
    Identity,
    Listed,
    OutcomeKind,
    ReportRow,
    Requests,
    RunEnd,
    RunRecord,
    Spent,
    Stop,
    Verified,
)

CREATED = 1_795_313_100_123  # 2026-11-22T02:05:00.123Z


@pytest.fixture
def record() -> RunRecord:
    return RunRecord(
        run_id="20261122T020500Z-k3f9ab",
        job="nightly-cleanup",
        reason="CHG-1042: firmware window",
        actor="ann@host",
        orgId="o1",
        gateway="production https://apim.example.com",
        scope="all_cached",
        digest="d" * 64,
        version="0.1",
        planned_ms=CREATED,
        targets=3,
        settings=b"{}",
        state="finished",
        started_ms=CREATED,
        first_started_ms=CREATED,
        end=RunEnd(
            finished_ms=CREATED + 12_500,
            exit_code=5,
            exit_reasons=("stopped for safety: forbidden", "unknown: 1"),
            stop=Stop("forbidden", "orgId o1 is refused", 20, 20, ("req-1", "req-2")),
            verified=Verified(targets=2, still_cached=0, newer=1),
            log_dropped=7,
            reports={"old.csv": "a" * 64},
        ),
        spent=Spent(Requests(cancel=4, search=2, retried=1), 12_500),
    )


@pytest.fixture
def rows() -> list[ReportRow]:
    cancelled = CommandResult(
        command=Command(
            commandId="2278935391225618432",
            orgId="o1",
            productKey="bXuuAiku",
            deviceKey="=1+1",
            assetId="oxWwM9i5",
            created_ms=CREATED,
            type=2,
            name="reboot",
            tslIdentifier="reboot",
            state=2,
            timeout=30,
            pendingTtl=172_800,
            inputData=b'{"delay": 1.10,\n "n": 12345678901234567890}',
        ),
        result="cancelled",
        evidence="response",
        requestId="req-7",
        attempt=1,
    )
    gone = CommandResult(Command("11"), "not_cached", "search", None, 1)
    left = CommandResult(Command("12"), "unknown", None, None, 2)
    return [
        ReportRow(
            ordinal=0,
            orgId="o1",
            productKey="bXuuAiku",
            deviceKey="=1+1",
            assetId=None,
            outcome=OutcomeKind.CANCELLED,
            cause=None,
            attempts=1,
            evidence="response",
            http_status=200,
            code=0,
            message=None,
            requestId="req-7",
            duration_ms=41,
            source="jobs/a.yaml:9",
            scope=AllCached(),
            commands=(cancelled,),
            told=Identity("bXuuAiku", "=1+1", "oxWwM9i5"),
        ),
        ReportRow(
            ordinal=1,
            orgId="o1",
            productKey=None,
            deviceKey=None,
            assetId='a "b", c',
            outcome=OutcomeKind.UNKNOWN,
            cause="disconnected",
            attempts=2,
            evidence=None,
            http_status=None,
            code=None,
            message="line one\rline two\nline three",
            requestId=None,
            duration_ms=30_000,
            source="fleet.csv:3",
            scope=Listed(("10", "11", "12")),
            commands=(gone, left),
        ),
        ReportRow(
            ordinal=2,
            orgId="o1",
            productKey="012345",
            deviceKey="+-@设备 1",
            assetId=None,
            outcome=OutcomeKind.NOT_ATTEMPTED,
            cause="aborted",
            attempts=0,
            evidence=None,
            http_status=None,
            code=None,
            message=None,
            requestId=None,
            duration_ms=None,
            source="fleet.csv:4",
            scope=AllCached(),
        ),
    ]
