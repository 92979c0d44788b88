"""What each reply proves, row by row."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from worker.gateway.evidence import read_cancel, read_search
from worker.gateway.exchange import Reply
from worker.model import (
    Ambiguous,
    Answered,
    AssetId,
    CancelAll,
    CancelOne,
    Command,
    DeviceKey,
    NotSent,
    Page,
    Refused,
)

DEVICE = DeviceKey("pk1", "dk1")
ALL = CancelAll(DEVICE, "o1")
ONE = CancelOne(DEVICE, "o1", "2278935391225618432")
SAMPLE: dict[str, Any] = {
    "commandId": "2278935391225618432",
    "orgId": "o1",
    "productKey": "pk1",
    "deviceKey": "dk1",
    "assetId": "oxWwM9i5",
    "createTime": 1560505243577,
    "createLocalTime": 1560505243577,
    "commandType": 1,
    "commandName": {"defaultValue": "Int_value", "i18nValue": {"en_US": "Int_value"}},
    "timeout": 1,
    "pendingTtl": 6000,
    "state": 1,
    "tslIdentifier": "Int_value",
    "inputData": 222,
}
SAMPLE_COMMAND = Command(
    commandId="2278935391225618432",
    orgId="o1",
    productKey="pk1",
    deviceKey="dk1",
    assetId="oxWwM9i5",
    created_ms=1560505243577,
    type=1,
    name="Int_value",
    tslIdentifier="Int_value",
    state=1,
    timeout=1,
    pendingTtl=6000,
    inputData=b"222",
)


def body(**members: Any) -> bytes:
    return json.dumps({"code": 0, "msg": "OK", "requestId": "r1", **members}).encode()


def got(raw: bytes, status: int = 200, fault: str | None = None, **headers: str) -> Reply:
    named = CIMultiDict((k.replace("_", "-"), v) for k, v in headers.items())
    return Reply(sent=True, status=status, headers=CIMultiDictProxy(named), body=raw, fault=fault)


def own(**changes: Any) -> dict[str, Any]:
    """A struct of the device, with changes; None leaves a field out."""
    struct = {"commandId": "1", "orgId": "o1", "productKey": "pk1", "deviceKey": "dk1", **changes}
    return {k: v for k, v in struct.items() if v is not None}


# ---------------------------------------------------------------- answered


def test_the_documented_sample() -> None:
    """The vendor's own reply is read in full."""
    reply = got(body(msg="Success", submsg=None, data=[SAMPLE]))
    assert read_cancel(ALL, reply) == Answered((SAMPLE_COMMAND,), "r1")
    assert read_cancel(ONE, reply) == Answered((SAMPLE_COMMAND,), "r1")


