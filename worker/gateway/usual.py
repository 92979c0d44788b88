"""The reply that nearly every cancel gets, read at a fraction of the price: or not at all.

evidence.py reads what anybody may answer. This reads only what is spelled compactly, of the
documented types and about the device that was asked for; of all else it says nothing. Where it
says something, it is what evidence.py would say: tests/gateway/test_usual.py compares the two.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from worker.model import Answered, AssetId, CancelCall, CancelOne, Command

_LONGEST_NUMBER: Final = 1_000  # digits; one less than strict_json.py refuses
_MOST_BRACKETS: Final = 400  # nothing nested less is too deep for any reader
_ZEROS: Final = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))  # digits alike

_TEXT: Final = rb'"[ !#-\[\]-~]{1,512}"'  # printable, nothing escaped
_NOTHING: Final = re.compile(
    rb'\{"code":0,"msg":%b,(?:"submsg":(?:null|%b),)?"requestId":(%b),"data":\[\]\}'
    % ((_TEXT,) * 3)
)

_Text = Annotated[str, Meta(min_length=1, max_length=512)] | None
_Key = Annotated[str, Meta(min_length=1)] | None
_Whole = Annotated[int, Meta(ge=0, lt=10**18)] | None


class _Name(Struct):
    defaultValue: _Text = None


class _Said(Struct):
    commandId: Annotated[str, Meta(min_length=1, max_length=32)]
    orgId: _Key = None
    productKey: _Key = None
    deviceKey: _Key = None
    assetId: _Key = None
    createTime: _Whole = None
    commandType: _Whole = None
    tslIdentifier: _Text = None
    commandName: _Name | None = None
    state: _Whole = None
    timeout: _Whole = None
    pendingTtl: _Whole = None
    inputData: Raw = Raw(b"")


class _Envelope(Struct):
    code: Literal[0]
    data: Annotated[list[_Said], Meta(max_length=50)]
    requestId: _Text = None


_DECODE: Final = msgspec.json.Decoder().decode
_ENCODE: Final = msgspec.json.Encoder().encode
_READ: Final = msgspec.json.Decoder(_Envelope).decode


def usual_answer(call: CancelCall, body: bytes) -> Answered | None:
    """What a complete body with HTTP 200 says; None: it is to be read with more care."""
    if (nothing := _NOTHING.fullmatch(body)) is not None:
        return Answered((), nothing[1][1:-1].decode("ascii"))
    try:
        said = _READ(body)
    except (ValueError, RecursionError):  # DecodeError is one
        return None
    if not _strict(body):
        return None
    commands = []
    for one in said.data:
        commandId = one.commandId
        if not (commandId.isascii() and commandId.isdecimal()) or not _of(one, call):
            return None
        inputData = bytes(one.inputData)
        if not inputData.isascii() or b"\x7f" in inputData:
            return None  # kept in another spelling
        name = one.commandName
        commands.append(
            Command(
                commandId,
                one.orgId,
                one.productKey,
                one.deviceKey,
                one.assetId,
                one.createTime,
                one.commandType,
                one.tslIdentifier or (name.defaultValue if name is not None else None),
                one.tslIdentifier,
                one.state,
                one.timeout,
                one.pendingTtl,
                inputData or None,
            )
        )
    if len(commands) > 1 and len({command.commandId for command in commands}) < len(commands):
        return None
    return Answered(tuple(commands), said.requestId)


def _strict(body: bytes) -> bool:
    """Whether the bytes are what writing their value gives: no key twice, no digit lost."""
    if body.count(b"{") + body.count(b"[") > _MOST_BRACKETS:
        return False
    if len(body) >= _LONGEST_NUMBER and b"0" * _LONGEST_NUMBER in body.translate(_ZEROS):
        return False
    try:
        written: bytes = _ENCODE(_DECODE(body))
    except (ValueError, RecursionError):
        return False
    return written == body


def _of(said: _Said, call: CancelCall) -> bool:
    """Whether it names the device of the call, and no other in any of its names."""
    device = call.device
    if said.orgId is not None and said.orgId != call.orgId:
        return False
    if isinstance(call, CancelOne) and said.commandId != call.commandId:
        return False
    if isinstance(device, AssetId):
        return said.assetId == device.assetId
    return said.productKey == device.productKey and said.deviceKey == device.deviceKey
