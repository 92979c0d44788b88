"""One row of an inventory, whatever its format: the checks that CSV and NDJSON share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO

from worker.job.findings import Findings, shown
from worker.job.identity import command_ids, is_documented, rounded_flaw, text_flaw, unusual
from worker.job.rows import Collector, Row
from worker.job.source import UnreadableError

COLUMNS = ("productKey", "deviceKey", "assetId", "orgId", "commandIds")
ONE = "give assetId, or productKey and deviceKey"
MAX_LINE = 1 << 20  # bytes

Flawed = tuple[str, str, str]  # the column ("" for the row), the problem, the remedy


class Inventory:
    """Takes the rows of one inventory; a format only has to split them."""

    def __init__(
        self,
        source: int,
        orgId: str | None,
        collector: Collector,
        findings: Findings,
        warnings: Findings,
    ) -> None:
        self.findings = findings
        self._source = source
        self._orgId = orgId  # the job's; None when the job has none that is valid
        self._collector = collector
        self._warnings = warnings
        self.rows = 0

    def take(
        self,
        line: int,
        productKey: str | None,
        deviceKey: str | None,
        assetId: str | None,
        orgId: str | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[Flawed]:
        """Take a row, or say what is wrong with it; None is what the row does not give."""
        flaws = list(self._flaws(productKey, deviceKey, assetId, orgId, ids))
        if flaws:
            return flaws
        if deviceKey is not None and not is_documented(deviceKey):
            self._warnings.add(line, 1, *unusual())
        self.rows += 1
        joined = None if ids is None else " ".join(ids)
        self._collector.add(Row(self._source, line, 1, productKey, deviceKey, assetId, joined))
        return flaws

    def _flaws(
        self,
        productKey: str | None,
        deviceKey: str | None,
        assetId: str | None,
        orgId: str | None,
        ids: Sequence[str] | None,
    ) -> Iterator[Flawed]:
        if assetId is not None:
            if productKey is not None or deviceKey is not None:
                yield "assetId", "both assetId and productKey/deviceKey on one device", ONE
            yield from _identity("assetId", assetId)
        elif productKey is None and deviceKey is None:
            yield "", "no device", ONE
        elif productKey is None:
            yield "productKey", "deviceKey without productKey", ONE
        elif deviceKey is None:
            yield "deviceKey", "productKey without deviceKey", ONE
        if productKey is not None:
            yield from _identity("productKey", productKey)
        if deviceKey is not None:
            yield from _identity("deviceKey", deviceKey)
        if orgId is not None and self._orgId is not None and orgId != self._orgId:
            problem = f"orgId {shown(orgId)} is not the job's {shown(self._orgId)}"
            yield "orgId", problem, "write one job for each organization"
        if ids is not None:
            flaw = _rounded(ids) or command_ids(ids, "commandIds")
            if flaw:
                yield "commandIds", *flaw


def text_lines(stream: IO[bytes]) -> Iterator[tuple[int, str]]:
    """The lines of a file from 1, without their ends; UnreadableError for what is not UTF-8."""
    number = 0
    while data := stream.readline(MAX_LINE):
        number += 1
        if number == 1:
            if data.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise UnreadableError(1, 1, "UTF-16, not UTF-8", "save the file as UTF-8")
            data = data.removeprefix(b"\xef\xbb\xbf")
        if len(data) == MAX_LINE and data[-1:] != b"\n":
            raise UnreadableError(number, 1, "a line longer than 1 MiB", "write one row a line")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            column = len(data[: error.start].decode()) + 1
            problem = f"byte 0x{data[error.start]:02x} is not UTF-8"
            raise UnreadableError(number, column, problem, "save the file as UTF-8") from None
        yield number, text.removesuffix("\n").removesuffix("\r")


def _identity(name: str, text: str) -> Iterator[Flawed]:
    flaw = text_flaw(text) or rounded_flaw(text)
    if flaw:
        yield name, f"{name}: {flaw[0]}", flaw[1]


def _rounded(ids: Sequence[str]) -> tuple[str, str] | None:
    for text in ids:
        flaw = rounded_flaw(text)
        if flaw:
            return f"commandIds: {flaw[0]}", flaw[1]
    return None