def test_an_empty_list() -> None:
    """Rows 75 and 79: nothing was cancelled, and that is an answer."""
    assert read_cancel(ALL, got(body(data=[]))) == Answered((), "r1")
    assert read_cancel(ONE, got(body(data=[]))) == Answered((), "r1")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"createTime": "1560505243577"}, {"created_ms": 1560505243577}),
        ({"createTime": "yesterday"}, {}),
        ({"createTime": 1.5}, {}),
        ({"createTime": True}, {}),
        ({"createTime": int("9" * 30)}, {}),
        ({"commandType": "2"}, {"type": 2}),
        ({"commandType": None, "state": [], "timeout": {}, "pendingTtl": "x"}, {}),
        ({"tslIdentifier": 7}, {}),
        ({"commandName": "reboot"}, {}),
        ({"commandName": {"defaultValue": "reboot"}}, {"name": "reboot"}),
        ({"commandName": {"defaultValue": 1}}, {}),
        (
            {"tslIdentifier": "t", "commandName": {"defaultValue": "reboot"}},
            {"name": "t", "tslIdentifier": "t"},
        ),
        ({"tslIdentifier": ""}, {}),
        ({"tslIdentifier": "x" * 600}, {"name": "x" * 512, "tslIdentifier": "x" * 512}),
        ({"inputData": "a\ud800é"}, {"inputData": b'"a\\ud800\\u00e9"'}),
        ({"inputData": {"a": [1, True, None]}}, {"inputData": b'{"a":[1,true,null]}'}),
        ({"tslIdentifier": "a\ud800"}, {"name": "a\\ud800", "tslIdentifier": "a\\ud800"}),
        ({"tslIdentifier": "设备"}, {"name": "设备", "tslIdentifier": "设备"}),
    ],
)
def test_optional_fields(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    """A field of another shape is None, never an error."""
    plain: dict[str, Any] = own()
    answer = read_cancel(ALL, got(body(data=[own(**changes)])))
    assert answer == Answered((Command(**plain, **expected),), "r1")


def test_input_data_keeps_its_digits() -> None:
    """What is needed to issue a command again is kept digit by digit."""
    raw = (
        b'{"code":0,"data":[{"commandId":"1","deviceKey":"dk1","inputData":{"x":0.10,"y":1e400}}]}'
    )
    answer = read_cancel(ALL, got(raw))
    assert isinstance(answer, Answered)
    assert answer.commands[0].inputData == b'{"x":0.10,"y":1e400}'


@pytest.mark.parametrize(
    ("struct", "commandId"),
    [
        (b'"2278935391225618432"', "2278935391225618432"),
        (b'"0"', "0"),
        (b'"' + b"1" * 32 + b'"', "1" * 32),
    ],
)
def test_ids_as_strings(struct: bytes, commandId: str) -> None:
    """An id is a string of 1 to 32 digits."""
    answer = read_cancel(
        ALL, got(b'{"code":0,"data":[{"deviceKey":"dk1","commandId":%s}]}' % struct)
    )
    assert answer == Answered((Command(commandId, deviceKey="dk1"),), None)


def test_numeric_id() -> None:
    """Row 80: a number keeps the digits a float would lose; a warning, no anomaly."""
    raw = b'{"code":0,"data":[{"deviceKey":"dk1","commandId":2278935391225618433}]}'
    command = Command("2278935391225618433", deviceKey="dk1")
    assert read_cancel(ALL, got(raw)) == Answered((command,), None, None, ("numeric_id",))


@pytest.mark.parametrize(
    ("given_id", "recorded"),
    [
        (b'""', ""),
        (b"null", ""),
        (b"1.5", "1.5"),
        (b"2.27894E+18", "2.27894E+18"),
        (b"-5", "-5"),
        (b"1" * 33, "1" * 33),
        (b'"' + b"1" * 33 + b'"', "1" * 33),
        (b'"12a"', "12a"),
        (b'" 12"', " 12"),
        (b'"12\\n"', "12\n"),
        ('"１２"'.encode(), "１２"),
        (b"true", "true"),
        (b'["1"]', '["1"]'),
        (b'"\\ud800"', "\\ud800"),
        (b'"' + b"x" * 900 + b'"', "x" * 512),
    ],
)
def test_malformed_id(given_id: bytes, recorded: str) -> None:
    """Row 80: any other id is recorded as received and breaks the contract."""
    answer = read_cancel(
        ALL, got(b'{"code":0,"data":[{"deviceKey":"dk1","commandId":%s}]}' % given_id)
    )
    assert isinstance(answer, Answered)
    assert (answer.commands, answer.anomaly) == (
        (Command(recorded, deviceKey="dk1"),),
        "malformed_id",
    )
    recorded.encode()


def test_missing_id() -> None:
    """Row 80: a struct without an id is recorded and breaks the contract."""
    answer = read_cancel(ALL, got(body(data=[own(commandId=None)])))
    assert isinstance(answer, Answered)
    assert (answer.commands[0].commandId, answer.anomaly) == ("", "malformed_id")


@pytest.mark.parametrize(
    "change",
    [
        {"productKey": "pk2"},
        {"deviceKey": "dk2"},
        {"deviceKey": "DK1"},
        {"orgId": "o2"},
        {"productKey": None, "deviceKey": "dk2"},
        {"productKey": None, "deviceKey": None, "orgId": "o2"},
        {"deviceKey": 5349},
    ],
)
def test_another_device(change: dict[str, Any]) -> None:
    """Row 71: recorded under what the gateway said; one such struct is enough."""
    struct = own(commandId="2", **change)
    answer = read_cancel(ALL, got(body(data=[own(), struct])))
    assert isinstance(answer, Answered)
    assert answer.anomaly == "other_device"
    said: dict[str, Any] = {k: str(v) for k, v in struct.items()}
    assert answer.commands[1] == Command(**said)


@pytest.mark.parametrize(
    ("device", "struct", "anomaly", "warnings"),
    [
        (AssetId("a1"), {"assetId": "a1"}, None, ()),
        (AssetId("a1"), {"assetId": "a1", "productKey": "x", "deviceKey": "y"}, None, ()),
        (AssetId("a1"), {"assetId": "a2"}, "other_device", ()),
        (AssetId("a1"), {"assetId": "a1", "orgId": "o2"}, "other_device", ()),
        (AssetId("a1"), {"assetId": None}, None, ("identity_missing",)),
        (AssetId("a1"), {"assetId": ""}, None, ("identity_missing",)),
        (AssetId("a1"), {"assetId": [1]}, None, ("identity_missing",)),
        (DEVICE, {}, None, ("identity_missing",)),
        (DEVICE, {"orgId": "o1"}, None, ("identity_missing",)),
        (DEVICE, {"productKey": "pk1"}, None, ()),
        (DeviceKey("pk1", "5349"), {"productKey": "pk1", "deviceKey": 5349}, None, ()),
    ],
)
def test_whose_it_is(
    device: AssetId | DeviceKey, struct: dict[str, Any], anomaly: str | None, warnings: tuple[str]
) -> None:
    """Rows 71 and 72: compared by what was asked for; what is left out is a warning only."""
    answer = read_cancel(CancelAll(device, "o1"), got(body(data=[{"commandId": "1", **struct}])))
    assert isinstance(answer, Answered)
    assert (answer.anomaly, answer.warnings) == (anomaly, warnings)


@pytest.mark.parametrize(
    ("device", "named", "message"),
    [
        (
            AssetId("a1"),
            {"productKey": "x", "deviceKey": "y"},
            "the reply's rows name productKey and deviceKey, and not the assetId asked for",
        ),
        (
            AssetId("a1"),
            {"deviceKey": "y", "orgId": "o1"},
            "the reply's rows name productKey and deviceKey, and not the assetId asked for",
        ),
        (
            DEVICE,
            {"assetId": "a9"},
            "the reply's rows name an assetId, and not the productKey and deviceKey asked for",
        ),
        (
            DEVICE,
            {"assetId": "a9", "productKey": "pk1"},
            "the reply's rows name an assetId, and not the productKey and deviceKey asked for",
        ),
    ],
)
def test_the_other_spelling_alone(
    device: AssetId | DeviceKey, named: dict[str, str], message: str
) -> None:
    """Row 95: never taken for the device; what is named as it was asked for is certain."""
    asked: dict[str, Any] = {"deviceKey": "dk1"}
    if isinstance(device, AssetId):
        asked = {"assetId": "a1"}
    data = [{"commandId": "1", **named}, {"commandId": "2", **asked}]
    whole = CancelAll(device, "o1")
    assert read_cancel(whole, got(body(data=data, requestId="r1"))) == Ambiguous(
        "other_spelling", 200, 0, (Command("2", **asked),), None, message, "r1"
    )
    page = {"pageNo": 1, "pageSize": 50, "totalSize": 2}
    searched = got(body(data=data, requestId="r1", pagination=page))
    assert read_search(device, "o1", 1, 1, searched) == Ambiguous(
        "other_spelling", 200, 0, (), None, message, "r1"
    )


def test_more_commands_than_any_cache_holds() -> None:
    """Row 108: all of them are recorded; more than 1,000 break the contract."""
    many = [own(commandId=str(number)) for number in range(1_001)]
    answer = read_cancel(ALL, got(body(data=many)))
    assert isinstance(answer, Answered)
    assert (len(answer.commands), answer.anomaly) == (1_001, "too_many_commands")
    answer = read_cancel(ALL, got(body(data=many[:1_000])))
    assert isinstance(answer, Answered)
    assert (len(answer.commands), answer.anomaly, answer.warnings) == (1_000, None, ("over_50",))


@pytest.mark.parametrize("ids", [["9"], ["2278935391225618432", "9"]])
def test_another_command(ids: list[str]) -> None:
    """Row 78: a call for one command that names more or others, all recorded."""
    answer = read_cancel(ONE, got(body(data=[own(commandId=i) for i in ids])))
    assert isinstance(answer, Answered)
    assert ([c.commandId for c in answer.commands], answer.anomaly) == (ids, "other_command")


def test_repeated_ids() -> None:
    """Row 73: kept once, the first as received."""
    answer = read_cancel(ALL, got(body(data=[own(state=1), own(state=2), own(commandId="2")])))
    assert isinstance(answer, Answered)
    assert [(c.commandId, c.state) for c in answer.commands] == [("1", 1), ("2", None)]
    assert (answer.anomaly, answer.warnings) == (None, ("repeated_id",))


def test_over_50() -> None:
    """Row 80: more than a device can have cached is a warning."""
    answer = read_cancel(ALL, got(body(data=[own(commandId=str(i)) for i in range(51)])))
    assert isinstance(answer, Answered)
    assert (len(answer.commands), answer.anomaly, answer.warnings) == (51, None, ("over_50",))


@pytest.mark.parametrize("given_id", ["r" * 600, 17, None, "", ["r"]])
def test_request_id(given_id: Any) -> None:
    """Row 91: a requestId is a string of at most 512 characters, or none."""
    expected = "r" * 512 if isinstance(given_id, str) and given_id else None
    assert read_cancel(ALL, got(body(data=[], requestId=given_id))) == Answered((), expected)


# ---------------------------------------------------------------- ambiguous with HTTP 200


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"", "not_json"),
        (b"OK", "not_json"),
        (b"[]", "not_json"),
        (b'{"code":1,"code":0,"data":[]}', "not_json"),
        (b'\xef\xbb\xbf{"code":0,"data":[]}', "not_json"),
        (b'{"code":0,"data":[],"msg":"\xff"}', "not_json"),
        (b'{"code":0,"data":[],"x":NaN}', "not_json"),
        (b'{"code":0,"data":[],"x":' + b"1" * 5_000 + b"}", "not_json"),
        (b'{"code":0,"data":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not_json"),
        (b'{"data":[]}', "bad_code"),
        (b'{"code":"0","data":[]}', "bad_code"),
        (b'{"code":0.0,"data":[]}', "bad_code"),
        (b'{"code":0e0,"data":[]}', "bad_code"),
        (b'{"code":false,"data":[]}', "bad_code"),
        (b'{"code":null,"data":[]}', "bad_code"),
        (b'{"code":[0],"data":[]}', "bad_code"),
        (b'{"code":-1,"data":[]}', "bad_code"),
        (b'{"code":' + b"9" * 900 + b',"data":[]}', "bad_code"),
        (b'{"code":0}', "no_data"),
        (b'{"code":0,"data":null}', "no_data"),
        (b'{"code":0,"data":{}}', "no_data"),
        (b'{"code":0,"data":"[]"}', "no_data"),
        (b'{"code":0,"data":0}', "no_data"),
        (b'{"code":0,"data":["1"]}', "malformed_data"),
        (b'{"code":0,"data":[null]}', "malformed_data"),
        (b'{"code":0,"data":[[{"commandId":"1"}]]}', "malformed_data"),
        (b'{"code":99500,"data":[]}', "code_99500"),
        (b'{"code":12345,"data":[]}', "code_12345"),
        (b'{"status":0,"data":[]}', "bad_code"),
    ],
)
def test_200_that_proves_nothing(raw: bytes, cause: str) -> None:
    """Rows 13, 14, 30, 31, 32 and 74."""
    read = read_cancel(ALL, got(raw))
    assert isinstance(read, Ambiguous)
    assert (read.cause, read.status, read.partial, read.rule) == (cause, 200, (), None)


