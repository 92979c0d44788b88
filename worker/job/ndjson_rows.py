"""NDJSON: one object a line, each value a string; a number is refused, not written out."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import IO, Any

from worker.job.findings import known_or, shown
from worker.job.identity import text_flaw
from worker.job.inventory_row import COLUMNS, Flawed, Inventory, text_lines

MAX_KEYS = 100


class _Number:
    """A JSON number as it is spelled."""

    def __init__(self, text: str) -> None:
        self.text = text


class _TwiceError(ValueError):
    """A key that an object has twice."""


def read_ndjson(stream: IO[bytes], inventory: Inventory) -> None:
    """Give each object to the inventory; blank lines are skipped."""
    for line, text in text_lines(stream):
        if not text or text.isspace():
            continue
        column, flaws = 1, []
        try:
            value = _DECODER.decode(text)
        except json.JSONDecodeError as error:
            column = error.colno
            flaws = [("", f"not JSON, {error.msg}", "write one object a line")]
        except _TwiceError as error:
            flaws = [("", f"{shown(str(error))} is written twice", "write it once")]
        except RecursionError:
            flaws = [("", "nested too deep", "write one flat object a line")]
        else:
            flaws = _take(line, value, inventory)
        for _, problem, remedy in flaws:
            inventory.findings.add(line, column, problem, remedy)


def _take(line: int, value: Any, inventory: Inventory) -> list[Flawed]:
    if type(value) is not dict:
        return [("", "not an object", 'write {"productKey": "…", "deviceKey": "…"}')]
    if len(value) > MAX_KEYS:
        return [("", f"more than {MAX_KEYS} keys", "leave out what is not needed")]
    flaws = [flaw for name, one in value.items() if (flaw := _value_flaw(name, one))]
    if flaws:
        return flaws
    get = value.get
    ids = get("commandIds")
    keys = get("productKey"), get("deviceKey"), get("assetId")
    return inventory.take(line, *keys, get("orgId"), ids)


def _value_flaw(name: str, value: Any) -> Flawed | None:
    """What is wrong with a value by its kind; what its text may be is the inventory's rule."""
    if name not in COLUMNS:
        return "", f"unknown key {shown(name)}", known_or(name, COLUMNS)
    if name != "commandIds":
        return _text(name, value)
    if type(value) is not list:
        return "", "commandIds: not an array", 'write ["…"]'
    return next((flaw for one in value if (flaw := _text(name, one))), None)


def _text(name: str, value: Any) -> Flawed | None:
    if type(value) is str:
        if value:
            return None
        problem, remedy = text_flaw("") or ("", "")
        return "", f"{name}: {problem}", remedy
    if type(value) is _Number:
        return "", f"{name}: {shown(value.text)} is a number", f'quote it: "{shown(value.text)}"'
    return "", f"{name}: not a string", "write a string in quotes"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = sorted(key for key, _ in pairs)
        raise _TwiceError(next(a for a, b in pairwise(names) if a == b))
    return found


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_Number, parse_float=_Number, parse_constant=_Number
)
