"""What headers say of time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.gateway.headers import imf_date_ms, retry_after

NOW = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        (" 120 ", 120.0),
        ("007", 7.0),
        ("999999999", 999_999_999.0),
        ("1000000000", math.inf),
        ("999999999999", math.inf),
        ("9" * 5_000, math.inf),
        ("Sun, 06 Nov 1994 08:50:07 GMT", 30.0),
        ("Mon, 06 Nov 1995 08:49:37 GMT", 31_536_000.0),
        ("0", None),
        ("000", None),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("1e9", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("１２", None),
        ("١٢", None),
        ("1_0", None),
        (NOW, None),
        ("Sun, 06 Nov 1994 08:49:36 GMT", None),
        ("Sunday, 06-Nov-94 08:50:07 GMT", None),
        ("Sun Nov  6 08:50:07 1994", None),
        ("Sun, 31 Feb 1994 08:50:07 GMT", None),
        ("Sun, 06 Nov 1994 08:50:07 +0100", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Row 27: ASCII digits or an IMF-date, measured against Date; nothing else."""
    assert retry_after(value, NOW) == seconds


def test_a_moment_needs_a_date_to_be_measured_against() -> None:
    """Row 26: without the reply's own Date a moment says nothing; seconds do."""
    assert retry_after(NOW, None) is None
    assert retry_after(NOW, "now") is None
    assert retry_after("5", None) == 5.0


@given(st.text(), st.none() | st.text())
def test_no_header_raises(value: str, date: str | None) -> None:
    """Row 27: whatever it says, it is a positive number of seconds or nothing."""
    seconds = retry_after(value, date)
    assert seconds is None or seconds > 0


def test_imf_date() -> None:
    """RFC 9110's own example."""
    assert imf_date_ms(NOW) == 784_111_777_000
    assert imf_date_ms(None) is None