def test_a_page_with_200() -> None:
    """Row 14: type and length are told, not a word of the page."""
    raw = b"<html>Please log in: CANARY</html>"
    assert read_cancel(ALL, got(raw, content_type="text/html")) == Ambiguous(
        "not_json", status=200, message="text/html, 34 bytes"
    )


def test_what_the_gateway_said_is_kept() -> None:
    """Row 30: code, message and requestId of a failure."""
    raw = body(code=99500, msg="m" * 600)
    assert read_cancel(ALL, got(raw)) == Ambiguous(
        "code_99500", status=200, code=99500, message="m" * 512, requestId="r1"
    )


# ---------------------------------------------------------------- partial replies

TWO = body(data=[own(), own(commandId="2")])


@pytest.mark.parametrize("fault", ["truncated", "disconnected", "request_timeout", "cut", None])
def test_partial_reply(fault: str | None) -> None:
    """Rows 10 and 12: complete structs of a broken body are evidence, the rest is not known."""
    read = read_cancel(ALL, got(TWO[:-20], fault=fault))
    assert read == Ambiguous(
        "partial_reply",
        status=200,
        code=0,
        partial=(Command("1", "o1", "pk1", "dk1"),),
        message=f"no content type, {len(TWO) - 20} bytes",
        requestId="r1",
    )


