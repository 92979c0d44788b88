"""The JSON Schema of a log line (`schema log`).

Apart from the events because it is a promise to shippers: one table of fields an event, and a
test that holds every line that a run can write against it.
"""

from __future__ import annotations

from typing import Any

from worker.model import OutcomeKind
from worker.observe import runlog

SCHEMA_VERSION = 1

_TEXT: dict[str, Any] = {"type": "string"}
_TEXT_OR_NULL: dict[str, Any] = {"type": ["string", "null"]}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_INT_OR_NULL: dict[str, Any] = {"type": ["integer", "null"]}
_SECONDS: dict[str, Any] = {"type": "number", "minimum": 0, "description": "seconds"}
_TEXTS: dict[str, Any] = {"type": "array", "items": _TEXT}
_COUNTS: dict[str, Any] = {"type": "object", "additionalProperties": _COUNT}
_MOMENT: dict[str, Any] = {"type": "string", "format": "date-time"}
_DEVICE = {"productKey": _TEXT_OR_NULL, "deviceKey": _TEXT_OR_NULL, "assetId": _TEXT_OR_NULL}

_EVENTS: dict[str, dict[str, dict[str, Any]]] = {
    runlog.COMMAND_CANCELLED: {
        **_DEVICE,
        "commandId": _TEXT,
        "requestId": _TEXT_OR_NULL,
        "name": _TEXT_OR_NULL,
        "type": _INT_OR_NULL,
        "created_at": {"type": ["string", "null"], "description": "the gateway's clock"},
        "attempt": _COUNT,
        "evidence": {"enum": ["response", "search", None]},
    },
    runlog.TARGET_SETTLED: {
        **_DEVICE,
        "outcome": {"enum": [kind.value for kind in OutcomeKind]},
        "commandIds": _TEXTS,
        "attempts": _COUNT,
        "http_status": _INT_OR_NULL,
        "code": _INT_OR_NULL,
        "requestId": _TEXT_OR_NULL,
        "duration_ms": _INT_OR_NULL,
        "cause": _TEXT_OR_NULL,
    },
    runlog.TARGETS_SUPPRESSED: {"targets": _COUNT, "codes": _COUNTS},
    runlog.RUN_STARTED: {
        "targets": _COUNT,
        "digest": _TEXT,
        "gateway": _TEXT,
        "actor": _TEXT,
        "version": _TEXT,
        "resumed": {"type": "boolean"},
        "rehearsal": _TEXT_OR_NULL,
    },
    runlog.CLOCKS_APART: {"seconds": _SECONDS},
    runlog.RUN_PAUSED: {"seconds": _SECONDS, "cause": _TEXT},
    runlog.RUN_STOPPING: {
        "rule": _TEXT,
        "count": _COUNT,
        "of": _COUNT,
        "message": _TEXT,
        "requestIds": _TEXTS,
    },
    runlog.RUN_FINISHED: {
        "exit_code": _COUNT,
        "exit_reasons": _TEXTS,
        "rule": _TEXT_OR_NULL,
        "outcomes": _COUNTS,
        "requests": _COUNTS,
        "log_dropped": _COUNT,
    },
    runlog.RUN_EMPTY: {},
    runlog.REQUEST_RETRIED: {
        **_DEVICE,
        "attempt": _COUNT,
        "wait_s": _SECONDS,
        "cause": _TEXT,
        "http_status": _INT_OR_NULL,
        "code": _INT_OR_NULL,
        "requestId": _TEXT_OR_NULL,
    },
    runlog.INTERNAL_ERROR: {**_DEVICE, "kind": _TEXT},
    runlog.GATEWAY_THROTTLED: {
        "http_status": _COUNT,
        "wait_s": _SECONDS,
        "concurrency": _COUNT,
        "retry_after": {"type": ["number", "null"]},
        "requestId": _TEXT_OR_NULL,
    },
}


def log_schema() -> dict[str, Any]:
    """The schema of one line; it names every event of a run and every field of each."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of cancel-worker's log",
        "description": f"Version {SCHEMA_VERSION}. Keys stand in this order.",
        "oneOf": [_line(event, fields) for event, fields in _EVENTS.items()],
    }


def _line(event: str, fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
    properties = {
        "timestamp": _MOMENT,
        "level": {"enum": ["debug", "info", "warning", "error"]},
        "event": {"const": event},
        "run_id": _TEXT,
        "job": _TEXT,
        "orgId": _TEXT,
        **fields,
    }
    return {
        "title": event,
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
