"""The job of what is left: which targets, in which words, and exact for hostile texts."""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from worker.model import (
    AllCached,
    Command,
    CommandResult,
    Identity,
    Listed,
    OutcomeKind,
    ReportRow,
    Result,
    RunRecord,
)
from worker.report.remaining import Leftovers, quoted, remaining_job, write_remaining_rows


def inventory(rows: list[ReportRow], leftovers: Leftovers | None = None) -> list[dict[str, Any]]:
    out = io.BytesIO()
    count = write_remaining_rows(rows, leftovers or Leftovers(), out)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert count == len(lines)
    return lines


def parsed(document: bytes) -> Any:
    return yaml.load(document, yaml.CSafeLoader)


@pytest.mark.parametrize(
    ("leftovers", "kinds"),
    [
        (Leftovers(), "cancelled_incomplete unknown anomalous failed not_attempted"),
        (
            Leftovers(rejected=True, not_found=True),
            "cancelled_incomplete unknown anomalous not_found rejected failed not_attempted",
        ),
    ],
)
def test_what_was_not_settled_well_remains(
    rows: list[ReportRow], leftovers: Leftovers, kinds: str
) -> None:
    """too_late never; rejected and not_found only when asked for."""
    all_kinds = [
        msgspec.structs.replace(rows[2], outcome=k, deviceKey=k.value) for k in OutcomeKind
    ]
    assert [line["deviceKey"] for line in inventory(all_kinds, leftovers)] == kinds.split()


def test_rows_keep_identity_organization_and_what_is_left(rows: list[ReportRow]) -> None:
    """A listed target keeps the commands that are not known cancelled or gone, in order."""
    assert inventory(rows) == [
        {
            "orgId": "o1",
            "assetId": 'a "b", c',
            "commandIds": ["10", "12"],
        },
        {
            "orgId": "o1",
            "productKey": "012345",
            "deviceKey": "+-@设备 1",
        },
    ]


@pytest.mark.parametrize(
    ("result", "left"),
    [
        ("cancelled", []),
        ("not_cached", []),
        ("rejected", ["7"]),
        ("failed", ["7"]),
        ("unknown", ["7"]),
    ],
)
def test_a_listed_target_without_open_commands_does_not_remain(
    rows: list[ReportRow], result: Result, left: list[str]
) -> None:
    """An empty list would mean something else: it is never written."""
    told = CommandResult(Command("7"), result, None, None, 1)
    row = msgspec.structs.replace(rows[1], scope=Listed(("7",)), commands=(told,))
    assert [line["commandIds"] for line in inventory([row])] == ([left] if left else [])


def test_both_identities_are_never_written(rows: list[ReportRow]) -> None:
    """Row 94: a device remains as the job spelled it, whatever replies named it."""
    told = Identity("bXuuAiku", "somebody_else", "oxWwM9i5")
    row = msgspec.structs.replace(rows[1], scope=AllCached(), told=told)
    assert inventory([row]) == [{"orgId": "o1", "assetId": 'a "b", c'}]
    row = msgspec.structs.replace(rows[0], outcome=OutcomeKind.UNKNOWN, told=told)
    assert inventory([row]) == [{"orgId": "o1", "productKey": "bXuuAiku", "deviceKey": "=1+1"}]


def test_the_job_keeps_scope_and_limits(record: RunRecord) -> None:
    """No min_devices, no schedule, window or phases; numbers stay numbers."""
    leftovers = Leftovers(
        limits={"max_devices": 200, "min_devices": 3, "rate": "50/s", "deadline": "45m"},
        verify="touched",
        abort={"failed": "5%", "min_sample": 50},
    )
    job = remaining_job(record, "left.devices.ndjson", leftovers)
    assert job.decode() == (
        "# What run 20261122T020500Z-k3f9ab left, written by cancel-worker."
        " Check it, then run it.\n"
        'name: "nightly-cleanup-remaining"\n'
        'reason: "CHG-1042: firmware window"\n'
        'orgId: "o1"\n'
        "scope: all_cached\n"
        "devices_from:\n"
        '  - file: "left.devices.ndjson"\n'
        "limits:\n"
        "  max_devices: 200\n"
        '  rate: "50/s"\n'
        '  deadline: "45m"\n'
        "verify: touched\n"
        "abort:\n"
        '  failed: "5%"\n'
        "  min_sample: 50\n"
    )


def test_what_was_not_written_in_the_job_is_not_written_again(record: RunRecord) -> None:
    """Defaults stay defaults; `abort: off` stays off."""
    bare = msgspec.structs.replace(record, reason=None, scope="listed")
    job = remaining_job(bare, "x.ndjson", Leftovers(abort="off"))
    assert job.decode().splitlines()[1:] == [
        'name: "nightly-cleanup-remaining"',
        'orgId: "o1"',
        "scope: listed",
        "devices_from:",
        '  - file: "x.ndjson"',
        "abort: off",
    ]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_read_back_exactly(text: str) -> None:
    """By libyaml's safe loader: retyped words, quotes, NEL, BOM, emoji and NUL included."""
    assert parsed(f"key: {quoted(text)}\n".encode()) == {"key": text}


@pytest.mark.parametrize(
    "text",
    [
        "012345",
        "no",
        "~",
        "",
        " a ",
        "a: b #c",
        "\x85\u2028\ufeff\ufffe",
        "\U000e0001😀",
        "\x00\x7f",
    ],
)
def test_hostile_texts_survive_the_whole_job(record: RunRecord, text: str) -> None:
    """Name, reason, orgId and file name are what they were, whatever they look like."""
    hostile = msgspec.structs.replace(record, job=text, reason=text, orgId=text)
    found = parsed(remaining_job(hostile, text, Leftovers()))
    assert found == {
        "name": f"{text}-remaining",
        "reason": text,
        "orgId": text,
        "scope": "all_cached",
        "devices_from": [{"file": text}],
    }


@given(st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]))] * 2), max_size=4))
def test_any_identity_is_read_back_exactly(names: list[tuple[str, str]]) -> None:
    """From the NDJSON beside the job, one line a device."""
    rows = [
        ReportRow(
            ordinal=0,
            orgId="o",
            productKey=product,
            deviceKey=device,
            assetId=None,
            outcome=OutcomeKind.UNKNOWN,
            cause=None,
            attempts=1,
            evidence=None,
            http_status=None,
            code=None,
            message=None,
            requestId=None,
            duration_ms=0,
            source="a:1",
            scope=AllCached(),
        )
        for product, device in names
    ]
    assert [(line["productKey"], line["deviceKey"]) for line in inventory(rows)] == names