def test_a_whole_body_under_a_fault_is_partial() -> None:
    """Row 10: the exchange broke, so even a body that looks complete is no answer."""
    read = read_cancel(ALL, got(TWO, fault="truncated"))
    assert isinstance(read, Ambiguous)
    assert (read.cause, [c.commandId for c in read.partial]) == ("partial_reply", ["1", "2"])


@pytest.mark.parametrize(
    ("raw", "fault", "cause"),
    [
        (b"", "truncated", "truncated"),
        (b"", "request_timeout", "request_timeout"),
        (b'{"code":0,"data":[{"commandId":"1","dev', "truncated", "truncated"),
        (b'{"code":0,"data":[{"commandId":"1","dev', None, "not_json"),
        (b'{"data":[{"commandId":"1"},{', "truncated", "truncated"),
        (b'{"code":99500,"data":[{"commandId":"1"},{', "truncated", "truncated"),
        (b'{"code":"0","data":[{"commandId":"1"},{', "truncated", "truncated"),
        (b'{"code":0,"data":[{"commandId":"1","deviceKey":"dk2"},{', "truncated", "truncated"),
        (b'{"code":0,"data":[{"commandId":"1x"},7', "truncated", "truncated"),
        (b'{"code":0,"data":[{"commandId":"1"}],"code":1}', None, "not_json"),
        (b'{"code":0,"data":[{"commandId":"1"}]} x', None, "not_json"),
        (b'{"code":0,"data":{"commandId":"1"}}', "truncated", "truncated"),
        (b'{"code":1,"data":[{"commandId":"1"}]}', "truncated", "truncated"),
    ],
)
def test_no_partial(raw: bytes, fault: str | None, cause: str) -> None:
    """Row 10: nothing is taken from an error, another device, or a body broken otherwise."""
    read = read_cancel(ALL, got(raw, fault=fault))
    assert isinstance(read, Ambiguous)
    assert (read.cause, read.partial) == (cause, ())


