"""What answers look like: envelopes, plain messages, failures, and replies that break off."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from worker.simulator.faults import Fault

_JSON = "application/json;charset=UTF-8"
_PAGE = b"<html><head><title>%d</title></head><body>upstream failure</body></html>"


class Answer(Struct, frozen=True):
    """What goes back, and how much of it."""

    status: int
    body: bytes
    headers: dict[str, str] = {}
    wait: float = 0.0  # s, scaled
    loss: Literal["none", "reset", "cut"] = "none"
    hard: bool = False  # a reset by RST
    cut: float = 1.0  # share of the body that is sent


class CallRefusedError(Exception):
    """A call turned down with a code of the envelope."""

    def __init__(self, code: int, msg: str, submsg: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.msg = msg
        self.submsg = submsg


def envelope(code: int, msg: str, requestId: str, submsg: str | None = None) -> dict[str, Any]:
    """The head that every reply of the connect service has; `submsg` comes and goes."""
    head: dict[str, Any] = {"code": code, "msg": msg}
    if submsg is not None or code == 0:
        head["submsg"] = submsg
    return {**head, "requestId": requestId}


def reply(said: dict[str, Any]) -> Answer:
    return Answer(200, msgspec.json.encode(said), {"Content-Type": _JSON})


def message(status: int, text: str) -> Answer:
    """An answer that is not the envelope."""
    return Answer(status, msgspec.json.encode({"message": text}), {"Content-Type": _JSON})


def failing(fault: Fault, requestId: str) -> Answer:
    """A server error in one of its shapes: an envelope, or a page of whoever stands between."""
    if fault.error == "99500":
        return reply({**envelope(99500, "server error", requestId, "try later"), "data": None})
    status = int(fault.error)
    if status == 500:
        body = msgspec.json.encode(envelope(99500, "server error", requestId))
        return Answer(status, body, {"Content-Type": _JSON})
    headers = {"Content-Type": "text/html"}
    if status == 503 and fault.retry_after is not None:
        headers["Retry-After"] = str(fault.retry_after)
    return Answer(status, _PAGE % status, headers)


def broken(answer: Answer, fault: Fault, wait: float) -> Answer:
    """The answer after what the fault does to its way back."""
    if fault.kind in ("reset_before", "reset_after"):
        return msgspec.structs.replace(answer, wait=wait, loss="reset", hard=fault.hard)
    if fault.kind == "truncated":
        return msgspec.structs.replace(answer, wait=wait, loss="cut", cut=fault.cut)
    return msgspec.structs.replace(answer, wait=wait)
