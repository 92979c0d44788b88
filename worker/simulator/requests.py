"""A request as it arrived, read into a call; what is wrong with it is kept, not raised.

The reading is strict: a parameter that is unknown, empty, doubled or missing is a problem, so
that a misspelled commandId can never turn into a cancel of everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from worker.model import AssetId, Device, DeviceKey
from worker.simulator.signature import read_query
from worker.simulator.truth import Kind

_COMMANDS = "/connect-service/v2.1/commands"
_DEVICES = "/connect-service/v2.1/devices"
_ROUTES: Mapping[tuple[str, str | None], tuple[Kind, str]] = {
    ("/apim-token-service/v2.0/token/get", None): ("token", "POST"),
    ("/apim-token-service/v2.0/token/refresh", None): ("refresh", "POST"),
    (_COMMANDS, "cancel"): ("cancel", "POST"),
    (_COMMANDS, "search"): ("search", "POST"),
    (_COMMANDS, "get"): ("get", "GET"),
    (_DEVICES, "search"): ("devices", "POST"),
}
_DEVICE = {"assetId", "productKey", "deviceKey"}
_ALLOWED: Mapping[Kind, set[str]] = {
    "cancel": {"action", "orgId", "commandId"} | _DEVICE,
    "search": {"action", "orgId"} | _DEVICE,
    "get": {"action", "orgId", "commandId"} | _DEVICE,
    "devices": {"action", "orgId"},
}


class Ask(Struct, frozen=True):
    """A request as the wire brought it."""

    method: str
    path: str
    query: str  # raw
    headers: Mapping[str, str]  # case-insensitive
    body: bytes


class Call(Struct, frozen=True):
    """A request as it was understood."""

    ask: Ask
    kind: Kind
    method: str = "POST"  # that the route wants
    pairs: tuple[tuple[str, str], ...] = ()  # decoded
    orgId: str = ""
    device: Device | None = None
    commandId: str | None = None
    problem: str | None = None  # what is wrong with the parameters


def read_call(ask: Ask) -> Call:
    """Which call this is meant to be; kind `other` when there is no such route."""
    try:
        pairs = tuple(read_query(ask.query))
    except ValueError:
        return Call(ask, "other")
    action = dict(reversed(pairs)).get("action")  # of two, the first
    if ask.path.startswith("/apim-"):
        action = None
    route = _ROUTES.get((ask.path, action))
    if route is None:
        return Call(ask, "other", pairs=pairs)
    kind, method = route
    if kind in ("token", "refresh"):
        return Call(ask, kind, method)
    return _read_parameters(Call(ask, kind, method, pairs))


def _read_parameters(call: Call) -> Call:
    given = dict(call.pairs)
    device = _device(given)
    problem = _problem(call, given)
    if problem is None and device is None and call.kind != "devices":
        problem = "give assetId, or productKey and deviceKey"
    if problem is None and call.kind == "get" and "commandId" not in given:
        problem = "commandId is required"
    return msgspec.structs.replace(
        call,
        orgId=given.get("orgId", ""),
        device=device,
        commandId=given.get("commandId"),
        problem=problem,
    )


def _problem(call: Call, given: Mapping[str, str]) -> str | None:
    for name, value in call.pairs:
        if not value:
            return f"parameter {name} is empty"
        if name not in _ALLOWED[call.kind]:
            return f"unknown parameter {name}"
    if len(given) != len(call.pairs):
        return "a parameter is given twice"
    if "orgId" not in given:
        return "orgId is required"
    return None


def _device(given: Mapping[str, str]) -> Device | None:
    match (given.get("assetId"), given.get("productKey"), given.get("deviceKey")):
        case (str() as assetId, None, None):
            return AssetId(assetId)
        case (None, str() as productKey, str() as deviceKey):
            return DeviceKey(productKey, deviceKey)
    return None


def read_object(body: bytes) -> dict[str, Any] | None:
    """A JSON object, or None."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