def test_partial_of_a_call_by_id() -> None:
    """Row 10: only the command asked for; repeated structs count once."""
    structs = [own(commandId=i) for i in ("9", ONE.commandId, ONE.commandId, "10")]
    read = read_cancel(ONE, got(body(data=structs)[:-20], fault="truncated"))
    assert isinstance(read, Ambiguous)
    assert [c.commandId for c in read.partial] == [ONE.commandId]


@given(st.data())
def test_no_proper_prefix_is_an_answer(data: st.DataObject) -> None:
    """Row 12: cut anywhere, an answer is ambiguous, and its partial is part of the answer."""
    ids = data.draw(st.lists(st.integers(0, 10**20).map(str), max_size=4))
    whole = body(data=[own(commandId=i, inputData={"k": "}]"}) for i in ids])
    answer = read_cancel(ALL, got(whole))
    assert isinstance(answer, Answered)
    cut = data.draw(st.integers(0, len(whole) - 1))
    fault = data.draw(st.sampled_from([None, "truncated", "disconnected"]))
    read = read_cancel(ALL, got(whole[:cut], fault=fault))
    assert isinstance(read, Ambiguous)
    assert read.partial == answer.commands[: len(read.partial)]


# ---------------------------------------------------------------- other statuses


@pytest.mark.parametrize("status", [101, 201, 202, 203, 204, 205, 206, 226])
def test_other_2xx(status: int) -> None:
    """Row 16: only 200 is success, whatever the body says."""
    read = read_cancel(ALL, got(body(data=[]), status))
    assert isinstance(read, Ambiguous)
    assert (read.cause, read.status) == (f"http_{status}", status)
    refused = read_cancel(ALL, got(body(code=99400), status))
    assert isinstance(refused, Ambiguous)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 399])
