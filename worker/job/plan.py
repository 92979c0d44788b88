"""Reading a job: every finding of every source, before anything else happens.

The rows go to the sheet that the caller gives; what comes back is the job's head. Nothing here
knows the ledger, the gateway or the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from worker.job.devices import DeviceReader
from worker.job.document import BrokenError, Document, Node, load_plain
from worker.job.findings import LIMIT, EnoughError, Findings, raise_any, shown
from worker.job.head import HeadReader
from worker.job.identity import identity
from worker.job.inventory import read_inventory
from worker.job.inventory_row import Inventory
from worker.job.rows import Collector, Repeat, Row, Sheet
from worker.job.schema import LATER_KEYS, Abort, Job, JobFile, JobLimits, Source
from worker.job.source import Text, UnopenedError, UnreadableError, opened

__all__ = [
    "Forecast",
    "Repeat",
    "Row",
    "Sheet",
    "forecast",
    "load_plain",
    "out_of_reach",
    "read_job",
]

_KEYS = JobFile.__struct_fields__
_REPEATS = 1000  # that are counted
REPLY = 0.1  # seconds that a request is assumed to take

_REQUIRED = {
    "name": "write name: my-job",
    "orgId": "write orgId: with the organization that owns the devices",
    "scope": "write scope: all_cached or scope: listed",
}


def read_job(path: Path, sheet: Sheet) -> Job:
    """Check a job and its inventories and lay their rows on the sheet.

    Raises InvalidInputError with the first 20 findings; the sheet's rows are void then.
    """
    return _Reading(path, sheet).read()


class _Reading:
    """One reading of one job."""

    def __init__(self, path: Path, sheet: Sheet) -> None:
        self._path = path
        self._sheet = sheet
        self._files = [Findings(str(path))]
        self._warnings = [Findings(str(path), endless=True)]
        self._collector = Collector(sheet)
        self._values: dict[str, Any] = {"limits": JobLimits(), "abort": Abort()}
        self._inventories: list[Node] = []
        self._named: set[str] = set()
        self._sources: list[Source] = []

    def read(self) -> Job:
        try:
            self._read_sources()
        except EnoughError:
            raise_any(self._files)
            raise  # pragma: no cover  # a list not read to its end is never accepted
        raise_any(self._files)
        kept = [finding for file in self._warnings for finding in file.first()][:LIMIT]
        return Job(
            **{"reason": None, "verify": None, **self._values},
            path=str(self._path),
            sources=tuple(self._sources),
            warnings=tuple(kept),
            more_warnings=sum(file.count for file in self._warnings) - len(kept),
        )

    def _read_sources(self) -> None:
        if self._read_file():
            for node in self._inventories:
                self._read_inventory(node)
            if self._values.get("scope"):
                self._collector.check_scope(self._values["scope"], self._files)
        self._collector.flush()
        self._check_repeats()

    def _read_file(self) -> bool:
        """Read the job file; False when it broke off."""
        findings = self._files[0]
        try:
            with opened(self._path) as file:
                document = Document(Text(file.stream), findings)
                root = document.root()
                if root is None:
                    findings.add(1, 1, "the file is empty", "write name, orgId, scope and devices")
                    return False
                self._read_root(document, root)
                document.end()
                rows = self._collector.rows
                self._sources.append(Source(str(self._path), file.sha256(), rows))
        except UnreadableError as error:
            findings.add(error.line, error.column, error.problem, error.remedy)
            return False
        except BrokenError:
            return False
        return True

    def _read_root(self, document: Document, root: Node) -> None:
        seen = set()
        for key in document.keys(_KEYS, LATER_KEYS):
            seen.add(key)
            if key == "devices":
                readers = (self._files[0], self._warnings[0])
                DeviceReader(document, self._collector, *readers).read()
            else:
                self._take(key, document.node())
        for name, remedy in _REQUIRED.items():
            if name not in seen:
                self._files[0].add(root.line, root.column, f"no {name}", remedy)
        if not seen & {"devices", "devices_from"}:
            self._files[0].add(
                root.line, root.column, "no devices", "write devices or devices_from"
            )

    def _take(self, name: str, node: Node) -> None:
        head = HeadReader(self._files[0])
        if name == "devices_from":
            self._inventories = head.inventories(node)
            return
        readers: dict[str, Callable[[Node], Any]] = {
            "name": head.name,
            "orgId": lambda node: identity(node, "orgId", self._files[0]),
            "scope": head.scope,
            "reason": head.reason,
            "limits": head.limits,
            "verify": head.verify,
            "abort": head.abort,
        }
        self._values[name] = readers[name](node)

    def _read_inventory(self, node: Node) -> None:
        shown_path = str(self._path.parent / node.value)
        findings, warnings = Findings(shown_path), Findings(shown_path, endless=True)
        if shown_path in self._named:
            problem = f"devices_from: {shown(node.value)} is named twice"
            self._files[0].add(node.line, node.column, problem, "name it once")
            return
        self._named.add(shown_path)
        self._files.append(findings)
        self._warnings.append(warnings)
        before = self._collector.rows
        orgId = self._values.get("orgId")
        inventory = Inventory(len(self._sources), orgId, self._collector, findings, warnings)
        try:
            sha256 = read_inventory(self._path.parent, node.value, inventory)
        except UnopenedError as error:
            problem = f"devices_from.file: {shown(node.value)} {error.problem}"
            self._files[0].add(node.line, node.column, problem, error.remedy)
            sha256 = ""
        self._sources.append(Source(shown_path, sha256, self._collector.rows - before))

    def _check_repeats(self) -> None:
        for first, again in self._sheet.repeats(_REPEATS):
            file = self._files[again.source]
            problem = f"{_called(again)} is listed twice"
            at = f"{self._files[first.source].file}:{first.line}:{first.column}"
            file.add(again.line, again.column, problem, f"first at {at}, remove one")


def _called(row: Row) -> str:
    if row.assetId is not None:
        return f"assetId {shown(row.assetId)}"
    return f"productKey {shown(row.productKey or '')} deviceKey {shown(row.deviceKey or '')}"


class Forecast(Struct, frozen=True):
    """What a run will cost, retries and look-ups left out."""

    calls: int  # cancels
    searches: int  # at most, of the verification
    seconds: float

    @property
    def requests(self) -> int:
        return self.calls + self.searches


def forecast(
    targets: int,
    calls: int,
    searches: int,
    *,
    rate: float | None,
    concurrency: int,
    waits: float = 0.0,
) -> Forecast:
    """Calls of one target go one after another, so no more than `targets` are in flight.

    waits: seconds in which nothing is sent.
    """
    lanes = max(1, min(concurrency, targets))
    sending = (calls + searches) * REPLY / lanes
    if rate:
        sending = max(sending, (calls + searches) / rate)
    return Forecast(calls, searches, waits + sending)


def out_of_reach(rate: float | None, concurrency: int) -> str | None:
    """Why so many requests per second will not be reached; None where they may be."""
    most = concurrency / REPLY
    if rate is None or rate <= most:
        return None
    return (
        f"{rate:g}/s is out of reach: {concurrency} requests at once, each answered after "
        f"{REPLY * 1000:.0f} ms, are {most:g}/s"
    )
