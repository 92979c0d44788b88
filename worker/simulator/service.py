"""What each call is answered, without a socket: checks in the gateway's order, then the effect.

The order: route and method, token and signature, rate limit, fault, parameters, organization,
device, permission, effect. An effect happens at once; a fault decides what its caller learns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from worker.model import Device
from worker.simulator.answers import (
    Answer,
    CallRefusedError,
    broken,
    envelope,
    failing,
    message,
    reply,
)
from worker.simulator.chance import Dice, key64
from worker.simulator.commands import CREATED, show
from worker.simulator.expressions import read_command_filter, read_device_filter
from worker.simulator.faults import NO_FAULT, Fault
from worker.simulator.fleet import Known
from worker.simulator.paging import cut_page
from worker.simulator.requests import Call, read_object
from worker.simulator.signature import TOLERANCE_MS, expected_signature, same
from worker.simulator.truth import Delivery
from worker.simulator.world import World

_BAD_ARGUMENT, _DENIED, _NO_DEVICE = 99400, 99403, 99404
_DELIVERY: Mapping[str, Delivery] = {
    "reset_after": "lost",
    "error_after": "lost",
    "truncated": "cut",
}
_DEVICE_FIELDS = ("orgId", "productKey", "deviceKey", "assetId", "status", "deviceSecret")


class Service:
    """The gateway's answers over one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._replies = 0
        self._throttled = 0

    def key_of(self, call: Call) -> int:
        """The device that a call is about; 0 for none."""
        return self._world.fleet.key_of(call.orgId, call.device) if call.device else 0

    def answer(self, call: Call) -> Answer:
        """Execute the call and say what goes back."""
        answer = self._answer(call)
        self._world.book.answers[answer.status if answer.loss == "none" else 0] += 1
        return answer

    def _answer(self, call: Call) -> Answer:
        if call.kind == "other":
            return message(404, "no route matched with those values")
        if call.ask.method != call.method:
            return message(405, "method not allowed")
        if call.kind in ("token", "refresh"):
            return self._suffer(self._world.fault("token", 0), lambda: self._token(call))
        refused = self._unauthorized(call) or self._throttle()
        if refused:
            return refused
        self._note_stray(call)
        fault = self._world.fault(call.kind, self.key_of(call) or key64(call.ask.query))
        delivery = _DELIVERY.get(fault.kind, "told")
        return self._suffer(fault, lambda: self._effect(call, delivery))

    def _suffer(self, fault: Fault, effect: Callable[[], Answer]) -> Answer:
        """The answer as the fault leaves it."""
        if fault is NO_FAULT:
            return effect()
        self._world.book.suffer(fault.kind, slow=fault.wait > 0)
        wait = fault.wait * self._world.scale
        spared = fault.kind in ("reset_before", "error_before")
        answer = Answer(0, b"") if spared else effect()
        if fault.kind in ("error_before", "error_after"):
            answer = failing(fault, self._request_id())
            self._promise(answer)
        return broken(answer, fault, wait)

    # ------------------------------------------------------------ who may come in, and when

    def _token(self, call: Call) -> Answer:
        body = read_object(call.ask.body)
        if body is None:
            return reply({"status": 1004, "msg": "the body is not a JSON object"})
        tokens = self._world.tokens
        result = tokens.get(body) if call.kind == "token" else tokens.refresh(body)
        said: dict[str, Any] = {
            "status": result.status,
            "msg": result.msg,
            "business": "apim-token",
        }
        return reply(said if result.data is None else {**said, "data": result.data})

    def _unauthorized(self, call: Call) -> Answer | None:
        headers, world = call.ask.headers, self._world
        token = headers.get("apim-accesstoken", "")
        timestamp = headers.get("apim-timestamp", "")
        signature = headers.get("apim-signature", "")
        if not world.tokens.alive(token):
            return self._stale()
        expected = expected_signature(token, call.pairs, call.ask.body, timestamp, world.secret_key)
        if not same(signature, expected):
            return message(401, "bad signature")
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16):
            return message(401, "bad timestamp")
        if abs(int(timestamp) - world.now_ms()) > TOLERANCE_MS:
            return message(401, "timestamp too far from the gateway's clock")
        if world.replays is not None and not world.replays.first_time(signature):
            world.book.replays += 1
            return message(401, "signature was used before")
        return None if world.tokens.use(token) else self._stale()

    def _stale(self) -> Answer:
        if self._world.profile.stale_as_code:
            return reply(envelope(1203, "token expired", self._request_id()))
        return message(401, "token is missing, expired or unknown")

    def _throttle(self) -> Answer | None:
        world = self._world
        if world.bucket.admit():
            return None
        self._throttled += 1
        answer = message(429, "API rate limit exceeded")
        profile = world.profile
        drawn = Dice("throttle", world.seed, self._throttled).share()
        if profile.retry_after is not None and drawn < profile.retry_after_share:
            seconds = max(1, math.ceil(profile.retry_after * world.scale))
            answer.headers["Retry-After"] = str(seconds)
        self._promise(answer)
        return answer

    def _promise(self, answer: Answer) -> None:
        if "Retry-After" in answer.headers:
            self._world.book.promise_quiet(float(answer.headers["Retry-After"]))

    def _note_stray(self, call: Call) -> None:
        world = self._world
        if call.device is None or world.any_device:
            return
        key, wanted = self.key_of(call), call.commandId
        if not world.fleet.names(key):
            world.book.stray(f"a {call.kind} for a device that no job names: {call.device}")
        elif call.kind == "cancel" and not world.fleet.asked_for(key, wanted):
            what = f"command {wanted}" if wanted else "all commands"
            world.book.stray(f"a cancel of {what}, which no job names, of {call.device}")

    # ------------------------------------------------------------ what it does

    def _effect(self, call: Call, delivery: Delivery) -> Answer:
        try:
            self._admit(call)
            if call.device is None:
                found = self._devices(call)
            elif call.kind == "cancel":
                found = {"data": self._cancel(call, call.device, delivery)}
            elif call.kind == "search":
                found = self._search(call, call.device)
            else:
                found = {"data": self._get(call, call.device)}
        except CallRefusedError as refused:
            answer = envelope(refused.code, refused.msg, self._request_id(), refused.submsg)
            return reply({**answer, "data": None})
        plain = self._replies % 2 == 0
        return reply(envelope(0, "OK" if plain else "Success", self._request_id()) | found)

    def _admit(self, call: Call) -> None:
        world, key = self._world, self.key_of(call)
        if call.problem:
            raise CallRefusedError(_BAD_ARGUMENT, "invalid argument", call.problem)
        if call.orgId not in world.orgs:
            raise CallRefusedError(_BAD_ARGUMENT, "invalid argument", f"unknown orgId {call.orgId}")
        if call.device is not None and not world.fleet.has(key):
            raise CallRefusedError(world.no_device_code, "device not found")
        if not world.allowed(call.orgId, key):
            raise CallRefusedError(_DENIED, "no permission")

    def _cancel(self, call: Call, device: Device, delivery: Delivery) -> list[dict[str, Any]]:
        found = self._world.cancel(call.orgId, device, call.commandId, delivery)
        known = self._world.fleet.look(call.orgId, device)
        if known is None:
            return []
        return [show(self._world.seed, known.who, command, CREATED) for command in found]

    def _search(self, call: Call, device: Device) -> dict[str, Any]:
        body = _body(call)
        try:
            conditions = read_command_filter(_text(body, "expression"))
        except ValueError as problem:
            raise CallRefusedError(_BAD_ARGUMENT, "invalid argument", str(problem)) from None
        found = self._world.search(call.orgId, device, conditions)
        known = self._world.fleet.look(call.orgId, device)
        shown, pagination = cut_page(found, body.get("pagination"), usual=100, most=100)
        data = [show(self._world.seed, known.who, c, state) for c, state in shown] if known else []
        return {"data": data, "pagination": pagination}

    def _get(self, call: Call, device: Device) -> dict[str, Any] | None:
        command = self._world.get(call.orgId, device, call.commandId or "")
        known = self._world.fleet.look(call.orgId, device)
        if command is None or known is None:
            return None
        return show(self._world.seed, known.who, command, command.state)

    def _devices(self, call: Call) -> dict[str, Any]:
        body = _body(call)
        try:
            cases = read_device_filter(_text(body, "expression"))
        except ValueError as problem:
            raise CallRefusedError(_BAD_ARGUMENT, "invalid argument", str(problem)) from None
        projection = body.get("projection")
        fields = _DEVICE_FIELDS if projection is None else projection
        if not isinstance(fields, (list, tuple)):
            raise CallRefusedError(_BAD_ARGUMENT, "invalid argument", "projection is not a list")
        found = self._world.fleet.find(call.orgId, cases)
        shown, pagination = cut_page(found, body.get("pagination"), usual=10, most=200)
        return {"data": [_project(known, fields) for known in shown], "pagination": pagination}

    def _request_id(self) -> str:
        self._replies += 1
        return f"{key64(self._world.seed, 'request', self._replies):016x}"


def _body(call: Call) -> dict[str, Any]:
    body = read_object(call.ask.body)
    if body is None:
        raise CallRefusedError(_BAD_ARGUMENT, "invalid argument", "the body is not a JSON object")
    return body


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise CallRefusedError(_BAD_ARGUMENT, "invalid argument", f"{name} is not a string")
    return value


def _project(known: Known, fields: Any) -> dict[str, str]:
    everything = {
        **msgspec.structs.asdict(known.who),
        "status": known.status,
        "deviceSecret": f"device-secret-{known.key:016x}",
    }
    return {field: everything[field] for field in fields if field in everything}