@pytest.mark.parametrize("fault", [None, "truncated"])
def test_redirects(status: int, fault: str | None) -> None:
    """Rows 17 and 18: any 3xx stops the run."""
    read = read_cancel(ALL, got(body(data=[]), status, fault))
    assert isinstance(read, Ambiguous)
    assert (read.cause, read.status, read.rule) == ("redirect", status, "redirect")
    said = f"the gateway answered with a redirect (HTTP {status}): check gateway.url"
    assert read.message == said  # it stands in the verdict of the run


PAGE = b" \n<!doctype html><title>CANARY</title>"


@pytest.mark.parametrize(
    ("status", "raw", "cause", "code", "transient"),
    [
        # by status alone
        (400, b"", "bad_request", None, False),
        (403, b"{}", "forbidden", None, False),
        (404, b"", "wrong_path", None, False),
        (404, PAGE, "wrong_path", None, False),
        (405, b"", "http_405", None, False),
        (407, PAGE, "proxy_auth", None, False),
        (411, b"", "http_411", None, False),
        (413, b"", "http_413", None, False),
        (414, b"", "http_414", None, False),
        (415, b"", "http_415", None, False),
        (421, b"", "http_421", None, False),
        (431, b"", "http_431", None, False),
        (429, b'{"message":"slow down"}', "throttled", None, True),
        (429, PAGE, "throttled", None, True),
        (429, body(code=99403), "throttled", 99403, True),
        (401, b"", "token", None, True),
        (401, PAGE, "token", None, True),
        (401, body(code=99403), "token", 99403, True),
        # row 15: a page from somebody in between
        (400, PAGE, "not_the_gateway", None, False),
        (403, PAGE, "not_the_gateway", None, False),
        # by the envelope's code
        (200, body(code=99400), "bad_request", 99400, False),
        (200, body(code=99403), "forbidden", 99403, False),
        (200, body(code=99404), "not_found", 99404, False),
        (200, body(code=11404), "not_found", 11404, False),
        (200, body(code=1203), "token", 1203, True),
        (200, b'{"status":1203}', "token", 1203, True),
        (503, b'{"status":1203}', "token", 1203, True),
        (404, body(code=11404), "not_found", 11404, False),
        (404, body(code=99403), "forbidden", 99403, False),
        (404, body(code=99500), "code_99500", 99500, False),
        (404, b'{"code":"99404"}', "wrong_path", None, False),
        (403, body(code=0), "code_0", 0, False),
        (422, body(code=99400), "bad_request", 99400, False),
        (500, body(code=99400), "bad_request", 99400, False),
        (503, body(code=99404), "not_found", 99404, False),
        # gateway.refused_codes
        (200, body(code=777), "code_777", 777, False),
        (400, body(code=777), "code_777", 777, False),
        (503, body(code=777), "code_777", 777, True),
        (500, body(code=777), "code_777", 777, True),
    ],
)
def test_refused(status: int, raw: bytes, cause: str, code: int | None, transient: bool) -> None:
    """Rows 15, 19, 22, 23, 25, 30: proven not executed."""
    read = read_cancel(ALL, got(raw, status), {777, 0})
    assert isinstance(read, Refused)
    assert (read.status, read.code, read.cause, read.transient) == (status, code, cause, transient)
    assert "CANARY" not in str(read.message)


