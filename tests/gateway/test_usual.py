"""The fast reader of the usual reply against the careful one: it agrees, or says nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.gateway.evidence import read_cancel, read_carefully
from worker.gateway.exchange import Reply
from worker.gateway.usual import usual_answer
from worker.model import (
    Answered,
    AssetId,
    CancelAll,
    CancelCall,
    CancelOne,
    Command,
    DeviceKey,
    Evidence,
)

CALLS: list[CancelCall] = [
    CancelAll(DeviceKey("p", "d"), "o"),
    CancelAll(AssetId("a"), "o"),
    CancelOne(DeviceKey("p", "d"), "o", "7"),
]
FULL: dict[str, Any] = {
    "commandId": "7",
    "orgId": "o",
    "assetId": "a",
    "productKey": "p",
    "deviceKey": "d",
    "tslIdentifier": "t",
    "commandName": {"defaultValue": "n", "i18nValue": {}},
    "commandType": 1,
    "state": 2,
    "timeout": 30,
    "pendingTtl": 86400,
    "createTime": 1595929022000,
    "inputData": {"x": [1, 1.5, None, True, "a\n"]},
    "outputData": None,
}


def spelled(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def reply(*structs: object, **more: object) -> bytes:
    return spelled({"code": 0, "msg": "OK", "requestId": "r", "data": list(structs)} | more)


def carefully(call: CancelCall, body: bytes) -> Evidence:
    """What the careful reader says of a complete body with HTTP 200."""
    return read_carefully(call, Reply(sent=True, status=200, body=body))


def agree(body: bytes) -> int:
    """How many of the calls the fast reader answered; each as the careful one does."""
    said = 0
    for call in CALLS:
        answer = usual_answer(call, body)
        if answer is not None:
            said += 1
            assert answer == carefully(call, body)
            assert answer == read_cancel(call, Reply(sent=True, status=200, body=body))
    return said


def test_the_usual_reply_is_read_fast() -> None:
    """Whole, without optional fields, empty, and with many commands: nothing is left to chance."""
    bare = {"commandId": "7", "productKey": "p", "deviceKey": "d", "assetId": "a"}
    many = [FULL | {"commandId": str(n)} for n in range(2, 52)]
    assert agree(reply(FULL)) == 3
    assert agree(reply(bare)) == 3
    assert agree(reply()) == 3
    assert agree(reply(FULL | {"tslIdentifier": "设备"})) == 3
    assert agree(reply(*many)) == 2  # the third call was about one of them
    assert usual_answer(CALLS[0], reply(FULL)) == Answered(
        commands=(
            Command(
                commandId="7",
                orgId="o",
                productKey="p",
                deviceKey="d",
                assetId="a",
                created_ms=1595929022000,
                type=1,
                name="t",
                tslIdentifier="t",
                state=2,
                timeout=30,
                pendingTtl=86400,
                inputData=b'{"x":[1,1.5,null,true,"a\\n"]}',
            ),
        ),
        requestId="r",
    )


@given(
    msg=st.text(max_size=4), submsg=st.none() | st.text(max_size=4), requestId=st.text(max_size=4)
)
@example(msg="OK", submsg=None, requestId="7d86")
@example(msg="OK", submsg="x", requestId=" ")
@example(msg="OK", submsg=None, requestId="r" * 513)
def test_nothing_cached_is_read_by_its_spelling(
    msg: str, submsg: str | None, requestId: str
) -> None:
    """The answer of a device without commands, in the order that the vendor writes it."""
    for members in ({"msg": msg, "submsg": submsg}, {"msg": msg}):
        agree(spelled({"code": 0, **members, "requestId": requestId, "data": []}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"code":0,"data":[]} ',
        b'{"code": 0,"data":[]}',
        b'\xef\xbb\xbf{"code":0,"data":[]}',
        b'{"code":0,"data":[],"data":[]}',
        b'{"code":1,"code":0,"data":[]}',
        b'{"code":0,"data":[],"x":{"a":1,"a":1}}',
        b'{"code":0.0,"data":[]}',
        b'{"code":-0,"data":[]}',
        b'{"code":"0","data":[]}',
        b'{"code":false,"data":[]}',
        b'{"code":0,"data":null}',
        b'{"code":0,"data":{}}',
        b'{"code":0}',
        b'{"data":[]}',
        b'{"code":1203,"data":[]}',
        b'{"code":0,"data":[null]}',
        b'{"code":0,"data":[],"x":NaN}',
        b'{"code":0,"data":[],"x":1e3}',
        b'{"code":0,"data":[],"x":"\\u0041"}',
        b'{"code":0,"data":[],"x":"\\ud800"}',
        b'{"code":0,"data":[],"x":"\xff"}',
        b'{"code":0,"data":[],"x":' + b"1" * 1001 + b"}",
        b'{"code":0,"data":[],"x":' + b"[" * 500 + b"]" * 500 + b"}",
        reply(FULL | {"commandId": 7}),
        reply(FULL | {"commandId": ""}),
        reply(FULL | {"commandId": "７"}),
        reply(FULL | {"commandId": "7" * 33}),
        reply(FULL | {"orgId": "other"}),
        reply(FULL | {"assetId": "x", "deviceKey": "y"}),
        reply(FULL | {"assetId": "x", "productKey": "y"}),
        reply({"commandId": "7"}),
        reply(FULL, FULL),
        reply(FULL | {"inputData": "\x7f"}),
        reply(FULL | {"inputData": "é"}),
        reply(FULL | {"state": 10**18}),
        reply(FULL | {"state": "2"}),
        reply(FULL | {"tslIdentifier": ""}),
        reply(FULL | {"tslIdentifier": "x" * 513}),
        reply(*[FULL | {"commandId": str(n)} for n in range(51)]),
    ],
)
def test_what_is_not_usual_is_left_to_the_careful_reader(body: bytes) -> None:
    """Everything that rows 30 to 32, 71 to 74, 78 and 80 speak of, and other spellings."""
    assert [usual_answer(call, body) for call in CALLS] == [None] * 3


def test_the_same_device_with_another_name_is_told_by_the_name_asked() -> None:
    """A call by assetId looks at that, one by product and key at those."""
    body = reply(FULL | {"assetId": "x"})
    assert [usual_answer(call, body) is None for call in CALLS] == [False, True, False]
    assert agree(body) == 2


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["7", "o", "p", "d", "a", 0, 7]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
STRUCTS = st.dictionaries(st.sampled_from(sorted(FULL)), VALUES, max_size=4).map(
    lambda changes: FULL | changes
)


@settings(max_examples=400, deadline=None)
@given(
    structs=st.lists(STRUCTS | VALUES, max_size=3),
    more=st.dictionaries(st.sampled_from(["code", "data", "requestId", "status", "x"]), VALUES),
    cut=st.none() | st.tuples(st.integers(0, 700), st.integers(0, 3), st.binary(max_size=2)),
)
@example(structs=[FULL], more={}, cut=None)
def test_both_readers_agree(
    structs: list[Any], more: dict[str, Any], cut: tuple[int, int, bytes] | None
) -> None:
    """On generated replies, and on replies with some bytes taken out, put in or changed."""
    try:
        body = reply(*structs, **more)
    except UnicodeEncodeError:  # half a surrogate pair
        return
    if cut is not None:
        at, gone, new = cut
        body = body[:at] + new + body[at + gone :]
    agree(body)
