"""From an event and its fields to one line: JSON for shippers, columns for people.

Apart from the log because rendering is hostile ground: fields carry what a gateway said. What
leaves here is one line a record, without a control character, a secret or a traceback. A
renderer never raises: a value it cannot write becomes the name of its type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from typing import Any

import msgspec
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter

from worker.clock import Clock, rfc3339
from worker.model import Secret
from worker.text import escaped, escaped_json
from worker.writing import Form

_DAY_MS = 86_400_000
_DEPTH = 8  # how deep a value is followed that is not plain JSON
OWN_KEYS = frozenset(
    {"timestamp", "level", "event", "exc_info", "stack_info", "exception", "stack"}
)


def stamp(ms: int) -> str:
    """Unix milliseconds as RFC 3339 in UTC, several times as fast as `clock.rfc3339`.

    A moment that no calendar has (before year 1 or after 9999) is shown as its number.
    """
    days, rest = divmod(ms, _DAY_MS)
    seconds, milli = divmod(rest, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    day = _day(days)
    return f"{day}{hour:02d}:{minute:02d}:{second:02d}.{milli:03d}Z" if day else str(ms)


@lru_cache(maxsize=1024)
def _day(days: int) -> str:
    try:
        return rfc3339(days * _DAY_MS)[:11]
    except (ValueError, OverflowError, OSError):
        return ""


# ---------------------------------------------------------------- JSON


#: A file that holds such lines.
LOG = Form(
    "a log of ours",
    re.compile(rb'\{"timestamp":"[^"]{20,40}","level":"[a-z]+","event":"[a-z_.]+"[,}]'),
)


class JsonLines:
    """One JSON object a line; `timestamp`, `level`, `event` first, then what is bound.

    What repeats is encoded once: a head for each level, event and bound context, and the
    second of the timestamp. A logger keeps the heads.
    """

    def __init__(self, clock: Clock) -> None:
        self._wall_ms = clock.wall_ms
        self._second = -1
        self._opening = b""

    def head(self, level: str, event: object, bound: Mapping[str, Any]) -> bytes:
        """The part between timestamp and fields; `bound` holds no key of the line itself."""
        known = {"level": level, "event": event, **bound}
        return b'Z",' + _body(known)[1:-1]

    def line(self, head: bytes, fields: Mapping[str, Any]) -> bytes:
        """A whole line; `fields` hold no key that the head or the line itself has."""
        second, milli = divmod(self._wall_ms(), 1000)
        if second != self._second:
            self._opening = f'{{"timestamp":"{_to_the_second(second)}'.encode()
            self._second = second
        if not fields:
            return b"".join((self._opening, _MILLI[milli], head, b"}\n"))
        body = _body(fields)
        return b"".join((self._opening, _MILLI[milli], head, b",", body[1:], b"\n"))


def _body(fields: Mapping[str, Any]) -> bytes:
    try:
        body = _encode(fields)
    except _TURNED_DOWN:
        body = _encode(plain(fields))
    return escaped_json(body)


def _to_the_second(second: int) -> str:
    moment = stamp(second * 1000)
    return moment[:-4] if moment.endswith("Z") else "9999-12-31T23:59:59."


def without_own_keys(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without the keys that a line sets itself, and without any traceback.

    Of an exception only the name of its class stays: its text may carry headers or a URL.
    """
    kept = {key: value for key, value in fields.items() if key not in OWN_KEYS}
    failure = fields.get("exc_info")
    if isinstance(failure, tuple) and len(failure) == 3:
        failure = failure[1]
    if isinstance(failure, BaseException):
        kept["exception"] = type(failure).__name__
    return kept


def opaque(value: object) -> str:
    """What is shown of a value that is no plain data: `***`, or the name of its type."""
    return "***" if isinstance(value, Secret) else f"<{type(value).__name__}>"


def plain(value: object, depth: int = _DEPTH) -> Any:
    """The value as plain data that always encodes; slow, for what the encoder turned down."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if depth and isinstance(value, Mapping):
        return {_key(key): plain(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, depth - 1) for item in value]
    return opaque(value)


def _key(key: object) -> str:
    return str(plain(key)) if isinstance(key, (str, int)) else opaque(key)


_encode = msgspec.json.Encoder(enc_hook=opaque).encode
_TURNED_DOWN = (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError)
_MILLI = tuple(f"{milli:03d}".encode() for milli in range(1000))


# ---------------------------------------------------------------- console


class ConsoleLines:
    """structlog's ConsoleRenderer behind an escaper: it shows text as it is by itself."""

    def __init__(self, clock: Clock, colors: bool) -> None:
        self._clock = clock
        style = ConsoleRenderer.get_default_column_styles(colors)
        levels = ConsoleRenderer.get_default_level_styles(colors)
        rest = KeyValueColumnFormatter(style.kv_key, style.kv_value, style.reset, shown)
        time = KeyValueColumnFormatter(None, style.timestamp, style.reset, shown)
        event = KeyValueColumnFormatter(None, style.bright, style.reset, shown, width=18)
        self._columns = ConsoleRenderer(
            sort_keys=False,
            columns=[
                Column("", rest),
                Column("timestamp", time),
                Column("level", _Level(levels, style.reset)),
                Column("event", event),
            ],
        )

    def __call__(self, logger: object, level: str, fields: MutableMapping[str, Any]) -> bytes:
        event = fields.pop("event", "")
        if not OWN_KEYS.isdisjoint(fields):
            fields = without_own_keys(fields)
        line: dict[str, Any] = {
            "timestamp": stamp(self._clock.wall_ms()),
            "level": level,
            "event": event,
        }
        # None is left out: a person reads what is there
        line |= {escaped(_key(k)): v for k, v in fields.items() if v is not None}
        text = self._columns(logger, level, line)
        return f"{text}\n".encode("utf-8", "backslashreplace")


class _Level:
    """The level, padded and coloured."""

    def __init__(self, styles: Mapping[str, str], reset: str) -> None:
        self._styles = styles
        self._reset = reset

    def __call__(self, key: str, value: object) -> str:  # noqa: ARG002
        return f"{self._styles.get(str(value), '')}{value!s:<8}{self._reset}"


def shown(value: object) -> str:
    """A value on a terminal: text as it is but escaped, all else as JSON."""
    if isinstance(value, str):
        return escaped(value)
    try:
        text = _encode(value).decode()
    except _TURNED_DOWN:
        text = _encode(plain(value)).decode()
    return escaped(text.strip('"') if isinstance(value, Secret) else text)