def test_success_cannot_be_configured_away() -> None:
    """Row 28: code 0 on the list of refused codes has no effect."""
    assert read_cancel(ALL, got(body(data=[])), {0}) == Answered((), "r1")
    assert isinstance(read_cancel(ALL, got(body(data=[]), 503), {0}), Ambiguous)


@pytest.mark.parametrize("status", [401, 403, 404, 429])
def test_refused_by_status_though_the_body_broke(status: int) -> None:
    """A status that was read proves it; the body is not needed."""
    read = read_cancel(ALL, got(b'{"code":0,"da', status, "truncated"))
    assert isinstance(read, Refused)


def test_a_code_counts_only_in_a_complete_envelope() -> None:
    """Row 28: a 503 whose body broke off is a 503."""
    read = read_cancel(ALL, got(body(code=99404), 503, "truncated"))
    assert isinstance(read, Ambiguous)
    assert read.cause == "http_503"


@pytest.mark.parametrize(
    "status",
    [402, 406, 408, 409, 410, 412, 416, 418, 422, 451, 499, 500, 502, 503, 504, 520, 527, 599],
)
def test_statuses_that_prove_nothing(status: int) -> None:
    """Row 24: it may have been executed, whatever an unreviewed code says."""
    for raw in (b"", b"{}", body(data=[]), body(code=99500), body(code=777)):
        read = read_cancel(ALL, got(raw, status))
        assert isinstance(read, Ambiguous)
        assert (read.cause, read.status) == (f"http_{status}", status)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_pages_with_5xx(status: int) -> None:
    """Row 15: ambiguous, and the report says that it was not the gateway."""
    assert read_cancel(ALL, got(PAGE, status)) == Ambiguous(
        "not_the_gateway", status=status, message=f"no content type, {len(PAGE)} bytes"
    )


def test_retry_after() -> None:
    """Row 26: on 429 and 503 alone, refused or not."""
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    later = "Sun, 06 Nov 1994 08:50:07 GMT"
    read = read_cancel(ALL, got(b"", 429, retry_after="12"))
    assert isinstance(read, Refused)
    assert read.retry_after == 12.0
    read = read_cancel(ALL, got(b"", 503, retry_after=later, date=date))
    assert isinstance(read, Ambiguous)
    assert read.retry_after == 30.0
    read = read_cancel(ALL, got(body(code=777), 503, retry_after="9999999999"), {777})
    assert isinstance(read, Refused)
    assert read.retry_after == math.inf
    read = read_cancel(ALL, got(b"", 500, retry_after="12"))
    assert isinstance(read, Ambiguous)
    assert read.retry_after is None


# ---------------------------------------------------------------- not sent, or no status


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("refused", NotSent("refused")),
        ("dns", NotSent("dns")),
        ("connect_timeout", NotSent("connect_timeout")),
        ("no_descriptors", NotSent("no_descriptors")),
        ("proxy", NotSent("proxy")),
        ("cut", NotSent("cut")),
        ("proxy_auth", NotSent("proxy_auth", retryable=False)),
        ("tls", NotSent("tls", retryable=False, rule="tls")),
        (None, NotSent("client_error")),
    ],
)
def test_not_sent(fault: str | None, expected: NotSent) -> None:
    """Rows 1, 2, 3, 37, 39, 54."""
    assert read_cancel(ALL, Reply(sent=False, fault=fault)) == expected


@pytest.mark.parametrize(
    "fault", ["disconnected", "request_timeout", "malformed_http", "cut", "tls"]
)
def test_sent_without_status(fault: str) -> None:
    """Rows 4 to 8, 11, 34: sent, and nothing usable came."""
    assert read_cancel(ALL, Reply(sent=True, fault=fault)) == Ambiguous(fault)
    assert read_cancel(ALL, Reply(sent=True)) == Ambiguous("disconnected")


