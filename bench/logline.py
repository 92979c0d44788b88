"""What a log line costs, beside structlog in the JSON form that its documentation shows."""

from __future__ import annotations

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from bench.goals import Line, at_least
from bench.rounds import spread
from worker.clock import SystemClock
from worker.observe.log import open_log

_BOUND = {"run_id": "20261122T020500Z-k3f9ab", "job": "bench", "orgId": "o15541858646501"}
_FIELDS = {
    "productKey": "bXuuAiku",
    "deviceKey": "mqtt_01",
    "assetId": "oxWwM9i5",
    "commandId": "2278935391225618432",
    "requestId": "7d86a1b2c3d4",
    "name": "Int_value",
    "type": 1,
    "created_at": "2026-11-22T02:05:00.123Z",
    "attempt": 1,
    "evidence": "response",
}


def log_lines(rounds: int, lines: int) -> Line:
    """Goal 9: CPU of the whole process a line, ours to theirs."""
    pairs = []
    with TemporaryDirectory() as folder:
        for number in range(rounds):
            ours = _ours(Path(folder, f"ours{number}"), lines)
            pairs.append(_theirs(Path(folder, f"theirs{number}"), lines) / ours)
    return at_least("9 a log line: structlog's JSON form to ours, CPU", spread(pairs), 3)


def _ours(path: Path, lines: int) -> float:
    log = open_log(file=str(path), clock=SystemClock())
    logger = log.record.bind(**_BOUND)
    began = time.process_time()
    for _ in range(lines):
        logger.info("command.cancelled", **_FIELDS)
    log.close(60)
    return time.process_time() - began


def _theirs(path: Path, lines: int) -> float:
    with path.open("w") as file:
        logger = structlog.wrap_logger(
            structlog.WriteLogger(file),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(20),
        ).bind(**_BOUND)
        began = time.process_time()
        for _ in range(lines):
            logger.info("command.cancelled", **_FIELDS)
        file.flush()
        os.fsync(file.fileno())
        return time.process_time() - began
