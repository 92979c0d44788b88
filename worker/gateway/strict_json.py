"""JSON read as evidence: what is not plainly one object is not an answer.

Python's own reader keeps the last of two equal keys, takes NaN, and turns numbers into floats
that lose digits. Here a key may occur once, numbers keep the digits they came with, bytes are
strict UTF-8 without a BOM. A body that broke off can still be asked for what was complete.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any, NoReturn

_LONGEST_NUMBER = 1_000  # characters; Python itself refuses to convert more than 4,300 digits


class NotStrictError(ValueError):
    """The bytes are not one strict JSON object."""


class Digits(str):
    """A JSON integer, by the digits it came with."""

    __slots__ = ()


class Fraction(str):
    """A JSON number with a fraction or an exponent, as it came."""

    __slots__ = ()


def read_object(body: bytes) -> dict[str, Any]:
    """The one object that the bytes are; raises NotStrictError for anything else."""
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except (ValueError, RecursionError):
        # Raised anew: a JSON or Unicode error carries the text, which may be anything.
        raise NotStrictError("not a strict JSON object") from None
    if not isinstance(value, dict):
        raise NotStrictError("not a JSON object")
    return value


def read_broken_off(body: bytes, list_name: str) -> tuple[dict[str, Any], list[Any]]:
    """What is complete in an object that breaks off: members before a list, the list's elements.

    Raises NotStrictError when the object is closed (it did not break off) or broken otherwise.
    The last element may be a number cut short; an object among them is whole.
    """
    try:
        # Not final: a character cut in two at the end is left out, elsewhere it is an error.
        text = codecs.getincrementaldecoder("utf-8")("strict").decode(body)
        if _closes(text):
            raise NotStrictError("the object is complete")
        return _members(text, list_name)
    except (UnicodeDecodeError, RecursionError):
        raise NotStrictError("not a strict JSON object") from None


def write(value: Any) -> str:
    """The value as JSON again, numbers with the digits they came with."""
    if isinstance(value, Digits | Fraction):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{write(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(write, value)) + "]"
    return json.dumps(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotStrictError("a key occurs twice")
    return members


def _digits(text: str) -> Digits:
    if len(text) > _LONGEST_NUMBER:
        raise NotStrictError("a number is too long")
    return Digits(text)


def _fraction(text: str) -> Fraction:
    if len(text) > _LONGEST_NUMBER:
        raise NotStrictError("a number is too long")
    return Fraction(text)


def _refuse(_constant: str) -> NoReturn:
    raise NotStrictError("NaN and Infinity are not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_int=_digits,
    parse_float=_fraction,
    parse_constant=_refuse,
)
_SPACE = re.compile(r"[ \t\n\r]*")
# A string, finished or not, or a bracket. Possessive: hostile text costs linear time.
_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[{}\[\]]', re.DOTALL)


def _closes(text: str) -> bool:
    """Whether every bracket that was opened is closed somewhere."""
    depth = 0
    for match in _BRACKETS.finditer(text):
        if match[0] in "{[":
            depth += 1
        elif match[0] in "}]":
            depth -= 1
            if depth <= 0:
                return True
    return False


def _members(text: str, list_name: str) -> tuple[dict[str, Any], list[Any]]:
    members: dict[str, Any] = {}
    at = _after(text, 0, "{")
    while at is not None:
        key, at = _value(text, at)
        at = None if at is None else _after(text, at, ":")
        if at is None:
            break
        if type(key) is not str or key in members:
            raise NotStrictError("not a strict JSON object")
        inside = _after(text, at, "[") if key == list_name else None
        if inside is not None:
            return members, _elements(text, inside)
        value, at = _value(text, at)
        # Only a comma proves that the value is whole: `12` may have been `1203`.
        at = None if at is None else _after(text, at, ",")
        if at is not None:
            members[key] = value
    return members, []


def _elements(text: str, at: int | None) -> list[Any]:
    elements: list[Any] = []
    while at is not None:
        value, at = _value(text, at)
        if at is not None:
            elements.append(value)
            at = _after(text, at, ",")
    return elements


def _value(text: str, at: int) -> tuple[Any, int | None]:
    """The value that starts here and where it ends; None when it breaks off."""
    try:
        return _DECODER.raw_decode(text, _skip(text, at))
    except json.JSONDecodeError:
        return None, None


def _after(text: str, at: int, sign: str) -> int | None:
    """The place behind the sign, when that is what comes next."""
    at = _skip(text, at)
    return at + 1 if text.startswith(sign, at) else None


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