def test_a_status_outweighs_the_flag() -> None:
    """Who answered was asked, whatever the flag says."""
    read = read_cancel(ALL, Reply(sent=False, status=503, fault="truncated"))
    assert isinstance(read, Ambiguous)


@given(
    st.booleans(),
    st.none() | st.integers(100, 599),
    st.binary(max_size=60) | st.sampled_from([TWO, TWO[:99], body(code=99400), PAGE, b"{}"]),
    st.none() | st.sampled_from(["truncated", "tls", "cut"]),
    st.sampled_from([ALL, ONE]),
)
def test_no_reply_crashes(
    sent: bool, status: int | None, raw: bytes, fault: str | None, call: CancelAll | CancelOne
) -> None:
    """Whatever comes is one of the four; only a complete 200 is an answer."""
    reply = Reply(sent=sent, status=status, body=raw, fault=fault)
    read = read_cancel(call, reply)
    assert isinstance(read, Answered) <= (status == 200 and fault is None)
    assert isinstance(read, NotSent) == (not sent and status is None)
    assert isinstance(read_search(DEVICE, "o1", 1, 1, reply), Page | NotSent | Refused | Ambiguous)


# ---------------------------------------------------------------- searches


def search(page: int = 1, state: int = 1, **members: Any) -> Any:
    return read_search(DEVICE, "o1", state, page, got(body(**members)))


def test_a_page() -> None:
    """Commands, newest first as given, and how many there are in all."""
    structs = [own(commandId=str(i), state=1) for i in range(50)]
    read = search(data=structs, pagination={"pageNo": 1, "pageSize": 50, "totalSize": 73})
    assert isinstance(read, Page)
    assert [c.commandId for c in read.commands] == [str(i) for i in range(50)]
    assert (read.total, read.requestId) == (73, "r1")


@pytest.mark.parametrize("total", [0, "0", None])
def test_an_empty_page(total: Any) -> None:
    """Nothing in this state."""
    assert search(data=[], pagination={"totalSize": total}) == Page((), 0, "r1")


def test_a_last_page_needs_no_total() -> None:
    """A page that is not full tells how many there are."""
    read = search(page=3, data=[own(), own(commandId="2")])
    assert isinstance(read, Page)
    assert read.total == 102
    read = search(page=3, data=[own(), own(commandId="2")], pagination={"totalSize": 7})
    assert isinstance(read, Page)
    assert read.total == 102


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        ({"data": [own(commandId=str(i)) for i in range(50)]}, "no_total"),
        ({"data": [], "pagination": {"totalSize": 3}}, "inconsistent_page"),
        ({"data": [own()], "pagination": {"totalSize": 3}}, "inconsistent_page"),
        ({"data": [own(state=2)]}, "other_state"),
        ({"data": [own(deviceKey="dk2")]}, "other_device"),
        ({"data": [own(commandId="1x")]}, "malformed_id"),
        ({"data": None}, "no_data"),
        ({"data": ["1"]}, "malformed_data"),
    ],
)
def test_pages_that_settle_nothing(members: dict[str, Any], cause: str) -> None:
    """A page that contradicts itself or the question proves nothing."""
    read = search(**members)
    assert isinstance(read, Ambiguous)
    assert (read.cause, read.status, read.code, read.requestId) == (cause, 200, 0, "r1")


def test_searches_that_fail() -> None:
    """The same classes as for a cancel; a broken page has no partial."""
    for reply, kind in [
        (got(b"", 503), Ambiguous),
        (got(b"", 403), Refused),
        (got(body(code=99403)), Refused),
        (Reply(sent=False, fault="dns"), NotSent),
        (got(b"", 302), Ambiguous),
    ]:
        assert isinstance(read_search(DEVICE, "o1", 1, 1, reply), kind)
    read = read_search(DEVICE, "o1", 1, 1, got(TWO[:-20], fault="truncated"))
    assert isinstance(read, Ambiguous)
    assert (read.cause, read.partial) == ("truncated", ())
