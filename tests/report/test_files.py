"""Report files: checked early, complete or absent, and a failure is a value."""

from __future__ import annotations

import hashlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from worker.errors import UsageError
from worker.model import OutcomeKind, ReportRow, RunRecord
from worker.report.files import (
    Content,
    NothingLeft,
    ReportFile,
    ReportSpec,
    Unwritten,
    Written,
    open_reports,
    parse_report,
    write_reports,
)
from worker.report.summary import document
from worker.writing import Guarded

RUN = "20261122T020500Z-k3f9ab"
OLD = "orgId,productKey,deviceKey,assetId,outcome,cause\n"  # how an older version's csv may begin


@pytest.fixture
def content(record: RunRecord, rows: list[ReportRow]) -> Content:
    summary = document(record, {OutcomeKind.CANCELLED: 1}, 1)
    return Content(record, summary, lambda: rows, now_ms=record.planned_ms)


def opened(*texts: str) -> tuple[ReportFile, ...]:
    specs = [parse_report(text) for text in texts]
    return open_reports(
        specs, job="nightly", run_id=RUN, started_ms=1_795_313_100_123, guarded=Guarded()
    )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_wish_is_format_and_path() -> None:
    """The path may hold `=` and the placeholders."""
    assert parse_report("csv=a/{job}-{run}=x.csv") == ReportSpec("csv", "a/{job}-{run}=x.csv")


FORM = "write FORMAT=PATH, FORMAT one of csv, ndjson, json, restore, remaining"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("xml=a", FORM),
        ("a.csv", FORM),
        ("csv=-", "give a file; for standard output use: cancel-worker report RUN --format csv"),
        ("csv={jobs}.csv", "{jobs}: only {job}, {run} and {date}"),
    ],
)
def test_a_wrong_wish_is_told_with_its_remedy(text: str, said: str) -> None:
    """Exit code 2, before anything else."""
    with pytest.raises(UsageError) as caught:
        parse_report(text)
    assert str(caught.value) == f"--report {text}: {said}"


def test_placeholders_are_filled_in_and_nothing_is_left_behind(tmp_path: Path) -> None:
    """The check creates no file under the report's name, and no other."""
    (file,) = opened(f"csv={tmp_path}/{{job}}_{{run}}_{{date}}.csv")
    assert file == ReportFile("csv", f"{tmp_path}/nightly_{RUN}_2026-11-22.csv", RUN)
    assert list(tmp_path.iterdir()) == []


def test_paths_that_cannot_be_written_are_refused_early(tmp_path: Path) -> None:
    """A missing folder, a folder, a device, a name too long, two reports in one file."""
    (tmp_path / "here").mkdir()
    (tmp_path / "file").touch()
    long = "x" * 300
    cases = {
        f"csv={tmp_path}/no/x.csv": (
            "cannot be written: No such file or directory: make its folder first"
        ),
        f"csv={tmp_path}/here": "is not a regular file: give another path",
        f"csv={tmp_path}/file/x": "Not a directory",
        "csv=/dev/full": "is not a regular file: give another path",
        f"csv={tmp_path}/{long}": "File name too long",
        "csv=/proc/x.csv": "cannot be written: No such file or directory: make its folder first",
        "csv=a\0b": "embedded null byte",
    }
    for text, said in cases.items():
        with pytest.raises(UsageError, match=said) as caught:
            opened(text)
        assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="is another report: give another path"):
        opened(f"csv={tmp_path}/x", f"json={tmp_path}/here/../x")
    with pytest.raises(UsageError, match="is another report: give another path"):
        opened(f"remaining={tmp_path}/x.yaml", f"ndjson={tmp_path}/x.devices.ndjson")


def test_all_formats_are_written_whole_with_their_digests(tmp_path: Path, content: Content) -> None:
    """In the order asked for; the json report lists the digests of all others."""
    names = ["all.json", "a.csv", "a.ndjson", "a.restore", "left.yaml"]
    formats = ["json", "csv", "ndjson", "restore", "remaining"]
    files = opened(*(f"{f}={tmp_path}/{n}" for f, n in zip(formats, names, strict=True)))
    results = write_reports(files, content)
    names.append("left.devices.ndjson")
    paths = [tmp_path / name for name in names]
    assert results == tuple(Written(str(path), digest(path)) for path in paths)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert [path.stat().st_mode & 0o137 for path in paths] == [0] * 6
    reports = json.loads((tmp_path / "all.json").read_text())["reports"]
    assert reports == {"old.csv": "a" * 64} | {str(p): digest(p) for p in paths[1:]}


