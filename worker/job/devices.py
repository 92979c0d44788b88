"""The `devices` of a job file, streamed: every form of an entry becomes rows.

Stands apart from the rest of the job file because this part may hold a million devices: nothing
of it is kept but the row at hand.
"""

from __future__ import annotations

import tempfile
from typing import IO

from msgspec import Struct
from msgspec.structs import fields

from worker.job.document import Document, Node
from worker.job.findings import Findings
from worker.job.identity import command_ids, identity, is_documented, unusual
from worker.job.rows import Collector, Row
from worker.job.schema import DeviceEntry

_KEYS = tuple(field.name for field in fields(DeviceEntry))
_SPOOL = 1 << 20  # bytes in memory
ONE = "give assetId, or productKey and deviceKey"


class _Entry(Struct):
    """What one entry gave so far; a field that was found wanting is None."""

    given: dict[str, str | None] = {}
    ids: list[str] | None = None
    broken: bool = False  # a finding was made
    spooled: bool = False  # deviceKeys wait for their productKey


class DeviceReader:
    """Reads the sequence of devices that is ahead in a document."""

    def __init__(
        self, document: Document, collector: Collector, findings: Findings, warnings: Findings
    ) -> None:
        self._document = document
        self._collector = collector
        self._findings = findings
        self._warnings = warnings
        self._spool: IO[str]

    def read(self) -> None:
        """Take the whole sequence."""
        head = self._document.peek()
        if head.kind != "seq":
            self._found(head, "devices: not a list", "write one - {…} line for each device")
            self._document.skip()
            return
        empty = True
        with tempfile.SpooledTemporaryFile(_SPOOL, "w+", encoding="utf-8", newline="\n") as spool:
            self._spool = spool
            for _ in self._document.items():
                empty = False
                self._entry()
        if empty:
            self._found(head, "devices: is empty", "name at least one device")

    def _entry(self) -> None:
        head = self._document.peek()
        if head.kind != "map":
            self._found(head, "not a device", ONE)
            self._document.skip()
            return
        entry = _Entry()
        before = self._findings.count
        for name in self._document.keys(_KEYS):
            if name == "deviceKeys":
                entry.given[name] = name
                self._keys(entry)
            elif name == "commandIds":
                entry.given[name] = name
                self._ids(entry)
            else:
                entry.given[name] = identity(self._document.node(), name, self._findings)
        entry.broken = self._findings.count > before
        self._finish(head, entry)

    def _finish(self, head: Node, entry: _Entry) -> None:
        given = entry.given
        fault = None if entry.broken else _fault(given)
        if fault:
            self._found(head, *fault)
        elif not entry.broken and "deviceKeys" not in given:
            deviceKey = given.get("deviceKey")
            self._warn(head, deviceKey)
            ids = " ".join(entry.ids) if entry.ids else None
            asset, product = given.get("assetId"), given.get("productKey")
            row = Row(0, head.line, head.column, product, deviceKey, asset, ids)
            self._collector.add(row)
        if entry.spooled:
            if not fault and not entry.broken:
                self._replay(given["productKey"])
            self._spool.seek(0)
            self._spool.truncate()

    def _keys(self, entry: _Entry) -> None:
        """Stream deviceKeys; without a productKey yet they wait in a spool."""
        head = self._document.peek()
        if head.kind != "seq":
            self._found(head, "deviceKeys: not a list", "write deviceKeys: [mqtt_03, mqtt_04]")
            self._document.skip()
            return
        product = entry.given.get("productKey")
        count = 0
        for node in self._document.scalars():
            count += 1
            key = identity(node, "deviceKeys", self._findings)
            if key is None:
                continue
            self._warn(node, key)
            if product is not None:
                self._collector.add(Row(0, node.line, node.column, product, key, None, None))
            else:
                entry.spooled = True
                self._spool.write(f"{node.line}\t{node.column}\t{key}\n")
        if not count:
            self._found(head, "deviceKeys: is empty", "name at least one device")

    def _replay(self, product: str | None) -> None:
        self._spool.seek(0)
        for entry in self._spool:
            line, column, key = entry[:-1].split("\t", 2)
            self._collector.add(Row(0, int(line), int(column), product, key, None, None))

    def _ids(self, entry: _Entry) -> None:
        head = self._document.peek()
        if head.kind != "seq":
            self._found(head, "commandIds: not a list", 'write commandIds: ["…"]')
            self._document.skip()
            return
        before = self._findings.count
        nodes = self._document.scalars()
        texts = [identity(node, "commandIds", self._findings) for node in nodes]
        ids = [text for text in texts if text is not None]
        flaw = None if self._findings.count > before else command_ids(ids, "commandIds")
        if flaw:
            self._found(head, *flaw)
        entry.ids = ids

    def _warn(self, node: Node, deviceKey: str | None) -> None:
        if deviceKey is not None and not is_documented(deviceKey):
            self._warnings.add(node.line, node.column, *unusual())

    def _found(self, node: Node, problem: str, remedy: str) -> None:
        if node.kind != "refused":
            self._findings.add(node.line, node.column, problem, remedy)


def _fault(given: dict[str, str | None]) -> tuple[str, str] | None:
    """What is wrong with the combination of keys."""
    keys = [name for name in ("deviceKey", "deviceKeys") if name in given]
    if "assetId" in given:
        if keys or "productKey" in given:
            return "both assetId and productKey/deviceKey on one device", ONE
        return None
    if len(keys) > 1:
        return "both deviceKey and deviceKeys", "write two entries"
    if "productKey" not in given:
        return (f"{keys[0]} without productKey" if keys else "no device"), ONE
    if not keys:
        return "productKey without deviceKey", ONE
    if "deviceKeys" in given and "commandIds" in given:
        return "commandIds beside deviceKeys", "write an entry for each device with its commandIds"
    return None
