"""Signatures, queries and timestamps against the published vectors and by their laws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from tests.gateway.fake_clock import FakeClock
from worker.gateway.signing import Timestamps, encode_query, encryption, joined, sign

VECTORS = json.loads((Path(__file__).parent / "vectors" / "signing.json").read_text("utf-8"))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@pytest.mark.parametrize("vector", VECTORS["token"], ids=lambda v: v["name"])
def test_encryption(vector: dict[str, Any]) -> None:
    """The token service's proof of the keys."""
    assert vector["encryption"] == encryption(
        vector["access_key"], vector["timestamp"], vector["secret"]
    )


@pytest.mark.parametrize("vector", VECTORS["call"], ids=lambda v: v["name"])
def test_signature(vector: dict[str, Any]) -> None:
    """The signature of the pairs that a target decodes to."""
    pairs = parse_qsl(urlsplit(vector["target"]).query, strict_parsing=True)
    assert vector["signature"] == sign(
        vector["access_token"],
        joined(pairs),
        vector["body"].encode(),
        vector["timestamp"],
        vector["secret"],
    )


@given(st.dictionaries(TEXT, TEXT, min_size=1))
@example({"deviceKey": "a&commandId=1", "x": "x&deviceKey=other"})
@example({"a": "100%2B", "b": "a b", "c": "设备1", "d": "%2F", "e": "#", "f": ";", "g": "+"})
@example({"a": "/?,:@", "b": "\r\n", "c": "\x00", "d": "a=b", "e": "%", "f": "%zz"})
def test_the_wire_says_what_was_meant(parameters: dict[str, str]) -> None:
    """Row 68: whatever a value holds, a form decoder reads back exactly the pairs."""
    pairs = list(parameters.items())
    wire = encode_query(pairs)
    assert parse_qsl(wire, strict_parsing=True) == pairs
    assert wire.isascii()
    assert set(wire).isdisjoint(" #\r\n;\x00")


def test_the_short_way_encodes_as_yarl_does() -> None:
    """What needs no encoding is not encoded, and that is yarl's opinion of every character."""
    for sign_ in map(chr, [*range(0x180), 0x2028, 0xFF17, 0x1F600]):
        for parameters in ({"a": sign_}, {"a": f"x{sign_}y", "b": "c"}, {f"a{sign_}": "b"}):
            wire = encode_query(list(parameters.items()))
            assert wire == URL.build(query=parameters).raw_query_string


def test_plus_and_space() -> None:
    """A plus is %2B; a space arrives as a space."""
    assert encode_query([("a", "b+c d")]) == "a=b%2Bc+d"


@pytest.mark.parametrize(
    "pairs", [[("commandId", "")], [("a", "1"), ("a", "2")], [("a", "1"), ("a", "1")]]
)
def test_no_parameter_is_lost(pairs: list[tuple[str, str]]) -> None:
    """An empty value or a repeated name is refused: it could widen a call."""
    with pytest.raises(ValueError, match="repeated or has no value"):
        encode_query(pairs)


def test_like_requests_get_increasing_timestamps() -> None:
    """Within one millisecond like ones count up, others share the last."""
    stamps = Timestamps(FakeClock(wall=5_000))
    assert [stamps.take("a") for _ in range(3)] == [5_000, 5_001, 5_002]
    assert stamps.take("b") == 5_002
    assert stamps.take("a", b"body") == 5_002
    assert stamps.take("b") == 5_003


def test_a_timestamp_follows_the_clock() -> None:
    """Once the clock has passed the last one, it is the clock again."""
    clock = FakeClock(wall=5_000)
    stamps = Timestamps(clock)
    assert [stamps.take("a"), stamps.take("a")] == [5_000, 5_001]
    clock.pass_ms(500)
    assert stamps.take("a") == 5_500


def test_a_small_step_back_is_bridged_a_large_one_followed() -> None:
    """Up to a second ahead of the clock is allowed; more than that starts again from it."""
    clock = FakeClock(wall=50_000)
    stamps = Timestamps(clock)
    assert stamps.take("a") == 50_000
    clock.wall -= 400
    assert [stamps.take("b"), stamps.take("a")] == [50_000, 50_001]
    clock.wall -= 10_000
    assert stamps.take("a") == 39_600


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300))))
def test_no_signature_twice(steps: list[tuple[int, int]]) -> None:
    """While the clock is not set back, no like requests share a timestamp, none runs ahead."""
    clock = FakeClock(wall=100_000)
    stamps = Timestamps(clock)
    seen = set()
    for key, passed in steps:
        clock.pass_ms(passed)
        stamp = stamps.take(key)
        assert clock.wall <= stamp <= clock.wall + 1_000
        assert (key, stamp) not in seen
        seen.add((key, stamp))


def test_memory_is_bounded() -> None:
    """What has an older timestamp is forgotten."""
    clock = FakeClock(wall=0)
    stamps = Timestamps(clock)
    for n in range(50_000):
        clock.pass_ms(n % 2)
        stamps.take(n)
    assert len(stamps._given) <= 2
