"""Durations, rates and shares: one spelling, a unit always."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.job.units import (
    DURATION_PATTERN,
    RATE_PATTERN,
    SHARE_PATTERN,
    format_duration,
    format_rate,
    parse_duration,
    parse_rate,
    parse_share,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("5s", 5.0), ("10m", 600.0), ("2h", 7200.0), ("1d", 86400.0), ("0s", 0.0)],
)
def test_duration(text: str, seconds: float) -> None:
    """A duration is read in seconds and written back as it was."""
    assert (parse_duration(text), format_duration(seconds)) == (seconds, text)


@pytest.mark.parametrize("text", ["", "5", "s", "1.5s", "-1s", "5 s", "5S", "1w", "5s\n", "٥s"])
def test_no_duration(text: str) -> None:
    """Anything else is refused with what to write."""
    with pytest.raises(ValueError, match="such as 250ms, 5s, 10m, 2h or 1d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("50/s", 50.0), ("30/m", 0.5), ("1/m", 1 / 60), ("7/m", 7 / 60), ("none", None)],
)
def test_rate(text: str, rate: float | None) -> None:
    """A rate is read in requests a second and written back as it was."""
    assert (parse_rate(text), format_rate(rate)) == (rate, text)


@pytest.mark.parametrize(
    "text", ["", "50", "0/s", "000/m", "1.5/s", "-1/s", "50/h", "50/s\n", "None"]
)
def test_no_rate(text: str) -> None:
    """Anything else is refused with what to write, a rate of zero too."""
    with pytest.raises(ValueError, match="such as 50/s or 600/m, or none"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "share"), [("5%", 0.05), ("0%", 0.0), ("100%", 1.0), ("2.5%", 0.025)]
)
def test_share(text: str, share: float) -> None:
    """A percentage is read as a share."""
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["", "5", "0.05", "101%", "-1%", "5 %", "5%\n", ".5%"])
def test_no_share(text: str) -> None:
    """Anything else is refused with what to write."""
    with pytest.raises(ValueError, match="from 0% to 100%"):
        parse_share(text)


@given(st.integers(1, 10**9 - 1), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_duration_round_trip(number: int, unit: str) -> None:
    """What is written reads as the same time."""
    seconds = parse_duration(f"{number}{unit}")
    spelled = format_duration(seconds)
    if len(spelled) <= 10:
        assert parse_duration(spelled) == seconds


@given(st.integers(1, 10**6), st.sampled_from("sm"))
def test_rate_round_trip(number: int, unit: str) -> None:
    """What is written reads as the same rate."""
    rate = parse_rate(f"{number}/{unit}")
    assert parse_rate(format_rate(rate)) == rate


@given(st.text(st.sampled_from("0159.%/smhdnoe "), max_size=6))
def test_patterns_agree(text: str) -> None:
    """The patterns of the schema take exactly what is read."""
    for pattern, parse in (
        (DURATION_PATTERN, parse_duration),
        (RATE_PATTERN, parse_rate),
        (SHARE_PATTERN, parse_share),
    ):
        try:
            parse(text)
        except ValueError:
            assert re.search(pattern, text) is None
        else:
            assert re.search(pattern, text)