def test_nothing_left_is_said_and_an_old_job_is_gone(tmp_path: Path, content: Content) -> None:
    """A job without devices would be invalid, and an old one would be run by mistake."""
    done = [row for row in content.rows() if row.outcome is OutcomeKind.CANCELLED]
    files = opened(f"remaining={tmp_path}/left.yaml")
    assert len(write_reports(files, content)) == 2
    files = opened(f"remaining={tmp_path}/left.yaml")
    results = write_reports(files, msgspec.structs.replace(content, rows=lambda: done))
    assert results == (NothingLeft(f"{tmp_path}/left.yaml"),)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_a_value_and_the_other_reports_are_written(
    tmp_path: Path, content: Content
) -> None:
    """The folder vanished during the run: one is unwritten, one is complete."""
    (tmp_path / "gone").mkdir()
    files = opened(f"csv={tmp_path}/gone/a.csv", f"ndjson={tmp_path}/b.ndjson")
    (tmp_path / "gone").rmdir()
    results = write_reports(files, content)
    assert results == (
        Unwritten(f"{tmp_path}/gone/a.csv", "No such file or directory", "csv"),
        Written(f"{tmp_path}/b.ndjson", digest(tmp_path / "b.ndjson")),
    )


def test_a_full_disk_harms_no_older_report(tmp_path: Path, content: Content) -> None:
    """Under a real file size limit: the old file stays whole, no part is left, it is a value."""
    path = tmp_path / "a.csv"
    path.write_text(OLD)
    files = opened(f"csv={path}")
    (row, *_) = content.rows()
    many = msgspec.structs.replace(content, rows=lambda: [row] * 10_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        results = write_reports(files, many)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert results == (Unwritten(str(path), "File too large", "csv"),)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a.csv", OLD)]


def test_a_link_keeps_pointing_at_the_report(tmp_path: Path, content: Content) -> None:
    """The file behind it is replaced, not the link."""
    (tmp_path / "real.csv").write_text(OLD)
    (tmp_path / "link.csv").symlink_to("real.csv")
    write_reports(opened(f"csv={tmp_path}/link.csv"), content)
    assert (tmp_path / "link.csv").is_symlink()
    assert "cancelled" in (tmp_path / "real.csv").read_text()


FORMATS = ("csv", "ndjson", "json", "restore", "remaining")


@pytest.mark.parametrize("format_", FORMATS)
def test_a_report_is_replaced_by_a_report_of_its_format_alone(
    tmp_path: Path, content: Content, format_: str
) -> None:
    """A file that is empty or begins as such a report does; nothing else, whatever its name."""
    path = tmp_path / "here"
    for other in FORMATS:
        path.unlink(missing_ok=True)
        write_reports(opened(f"{other}={path}"), content)
        before = path.read_bytes()
        if other == format_:
            assert isinstance(write_reports(opened(f"{format_}={path}"), content)[0], Written)
            continue
        with pytest.raises(UsageError) as caught:
            opened(f"{format_}={path}")
        said = f"holds something else than a {format_} report: give another path"
        assert str(caught.value) == f"--report {path}: {said}"
        assert path.read_bytes() == before
    path.write_bytes(b"")
    assert isinstance(write_reports(opened(f"{format_}={path}"), content)[0], Written)


def test_the_devices_of_a_remaining_replace_no_inventory(tmp_path: Path) -> None:
    """The second file of that report is held to the same rule."""
    other = tmp_path / "left.devices.ndjson"
    other.write_text('{"orgId": "o1", "deviceKey": "d", "productKey": "p"}\n')
    with pytest.raises(UsageError, match="holds something else than the devices of a remaining"):
        opened(f"remaining={tmp_path}/left.yaml")


def test_a_file_that_came_during_the_run_is_not_replaced(tmp_path: Path, content: Content) -> None:
    """It was not there when the run began; it is somebody's now."""
    path = tmp_path / "a.csv"
    files = opened(f"csv={path}")
    path.write_text("mine")
    assert write_reports(files, content) == (
        Unwritten(str(path), f"{path} holds something else than a csv report", "csv"),
    )
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a.csv", "mine")]


def test_a_part_has_no_name_until_it_is_whole(tmp_path: Path, content: Content) -> None:
    """What is being written is not seen in the folder, so that not even a kill leaves it there."""
    seen: list[str] = []

    def rows() -> Iterator[ReportRow]:
        seen.extend(path.name for path in tmp_path.iterdir())
        yield from content.rows()

    write_reports(opened(f"csv={tmp_path}/a.csv"), msgspec.structs.replace(content, rows=rows))
    assert (seen, [path.name for path in tmp_path.iterdir()]) == ([], ["a.csv"])


def test_where_files_without_a_name_are_not_to_be_had(
    tmp_path: Path, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On such a file system the part has a name, and loses it whatever happens."""
    monkeypatch.setattr("worker.report.files._UNNAMED", 0)
    (written,) = write_reports(opened(f"csv={tmp_path}/a.csv"), content)
    assert written == Written(f"{tmp_path}/a.csv", digest(tmp_path / "a.csv"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_errors_of_the_ledger_are_not_swallowed(tmp_path: Path, content: Content) -> None:
    """A row source that breaks is no matter of the report file; no part stays."""

    def broken() -> Iterator[ReportRow]:
        yield next(iter(content.rows()))
        raise KeyError("bug")

    with pytest.raises(KeyError):
        write_reports(
            opened(f"csv={tmp_path}/a.csv"), msgspec.structs.replace(content, rows=broken)
        )
    assert list(tmp_path.iterdir()) == []
