"""Inventories: which files may be read, and that their rows arrive as they are."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.job.desk import Desk
from worker.job.csv_rows import CellError, split
from worker.job.plan import Row
from worker.job.schema import Source

HEAD = "name: a\norgId: o1\nscope: all_cached\n"
CSV = f"{HEAD}devices_from: [{{file: f.csv}}]\n"
LISTED_CSV = CSV.replace("all_cached", "listed")


def test_csv(desk: Desk) -> None:
    """Cells are text, other columns are ignored, blank lines skipped, lines counted with breaks."""
    content = (
        "\ufeff\nsite,productKey,deviceKey,assetId,orgId\r\n"
        '"Kiel, ""old""\nharbour",p,012345,,o1\r\n'
        "\n"
        ",,,1.10,o1\n"
        'x,"p","a b",,o1'
    )
    job = desk.read(CSV, f_csv=content)
    expected = [
        Row(1, 3, 1, "p", "012345", None, None),
        Row(1, 6, 1, None, None, "1.10", None),
        Row(1, 7, 1, "p", "a b", None, None),
    ]
    assert expected == desk.sheet.rows
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    assert job.sources[1] == Source(str(desk.folder / "f.csv"), sha256, 3)


def test_csv_command_ids(desk: Desk) -> None:
    """commandIds are split on spaces and semicolons; rows of one device may stand apart."""
    desk.read(LISTED_CSV, f_csv="assetId,commandIds\na,1 2\nb,3;4\na, 5 ; 6 \n")
    assert desk.devices() == [
        (None, None, "a", "1 2"),
        (None, None, "b", "3 4"),
        (None, None, "a", "5 6"),
    ]


def test_ndjson(desk: Desk) -> None:
    """One object a line, blank lines skipped; the orgId may be written before the job's is."""
    content = '{"assetId": "012345", "orgId": "o1"}\n\n{"productKey": "p", "deviceKey": "\\u8bbe"}'
    desk.read(f"devices_from: [{{file: f.ndjson}}]\n{HEAD}", f_ndjson=content)
    expected = [Row(1, 1, 1, None, None, "012345", None), Row(1, 3, 1, "p", "设", None, None)]
    assert expected == desk.sheet.rows


def test_ndjson_command_ids(desk: Desk) -> None:
    """commandIds are an array of strings."""
    job = LISTED_CSV.replace("f.csv", "f.ndjson")
    desk.read(job, f_ndjson='{"assetId": "a", "commandIds": ["2", "1"]}')
    assert desk.devices() == [(None, None, "a", "2 1")]


def test_org_is_not_judged_against_a_broken_one(desk: Desk) -> None:
    """Where the job's own orgId is refused, the inventory's is not held against it."""
    said = desk.refused(CSV.replace("o1", "12"), f_csv="assetId,orgId\na,o1\n")
    assert said == 'job.yaml:2:8: orgId: 12 is a number in YAML: quote it: "12"'


def test_inside_the_folder(desk: Desk) -> None:
    """A folder below is inside, and so is a link that stays there."""
    desk.write("sites/north.csv", "assetId\na\n")
    (desk.folder / "f.csv").symlink_to("sites/north.csv")
    job = desk.read(f"{HEAD}devices_from: [{{file: ./sites/north.csv}}, {{file: f.csv}}]\n")
    assert [Path(source.file).name for source in job.sources] == ["job.yaml", "north.csv", "f.csv"]


def test_named_twice(desk: Desk) -> None:
    """A file that is named twice is a slip."""
    said = desk.refused(
        f"{HEAD}devices_from: [{{file: f.csv}}, {{file: ./f.csv}}]\n", f_csv="assetId\na\n"
    )
    assert said == "job.yaml:4:38: devices_from: ./f.csv is named twice: name it once"


@pytest.mark.parametrize("kind", ["link", "linked folder", "loop", "fifo", "folder", "device"])
def test_forbidden_files(desk: Desk, kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is no regular file inside the job's folder is refused without being read."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "f.csv").write_text("assetId\na\n")
    path, name = desk.folder / "f.csv", "f.csv"
    if kind == "link":
        path.symlink_to(outside / "f.csv")
    elif kind == "linked folder":
        (desk.folder / "sub").symlink_to(outside)
        name = "sub/f.csv"
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    problem = {
        "fifo": "is not a regular file: give a file",
        "folder": "is not a regular file: give a file",
    }.get(kind, "is a link out of the folder of the job file: copy the file")
    said = desk.refused(f"{HEAD}devices_from: [{{file: {name}}}]\n")
    problem = "cannot be read (" if kind == "loop" else problem
    assert said.startswith(f"job.yaml:4:23: devices_from.file: {name} {problem}")


CELL = st.text(st.characters(exclude_characters="\r\0", codec="utf-8"), max_size=8)


@given(st.lists(CELL, min_size=2, max_size=5))
def test_splits_what_csv_writes(cells: list[str]) -> None:
    """Whatever a spreadsheet can hold comes back as it was."""
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    assert cells == split(out.getvalue().removesuffix("\r\n"))


@given(st.text(st.sampled_from('a",\n'), max_size=12))
def test_split_agrees_with_csv(record: str) -> None:
    """Where the strict csv module reads a record otherwise, ours refuses it."""
    try:
        ours = split(record)
    except CellError:
        return
    theirs = list(csv.reader(io.StringIO(record, newline=""), strict=True))
    assert [ours] == theirs or (ours, theirs) == ([""], [])
