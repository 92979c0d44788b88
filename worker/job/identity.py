"""Which text may name a device, an organization or a command.

Stands apart because YAML, CSV and NDJSON share the rules. Text passes unchanged or not at all:
it is never trimmed, folded or normalised, because the result may be somebody else's device.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from worker.job.document import Node
from worker.job.findings import Findings, shown

_PLAIN = re.compile(r"[!-~]{1,1024}")  # printable ASCII without a space: nothing to look for
_DOCUMENTED = re.compile(r"[A-Za-z0-9_.:-]{4,64}")  # EnOS: of a deviceKey
_LONGEST = 64 << 10  # characters
_COMMAND = re.compile(r"[0-9]{1,32}")
_ROUNDED = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?[eE][+-][0-9]+")  # as spreadsheets write it
_UNSEEN = {
    "Cc": "a control character",
    "Cf": "an invisible character",
    "Cs": "half a surrogate pair",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}
_MEANS = {
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
    "timestamp": "a date",
    "merge": "a merge",
    "value": "a special key",
}

Flaw = tuple[str, str]  # the problem and the remedy


def text_flaw(text: str) -> Flaw | None:
    """What forbids the text as an identity; None when nothing does."""
    if _PLAIN.fullmatch(text):
        return None
    if len(text) > _LONGEST:
        return "is longer than 64 KiB", "shorten it"
    if not text:
        return "is empty", "give its value"
    for character in text:
        unseen = _UNSEEN.get(unicodedata.category(character))
        if unseen:
            return f"holds U+{ord(character):04X}, {unseen}", "remove it"
    if text != text.strip():
        return "begins or ends with a space", "remove it"
    return None


def rounded_flaw(text: str) -> Flaw | None:
    """A number that a spreadsheet rounded is not the number that was meant."""
    if not _ROUNDED.fullmatch(text):
        return None
    return f"{shown(text)} is not exact, a spreadsheet rounded this", "export the column as text"


def command_flaw(text: str) -> Flaw | None:
    """What forbids the text as a commandId."""
    if _COMMAND.fullmatch(text):
        return None
    return f"{shown(text)} is not a commandId", "write its 1 to 32 digits"


def is_documented(deviceKey: str) -> bool:
    """Whether the key stays within what EnOS documents: 4 to 64 letters, digits, `-_.:`."""
    return _DOCUMENTED.fullmatch(deviceKey) is not None


def identity(node: Node, name: str, findings: Findings) -> str | None:
    """The text of a scalar that names something; None when a finding was made."""
    text = node.value
    if node.tag == "str" and node.lines == 1 and _PLAIN.fullmatch(text):
        return text
    flaw = _node_flaw(node)
    if flaw is None:
        return text
    if node.kind != "refused":
        findings.add(node.line, node.column, f"{name}: {flaw[0]}", flaw[1])
    return None


def _node_flaw(node: Node) -> Flaw | None:
    if node.kind != "scalar":
        return "not text", "write one quoted value"
    if node.tag != "str":
        if not node.value:
            return text_flaw("")
        text = shown(node.value)
        return f"{text} is {_MEANS[node.tag]} in YAML", f'quote it: "{text}"'
    if node.lines > 1:
        return "written over several lines", "write it on one line"
    return text_flaw(node.value)


def unusual() -> Flaw:
    """What a deviceKey outside the documented characters is told."""
    return "deviceKey is unusual", "EnOS documents 4 to 64 letters, digits and -_.:"


def command_ids(values: Sequence[str], name: str) -> Flaw | None:
    """What forbids the list of one device: an empty one, a malformed id, one given twice."""
    if not values:
        return f"{name}: is empty", "give at least one commandId"
    seen: set[str] = set()
    for value in values:
        flaw = command_flaw(value)
        if flaw:
            return f"{name}: {flaw[0]}", flaw[1]
        if value in seen:
            return f"{name}: {shown(value)} is given twice", "give it once"
        seen.add(value)
    return None
