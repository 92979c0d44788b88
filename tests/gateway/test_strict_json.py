"""Strict reading of JSON, and what is left of a body that broke off."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.gateway.strict_json import (
    Digits,
    Fraction,
    NotStrictError,
    read_broken_off,
    read_object,
    write,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
OBJECT = st.dictionaries(st.text(), JSON, max_size=5)


def reference(value: object) -> object:
    """What the strict reader should give for a Python value."""
    if isinstance(value, dict):
        return {k: reference(v) for k, v in value.items()}
    if isinstance(value, list):
        return [reference(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    return json.dumps(value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"code"',
        b"0",
        b"{",
        b'{"a":1}x',
        b'{"a":1}{"a":1}',
        b'{"a":1,}',
        b"{'a':1}",
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":"\xff"}',
        b'{"a":"\xc0\x80"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\x01"}',
        b'{"code":1,"code":0}',
        b'{"a":{"b":1,"b":1}}',
        b'{"a":[{"b":1,"\\u0062":2}]}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":' + b"1" * 5_000 + b"}",
        b'{"a":1.' + b"1" * 5_000 + b"}",
        b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":' * 200_000,
        b"<html><body>{}</body></html>",
    ],
    ids=lambda body: body[:24].hex(),
)
def test_not_strict(body: bytes) -> None:
    """Rows 13, 14, 31 and 32: refused, and the error does not quote the body."""
    with pytest.raises(NotStrictError) as caught:
        read_object(body)
    assert str(caught.value) in {"not a strict JSON object", "not a JSON object"}
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_numbers_keep_their_digits() -> None:
    """Row 80: integers and fractions stay as they were written, apart from strings."""
    read = read_object(b'{"i":2278935391225618432,"f":0.10,"s":"1","z":-0}')
    assert read == {"i": "2278935391225618432", "f": "0.10", "s": "1", "z": "-0"}
    assert [type(v) for v in read.values()] == [Digits, Fraction, str, Digits]


@given(OBJECT)
def test_reads_what_was_written(value: dict[str, Any]) -> None:
    """Every object is read as a plain reader would, numbers by their digits."""
    assert read_object(json.dumps(value).encode()) == reference(value)
    assert read_object(json.dumps(value, ensure_ascii=False).encode()) == reference(value)


@given(OBJECT)
def test_writes_what_was_read(value: dict[str, Any]) -> None:
    """Writing again changes spacing and escapes at most."""
    assert json.loads(write(read_object(json.dumps(value).encode()))) == value


@given(st.binary())
def test_no_bytes_crash(body: bytes) -> None:
    """Whatever the bytes are, both readers give something or say NotStrictError."""
    for reader in (read_object, lambda b: read_broken_off(b, "data")):
        with contextlib.suppress(NotStrictError):
            reader(body)


@given(OBJECT, st.data())
def test_a_proper_prefix_is_no_object(value: dict[str, Any], data: st.DataObject) -> None:
    """Row 12: cut anywhere, an object is no object, and what is read of it was there."""
    whole = json.dumps({"code": 0, "msg": value, "data": [value, {}]}, ensure_ascii=False).encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(NotStrictError):
        read_object(whole[:cut])
    members, elements = read_broken_off(whole[:cut], "data")
    full = {"code": "0", "msg": reference(value)}
    assert members == {k: full[k] for k in list(full)[: len(members)]}
    assert elements == [reference(value), {}][: len(elements)]


@pytest.mark.parametrize(
    ("body", "members", "elements"),
    [
        (b'{"code":0,"data":[{"a":"1"},{"a":"2"},{"a', {"code": "0"}, [{"a": "1"}, {"a": "2"}]),
        (b'{"code":0,"data":[{"a":"1"}', {"code": "0"}, [{"a": "1"}]),
        (b'{"code":0,"data":[{"a":"1"}]', {"code": "0"}, [{"a": "1"}]),
        (b'{"code":0,"data":[{"a":"\xe8\xae\xbe"},{"a":"\xe8\xae', {"code": "0"}, [{"a": "设"}]),
        (b'{"code":0,"data":[ ', {"code": "0"}, []),
        (b'{"code":0,"data":{', {"code": "0"}, []),
        (b'{"code":12', {}, []),
        (b'{"code" : 12 , "x', {"code": "12"}, []),
        (b'{"code', {}, []),
        (b"", {}, []),
        (b"garbage", {}, []),
        (b'{"msg":"]}","data":[{"a":"}"},', {"msg": "]}"}, [{"a": "}"}]),
        (b'{"msg":"\\"]}","data":[{"a":"\\', {"msg": '"]}'}, []),
    ],
)
def test_broken_off(body: bytes, members: dict[str, str], elements: list[dict[str, str]]) -> None:
    """Row 10: what is complete is read, and nothing that may go on."""
    assert read_broken_off(body, "data") == (members, elements)


@pytest.mark.parametrize(
    "body",
    [
        b'{"code":0,"data":[{"a":"1"}]}',
        b'{"code":0,"data":[{"a":"1"}],"code":1}',
        b'{"code":0,"data":[{"a":"1"}x]}',
        b'{"code":0,"code":0,"data":[{"a":"1"},',
        b'{"code":0,"data":[{"a":"1","a":"1"},',
        b'{0:0,"data":[{"a":"1"},',
        b'{"code":0,"data":[{"a":"\xff"},',
        b'{"code":0,"data":[NaN,',
        b'{"code":' + b"[" * 200_000,
    ],
)
def test_broken_otherwise(body: bytes) -> None:
    """A body that closes, or breaks the rules before it ends, did not just break off."""
    with pytest.raises(NotStrictError):
        read_broken_off(body, "data")


@pytest.mark.parametrize("unit", [b'\\"', b'"', b"{", b'{"a":', b"\\", b'"\\'])
def test_hostile_megabyte(unit: bytes) -> None:
    """Row 32: a megabyte made to be slow or large is neither."""
    body = b'{"code":0,"data":["' + unit * (1_000_000 // len(unit))
    tracemalloc.start()
    with contextlib.suppress(NotStrictError):
        read_broken_off(body, "data")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64_000_000
