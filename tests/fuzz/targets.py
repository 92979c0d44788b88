"""What is fuzzed, and what must hold of each input: no crash, nothing altered.

What was accepted is compared with another reading of the same bytes: PyYAML's own tree of plain
strings, the csv module, the json module. An input is refused only in declared errors, with places
and in words that can be printed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.fuzz import grammar
from tests.job.desk import Desk
from worker.config import load_settings
from worker.errors import InvalidInputError, UsageError
from worker.gateway.evidence import read_cancel, read_search
from worker.gateway.exchange import Reply
from worker.job.plan import load_plain
from worker.model import Ambiguous, Answered, CancelAll, DeviceKey, Page, Refused

_HEAD = "name: a\norgId: o1\nscope: all_cached\n"
_COMPARED = 200  # ids of one reply: each is looked for in the whole text
Device = tuple[str | None, str | None, str | None, str | None]
Target = Callable[[Desk, bytes], str]


class AlteredError(AssertionError):
    """What was accepted is not what stands in the source."""


def job(desk: Desk, content: bytes) -> str:
    """Read as a job file; `accepted` or `refused`."""
    _forget(desk)
    if _refused(lambda: desk.read(content)):
        return "refused"
    tree = yaml.load(content.decode("utf-8-sig"), yaml.CBaseLoader)  # strings only
    if "devices_from" not in tree:
        _same(desk, [device for entry in tree["devices"] for device in _of_entry(entry)])
    return "accepted"


def table(desk: Desk, content: bytes) -> str:
    """Read as the CSV inventory of a job."""
    _forget(desk)
    (desk.folder / "f.csv").write_bytes(content)
    if _refused(lambda: desk.read(f"{_HEAD}devices_from: [{{file: f.csv}}]\n")):
        return "refused"
    rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    header, *cells = [row for row in rows if row]
    named = [dict(zip(header, row, strict=True)) for row in cells]
    _same(desk, [_of_row(row) for row in named])
    return "accepted"


def lines(desk: Desk, content: bytes) -> str:
    """Read as the NDJSON inventory of a job."""
    _forget(desk)
    (desk.folder / "f.ndjson").write_bytes(content)
    if _refused(lambda: desk.read(f"{_HEAD}devices_from: [{{file: f.ndjson}}]\n")):
        return "refused"
    text = content.decode("utf-8-sig")
    _same(desk, [_of_row(json.loads(line)) for line in text.split("\n") if line.strip()])
    return "accepted"


def config(desk: Desk, content: bytes) -> str:
    """Read as a configuration file, without any environment."""
    path = desk.folder / "config.yaml"
    path.write_bytes(content)
    environ = {"HOME": str(desk.folder)}
    if _refused(lambda: load_settings(load_plain, environ, config=str(path))):
        return "refused"
    return "accepted"


def cancelled(desk: Desk, content: bytes) -> str:
    """Read as the body of a reply to a cancel: each id stands in the body as it was read."""
    call = CancelAll(DeviceKey("p", "d"), "o1")
    read = read_cancel(call, Reply(sent=True, status=200, body=content))
    if isinstance(read, Ambiguous):
        _stand_in([c.commandId for c in read.partial], content)
        return "refused"
    if isinstance(read, Answered):
        said = json.loads(content, parse_int=str, parse_float=str)
        if type(json.loads(content)["code"]) is not int or said["code"] != "0":
            raise AlteredError("accepted without code 0")
        _stand_in([c.commandId for c in read.commands], content)
        return "accepted"
    if not isinstance(read, Refused):
        raise AlteredError(f"a reply that was sent is {read!r}")
    return "refused"


def searched(desk: Desk, content: bytes) -> str:
    """Read as the body of a reply to a search."""
    read = read_search(DeviceKey("p", "d"), "o1", 2, 1, Reply(sent=True, status=200, body=content))
    if not isinstance(read, Page):
        return "refused"
    _stand_in([c.commandId for c in read.commands], content)
    return "accepted"


#: name -> what reads it, what draws it
TARGETS: Mapping[str, tuple[Target, Callable[[Any], bytes]]] = {
    "job (YAML)": (job, grammar.job),
    "inventory (CSV)": (table, grammar.table),
    "inventory (NDJSON)": (lines, grammar.lines),
    "configuration (YAML)": (config, grammar.config),
    "reply to a cancel (JSON)": (cancelled, grammar.answer),
    "reply to a search (JSON)": (searched, grammar.answer),
}


def _refused(read: Callable[[], object]) -> bool:
    """Whether it is refused; then with places, in printable words."""
    refusal: UsageError | None = None
    try:
        read()
    except UsageError as error:
        refusal = error
    if isinstance(refusal, InvalidInputError):
        assert refusal.findings
        for finding in refusal.findings:
            assert finding.line >= 1
            assert finding.column >= 1
            assert f"{finding.problem}{finding.remedy}".isprintable(), finding
    elif refusal is not None:
        assert str(refusal).isprintable(), str(refusal)
    return refusal is not None


def _forget(desk: Desk) -> None:
    for name in ("f.csv", "f.ndjson"):
        Path(desk.folder, name).unlink(missing_ok=True)


def _of_entry(entry: Mapping[str, Any]) -> list[Device]:
    ids = " ".join(entry["commandIds"]) if "commandIds" in entry else None
    keys = entry.get("deviceKeys", [entry.get("deviceKey")])
    return [(entry.get("productKey"), key, entry.get("assetId"), ids) for key in keys]


def _of_row(row: Mapping[str, Any]) -> Device:
    names = (row.get(name) or None for name in ("productKey", "deviceKey", "assetId"))
    product, device, asset = names
    return product, device, asset, None


def _same(desk: Desk, source: list[Device]) -> None:
    if desk.devices() != source:
        raise AlteredError(f"read {desk.devices()}, the source says {source}")


def _stand_in(ids: list[str], body: bytes) -> None:
    """Each id as the body spells it, whichever way JSON may spell it."""
    raw = body.decode("utf-8", "replace")
    plain = raw.encode("ascii", "backslashreplace").decode()
    for each in ids[:_COMPARED]:
        if each not in raw and json.dumps(each)[1:-1] not in raw and each not in plain:
            raise AlteredError(f"{each!r} does not stand in the body")
