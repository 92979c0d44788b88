"""csv, ndjson, json and restore: exact keys, exact identities, flat memory."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.model import AllCached, Command, CommandResult, OutcomeKind, ReportRow, RunRecord, Spent
from worker.report.restore import write_restore
from worker.report.rows import write_ndjson
from worker.report.schema import report_schema
from worker.report.summary import Summary, document, encode
from worker.report.table import COLUMNS, write_csv
from worker.report.whole import write_json

COUNTS = {OutcomeKind.CANCELLED: 1, OutcomeKind.UNKNOWN: 1, OutcomeKind.NOT_ATTEMPTED: 1}
DOCUMENT: dict[str, Any] = {
    "schema_version": 1,
    "run_id": "20261122T020500Z-k3f9ab",
    "job": "nightly-cleanup",
    "reason": "CHG-1042: firmware window",
    "actor": "ann@host",
    "orgId": "o1",
    "gateway": "production https://apim.example.com",
    "digest": "d" * 64,
    "rehearsal": None,
    "started_at": "2026-11-22T02:05:00.123Z",
    "finished_at": "2026-11-22T02:05:12.623Z",
    "duration_s": 12.5,
    "exit_code": 5,
    "exit_reasons": ["stopped for safety: forbidden", "unknown: 1"],
    "stop": {
        "rule": "forbidden",
        "count": 20,
        "of": 20,
        "message": "orgId o1 is refused (requestId req-1, req-2)",
    },
    "targets": 3,
    "outcomes": {
        "cancelled": 1,
        "nothing_cached": 0,
        "nothing_matched": 0,
        "too_late": 0,
        "cancelled_incomplete": 0,
        "unknown": 1,
        "anomalous": 0,
        "not_found": 0,
        "rejected": 0,
        "failed": 0,
        "not_attempted": 1,
    },
    "commands": 1,
    "requests": {"cancel": 4, "search": 2, "retried": 1, "complete": True},
    "verified": {"targets": 2, "still_cached": 0, "newer": 1, "unsearched": 0},
    "log_dropped": 7,
    "reports": {"old.csv": "a" * 64},
}
FIRST_ROW = {
    "orgId": "o1",
    "productKey": "bXuuAiku",
    "deviceKey": "=1+1",
    "assetId": None,
    "outcome": "cancelled",
    "cause": None,
    "commandIds": ["2278935391225618432"],
    "attempts": 1,
    "evidence": "response",
    "http_status": 200,
    "code": 0,
    "message": None,
    "requestId": "req-7",
    "duration_ms": 41,
    "source": "jobs/a.yaml:9",
    "commands": [
        {
            "commandId": "2278935391225618432",
            "name": "reboot",
            "type": 2,
            "created_at": "2026-11-22T02:05:00.123Z",
            "requestId": "req-7",
            "evidence": "response",
            "result": "cancelled",
            "state": 2,
        }
    ],
    "told_productKey": "bXuuAiku",
    "told_deviceKey": "=1+1",
    "told_assetId": "oxWwM9i5",
}


def ordered(value: Any) -> Any:
    """A value whose comparison minds the order of keys."""
    if isinstance(value, dict):
        return [(key, ordered(item)) for key, item in value.items()]
    return [ordered(item) for item in value] if isinstance(value, list) else value


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    out = io.BytesIO()
    write(out)
    return out.getvalue()


def test_the_document_has_the_promised_keys_in_the_promised_order(record: RunRecord) -> None:
    """Scripts may rely on every key, zeros and nulls included."""
    found = json.loads(encode(document(record, COUNTS, 1)))
    assert ordered(found) == ordered(DOCUMENT)


def test_a_run_that_has_not_ended_has_nulls(record: RunRecord) -> None:
    """Nothing is made up for a run that was planned and never started."""
    planned = msgspec.structs.replace(
        record, end=None, started_ms=None, first_started_ms=None, spent=Spent()
    )
    found = json.loads(encode(document(planned, {}, 0)))
    changed = {key: value for key, value in found.items() if value != DOCUMENT[key]}
    assert changed == {
        "started_at": None,
        "finished_at": None,
        "duration_s": None,
        "exit_code": None,
        "exit_reasons": [],
        "stop": None,
        "outcomes": dict.fromkeys(DOCUMENT["outcomes"], 0),
        "commands": 0,
        "requests": {"cancel": 0, "search": 0, "retried": 0, "complete": True},
        "verified": None,
        "log_dropped": 0,
        "reports": {},
    }


def test_ndjson_is_one_row_a_line_with_its_commands(rows: list[ReportRow]) -> None:
    """Keys, order, arrays, numbers and nulls are as promised."""
    lines = written(lambda out: write_ndjson(rows, out)).splitlines()
    assert ordered(json.loads(lines[0])) == ordered(FIRST_ROW)
    assert [json.loads(line)["assetId"] for line in lines] == [None, 'a "b", c', None]


def test_json_is_the_document_with_rows(record: RunRecord, rows: list[ReportRow]) -> None:
    """The rows are the NDJSON objects; without rows the list is empty."""
    summary = document(record, COUNTS, 1)
    found = json.loads(written(lambda out: write_json(summary, rows, out)))
    lines = [json.loads(line) for line in written(lambda o: write_ndjson(rows, o)).splitlines()]
    assert ordered(found) == ordered({**DOCUMENT, "rows": lines})
    assert json.loads(written(lambda out: write_json(summary, [], out))) == {**DOCUMENT, "rows": []}


def test_the_schema_holds_for_what_is_written_and_for_nothing_else(
    record: RunRecord, rows: list[ReportRow]
) -> None:
    """`schema report` describes `-o json` and the json report; a missing key breaks it."""
    validator = jsonschema.Draft202012Validator(report_schema())
    summary = document(record, COUNTS, 1)
    whole = json.loads(written(lambda out: write_json(summary, rows, out)))
    assert [e.message for e in validator.iter_errors(json.loads(encode(summary)))] == []
    assert [e.message for e in validator.iter_errors(whole)] == []
    for key in DOCUMENT:
        assert list(validator.iter_errors({k: v for k, v in whole.items() if k != key})), key
    whole["outcomes"].pop("failed")
    assert len(list(validator.iter_errors(whole))) == 1


def test_csv_is_exact(rows: list[ReportRow]) -> None:
    """Header, LF, empty for null, quotes only where they are needed."""
    assert written(lambda out: write_csv(rows, out)) == (
        b"orgId,productKey,deviceKey,assetId,outcome,cause,commandIds,attempts,evidence,"
        b"http_status,code,message,requestId,duration_ms,source,told_productKey,told_deviceKey,"
        b"told_assetId\n"
        b"o1,bXuuAiku,=1+1,,cancelled,,2278935391225618432,1,response,200,0,,req-7,41,"
        b"jobs/a.yaml:9,bXuuAiku,'=1+1,oxWwM9i5\n"
        b'o1,,,"a ""b"", c",unknown,disconnected,,2,,,,"line one\rline two\nline three",,30000,'
        b"fleet.csv:3,,,\n"
        + "o1,012345,+-@设备 1,,not_attempted,aborted,,0,,,,,,,fleet.csv:4,,,\n".encode()
    )
    assert written(lambda out: write_csv([], out)).decode() == ",".join(COLUMNS) + "\n"


_TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", "'=1"]),
)


@given(st.lists(st.tuples(*[_TEXTS] * 4), max_size=5))
def test_no_cell_that_the_gateway_wrote_begins_a_formula(
    texts: list[tuple[str, str, str, str]],
) -> None:
    """Read by Python's csv module: identities are exact, and so is a message but for its `'`."""
    rows = [row(a, b, c, message) for a, b, c, message in texts]
    data = written(lambda out: write_csv(rows, out)).decode()
    found = list(csv.reader(io.StringIO(data, newline="")))
    assert [tuple(line[i] for i in (1, 2, 3, 11)) for line in found[1:]] == [
        (a, b, c, f"'{message}" if message[:1] in set("=+-@\t\r") else message)
        for a, b, c, message in texts
    ]


def test_ids_and_request_ids_begin_no_formula() -> None:
    """An id that breaks the contract is recorded as received, and may be anything."""
    told = CommandResult(Command("=1+1"), "cancelled", "response", None, 1)
    given_row = msgspec.structs.replace(
        row("=p", "-d", None, None), commands=(told,), requestId="@A1"
    )
    [_, cells] = csv.reader(written(lambda out: write_csv([given_row], out)).decode().splitlines())
    assert (cells[1], cells[2], cells[6], cells[12]) == ("=p", "-d", "'=1+1", "'@A1")


@given(st.lists(st.tuples(*[st.text(st.characters())] * 4), max_size=5))
def test_csv_on_a_terminal_is_one_printable_line_a_row(
    texts: list[tuple[str, str, str, str]],
) -> None:
    rows = [row(a, b, c, message) for a, b, c, message in texts]
    data = written(lambda out: write_csv(rows, out, to_terminal=True)).decode()
    lines = data.removesuffix("\n").split("\n")
    assert len(lines) == 1 + len(rows)
    assert all(line.isprintable() for line in lines)


def test_csv_joins_command_ids_with_one_space() -> None:
    """Several commands of one target stand in one cell."""
    many = tuple(CommandResult(Command(i), "cancelled", "response", None, 1) for i in ("1", "2"))
    given_row = msgspec.structs.replace(row("p", "d", None, None), commands=many)
    line = written(lambda out: write_csv([given_row], out)).decode().splitlines()[1]
    assert line.split(",")[6] == "1 2"


@pytest.mark.parametrize(
    ("now", "ttl"), [(0, 172_800), (3_600_500, 169_199), (10**9, 0), (-5_000, 172_800)]
)
def test_restore_has_what_is_needed_to_issue_a_command_again(
    record: RunRecord, rows: list[ReportRow], now: int, ttl: int
) -> None:
    """One line a cancelled command; inputData keeps its digits; the ttl left is never < 0."""
    created = rows[0].commands[0].command.created_ms or 0
    lines = written(lambda out: write_restore(record.run_id, rows, created + now, out))
    assert lines == (
        b'{"schema_version":1,"orgId":"o1","productKey":"bXuuAiku","deviceKey":"=1+1",'
        b'"assetId":null,"commandId":"2278935391225618432","name":"reboot","type":2,'
        b'"tslIdentifier":"reboot","inputData":{"delay":1.10,"n":12345678901234567890},'
        b'"timeout":30,"pendingTtl":172800,"remaining_ttl":%d,'
        b'"created_at":"2026-11-22T02:05:00.123Z","cancelled_by":"20261122T020500Z-k3f9ab",'
        b'"told_productKey":"bXuuAiku","told_deviceKey":"=1+1","told_assetId":"oxWwM9i5"}\n' % ttl
    )


@example(b'"\xff"', 0)  # JSON for a scanner, but not UTF-8
@example(b'{"a":\n1}', None)
@given(st.one_of(st.none(), st.binary()), st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)))
def test_restore_is_always_one_line_of_json(data: bytes | None, created: int | None) -> None:
    """Whatever the gateway gave as inputData or createTime."""
    command = Command("1", inputData=data, created_ms=created, pendingTtl=60)
    told = CommandResult(command, "cancelled", "response", None, 1)
    given_row = msgspec.structs.replace(row("p", "d", None, None), commands=(told,))
    lines = written(lambda out: write_restore("r", [given_row], 10**12, out))
    assert lines.count(b"\n") == 1
    assert json.loads(lines)["commandId"] == "1"


def test_restore_names_the_device_that_the_gateway_named(record: RunRecord) -> None:
    """A command of another device is not restored under the device of the call."""
    other = Command("1", productKey="p2", deviceKey="d2")
    given_row = msgspec.structs.replace(
        row("p", "d", "a", None),
        commands=(CommandResult(other, "cancelled", "response", None, 1),),
    )
    line = json.loads(written(lambda out: write_restore("r", [given_row], 0, out)))
    assert (line["productKey"], line["deviceKey"], line["assetId"]) == ("p2", "d2", None)


def test_half_a_surrogate_pair_from_a_reply_breaks_no_report(rows: list[ReportRow]) -> None:
    """A message that UTF-8 cannot hold is written as its escape."""
    broken = msgspec.structs.replace(rows[2], message="\ud800!")
    assert json.loads(written(lambda out: write_ndjson([broken], out)))["message"] == "\\ud800!"
    assert "\\ud800!" in written(lambda out: write_csv([broken], out)).decode()


@pytest.mark.parametrize("name", ["csv", "ndjson", "json", "restore"])
def test_memory_stays_flat(name: str, record: RunRecord, rows: list[ReportRow]) -> None:
    """Fifty thousand rows take no more memory than a few."""
    summary: Summary = document(record, COUNTS, 1)

    class Nowhere:
        def write(self, data: bytes, /) -> object:
            return len(data)

    def many() -> Iterator[ReportRow]:
        for number in range(50_000):
            yield msgspec.structs.replace(rows[0], ordinal=number, deviceKey=f"d{number}")

    writers: dict[str, Callable[[], object]] = {
        "csv": lambda: write_csv(many(), Nowhere()),
        "ndjson": lambda: write_ndjson(many(), Nowhere()),
        "json": lambda: write_json(summary, many(), Nowhere()),
        "restore": lambda: write_restore("r", many(), 0, Nowhere()),
    }
    tracemalloc.start()
    try:
        assert writers[name]() == 50_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def row(
    productKey: str | None, deviceKey: str | None, assetId: str | None, message: str | None
) -> ReportRow:
    return ReportRow(
        ordinal=0,
        orgId="o1",
        productKey=productKey,
        deviceKey=deviceKey,
        assetId=assetId,
        outcome=OutcomeKind.CANCELLED,
        cause=None,
        attempts=1,
        evidence=None,
        http_status=None,
        code=None,
        message=message,
        requestId=None,
        duration_ms=0,
        source="a:1",
        scope=AllCached(),
    )
