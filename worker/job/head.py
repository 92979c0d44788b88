"""The small keys of a job file: name, scope, limits and the like.

Stands apart from the devices because these are read whole and checked against the types of
schema.py alone; a bound that is not in those types does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from worker.job.document import Node
from worker.job.findings import Findings, known_or, shown
from worker.job.identity import identity, text_flaw
from worker.job.schema import (
    LATER_SCOPES,
    LATER_SOURCE_KEYS,
    Abort,
    AbortEntry,
    JobFile,
    JobLimits,
    LimitsEntry,
    NoRate,
    SourceEntry,
)
from worker.job.units import parse_duration, parse_rate, parse_share

MAX_FILES = 1000
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_FORM = "write key: value lines"


class HeadReader:
    """Turns nodes into values; None where a finding was made."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    def name(self, node: Node) -> str | None:
        """The job's name: text in the source, letters, digits and -."""
        if identity(node, "name", self._findings) is None:
            return None
        name: str | None = self._value(node, JobFile, "name", "name")
        return name

    def scope(self, node: Node) -> str | None:
        """all_cached or listed, never guessed."""
        if node.kind == "scalar" and node.value in LATER_SCOPES:
            self._found(node, f"scope: {node.value}: not supported yet")
            return None
        scope: str | None = self._value(node, JobFile, "scope", "scope")
        return scope

    def reason(self, node: Node) -> str | None:
        """Free text; controls other than line breaks and tabs are refused."""
        text: str | None = self._value(node, JobFile, "reason", "reason", free=True)
        flaw = text and text_flaw("".join(text.split()))
        if flaw:
            self._found(node, f"reason: {flaw[0]}", flaw[1])
            return None
        return text

    def verify(self, node: Node) -> Any:
        """none, touched or all."""
        return self._value(node, JobFile, "verify", "verify")

    def limits(self, node: Node) -> JobLimits:
        """The bounds that are written."""
        values = self._values(node, LimitsEntry, "limits")
        if "rate" in values:
            rate = parse_rate(values["rate"])
            values["rate"] = NoRate() if rate is None else rate
        if "deadline" in values:
            values["deadline"] = parse_duration(values["deadline"])
            if not values["deadline"]:
                place = node.get("deadline") or node
                self._found(place, "limits.deadline: 0 ends the run at once", "give a longer time")
        return JobLimits(**values)

    def abort(self, node: Node) -> Abort | None:
        """The rules with their defaults; None for `off`."""
        if node.kind == "scalar":
            if node.value != "off":
                problem = f"abort: {shown(node.value)} is not known"
                self._found(node, problem, "write abort: off, or abort: {failed: 5%}")
            return None
        values = self._values(node, AbortEntry, "abort")
        if "failed" in values:
            values["failed"] = parse_share(values["failed"])
        return Abort(**values)

    def inventories(self, node: Node) -> list[Node]:
        """The file names of devices_from, with their places."""
        if node.kind != "seq":
            self._found(node, "devices_from: not a list", "write one - file: … line for each")
            return []
        if not node.items:
            self._found(node, "devices_from: is empty", "name a file, or remove it")
        if len(node.items) > MAX_FILES:
            self._found(node, f"devices_from: more than {MAX_FILES} files", "unite some")
            return []
        found = [self._inventory(item) for item in node.items]
        return [file for file in found if file is not None]

    def _inventory(self, node: Node) -> Node | None:
        values = self._values(node, SourceEntry, "devices_from", LATER_SOURCE_KEYS)
        file = node.get("file")
        if file is None:
            if node.kind == "map" and not any(node.get(key) for key in LATER_SOURCE_KEYS):
                self._found(node, "devices_from: no file", "write - file: fleet.csv")
            return None
        if "file" not in values:
            return None
        flaw = text_flaw(values["file"])
        if flaw:
            self._found(file, f"devices_from.file: {flaw[0]}", flaw[1])
            return None
        return file

    def _values(
        self, node: Node, entry: type[Struct], path: str, later: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """What a mapping gives for the keys of a type; unknown keys are findings."""
        values: dict[str, Any] = {}
        if node.kind != "map":
            self._found(node, f"{path}: not a mapping", _FORM)
        for key, value in node.entries:
            if key.value in later:
                self._found(key, f"{path}.{key.value}: not supported yet")
            elif key.value not in _hints(entry):
                remedy = known_or(key.value, _hints(entry))
                self._found(key, f"unknown key {shown(key.value)}", remedy)
            else:
                checked = self._value(value, entry, key.value, f"{path}.{key.value}")
                if checked is not None:
                    values[key.value] = checked
        return values

    def _value(
        self, node: Node, entry: type[Struct], field: str, path: str, *, free: bool = False
    ) -> Any:
        """The value of a scalar, held against the annotation of the field."""
        annotation = _hints(entry)[field]
        remedy = next(_remedies(annotation))
        if node.kind != "scalar":
            self._found(node, f"{path}: not a single value", remedy)
            return None
        if not free and (node.lines > 1 or "\n" in node.value):
            self._found(node, f"{path}: written over several lines", "write it on one line")
            return None
        try:
            return msgspec.convert(_python(node), annotation)
        except msgspec.ValidationError:
            text = shown(node.value)
            text = text if node.plain or text.startswith('"') else f'"{text}"'
            if node.tag != "str" and _accepted(node.value, annotation):
                remedy = f'quote it: "{text}"'
            self._found(node, f"{path}: {text} is not accepted", remedy)
            return None

    def _found(self, node: Node, problem: str, remedy: str = "") -> None:
        if node.kind != "refused":
            self._findings.add(node.line, node.column, problem, remedy)


def _python(node: Node) -> object:
    """Text, or a whole number that is written plainly; anything else stays unacceptable."""
    if node.tag == "str":
        return node.value
    return int(node.value) if _DECIMAL.fullmatch(node.value) else None


def _accepted(text: str, annotation: Any) -> bool:
    try:
        msgspec.convert(text, annotation)
    except msgspec.ValidationError:
        return False
    return True


@cache
def _hints(entry: type[Struct]) -> Mapping[str, Any]:
    return get_type_hints(entry, include_extras=True)


def _remedies(annotation: Any) -> Iterator[str]:
    """The remedies that stand in the metadata, the outermost first."""
    for part in (*getattr(annotation, "__metadata__", ()), *get_args(annotation)):
        if not isinstance(part, Meta):
            yield from _remedies(part)
        elif part.extra:
            yield part.extra["remedy"]
