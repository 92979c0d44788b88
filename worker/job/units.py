"""Durations, rates and shares as people write them: `45m`, `50/s`, `5%`.

Stands apart because job, configuration and flags share one spelling. A unit is always required.
"""

from __future__ import annotations

import re

_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_PER = {"s": 1, "m": 60}

DURATION_PATTERN = "^[0-9]{1,9}(ms|s|m|h|d)$"
RATE_PATTERN = "^(none|0*[1-9][0-9]{0,8}/[sm])$"
SHARE_PATTERN = r"^(100|[0-9]{1,2}(\.[0-9]{1,4})?)%$"

_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)", re.ASCII)
_RATE = re.compile(r"(0*[1-9][0-9]{0,8})/([sm])", re.ASCII)
_SHARE = re.compile(r"(100|[0-9]{1,2}(?:\.[0-9]{1,4})?)%", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds of `250ms`, `5s`, `10m`, `2h` or `1d`; ValueError says what to write."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("write a whole number with its unit, such as 250ms, 5s, 10m, 2h or 1d")
    return int(match[1]) * _MILLISECONDS[match[2]] / 1000


def format_duration(seconds: float) -> str:
    """The shortest exact spelling, to the millisecond: 2700.0 is `45m`."""
    left = round(seconds * 1000)
    unit = next((unit for unit, size in _MILLISECONDS.items() if left and left % size == 0), "s")
    return f"{left // _MILLISECONDS[unit]}{unit}"


def parse_rate(text: str) -> float | None:
    """Requests a second of `50/s` or `600/m`, None for `none`; ValueError says what to write."""
    if text == "none":
        return None
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError("write requests per second or minute, such as 50/s or 600/m, or none")
    return int(match[1]) / _PER[match[2]]


def format_rate(rate: float | None) -> str:
    """`50/s` where that is exact, else by the minute; None is `none`."""
    if rate is None:
        return "none"
    return f"{int(rate)}/s" if rate == int(rate) else f"{round(rate * 60)}/m"


def parse_share(text: str) -> float:
    """The share of `5%`: 0.05; ValueError says what to write."""
    match = _SHARE.fullmatch(text)
    if match is None:
        raise ValueError("write a percentage from 0% to 100%, such as 5%")
    return float(match[1]) / 100
