"""Reports as files: `--report FORMAT=PATH`, checked early, written whole or not at all.

Apart from the formats because files fail: a path that cannot be written is found out before
anything is sent, a report appears under its name only when it is complete, and a disk that is
full at the end is a value that the caller tells about, not an exception.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BufferedRandom
from pathlib import Path
from typing import Literal, get_args

import msgspec
from msgspec import Struct

from worker.clock import rfc3339
from worker.errors import UsageError
from worker.model import ReportRow, RunRecord
from worker.report.remaining import Leftovers, remaining_job, write_remaining_rows
from worker.report.restore import write_restore
from worker.report.rows import write_ndjson
from worker.report.summary import Summary
from worker.report.table import write_csv
from worker.report.whole import write_json

Format = Literal["csv", "ndjson", "json", "restore", "remaining"]
FORMATS: tuple[Format, ...] = get_args(Format)
_MODE = 0o640  # identities stand in it
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class ReportSpec(Struct, frozen=True):
    """What `--report FORMAT=PATH` asks for, its placeholders not yet filled in."""

    format: Format
    path: str


class ReportFile(Struct, frozen=True):
    """A report whose path was found writable."""

    format: Format
    path: str  # as it is shown: placeholders filled in
    run_id: str

    @property
    def rows_path(self) -> str:
        """Where a `remaining` keeps its devices: beside the job."""
        return str(Path(self.path).with_suffix(".devices.ndjson"))


class Content(Struct, frozen=True):
    """What reports are made of."""

    record: RunRecord
    summary: Summary
    rows: Callable[[], Iterable[ReportRow]]  # asked anew by each report
    now_ms: int  # for the ttl that is left of a command; the gateway's clock, if known
    leftovers: Leftovers = Leftovers()


class Written(Struct, frozen=True):
    """A file is complete under its name."""

    path: str
    sha256: str


class NothingLeft(Struct, frozen=True):
    """No `remaining` was written, and an older one is gone: nothing remains to be done."""

    path: str


class Unwritten(Struct, frozen=True):
    """A report could not be written; nothing of it, and no older one, was harmed."""

    path: str
    problem: str


Result = Written | NothingLeft | Unwritten


def parse_report(text: str) -> ReportSpec:
    """Read `FORMAT=PATH`; raises UsageError that names the formats."""
    name, equals, path = text.partition("=")
    if not equals or name not in FORMATS:
        raise UsageError(f"--report {text}: write FORMAT=PATH, FORMAT one of {', '.join(FORMATS)}")
    if path in {"", "-"}:
        raise UsageError(
            f"--report {text}: give a file; for standard output use: "
            f"cancel-worker report RUN --format {name}"
        )
    for found in _PLACEHOLDER.findall(path):
        if found not in {"job", "run", "date"}:
            raise UsageError(f"--report {text}: {{{found}}}: only {{job}}, {{run}} and {{date}}")
    return ReportSpec(name, path)


def open_reports(
    specs: Sequence[ReportSpec], *, job: str, run_id: str, started_ms: int
) -> tuple[ReportFile, ...]:
    """Fill in the paths and prove that each can be written; leaves no file behind.

    Raises UsageError for a missing folder, a path without permission, a path that is no
    regular file, or two reports in one file. `{date}` is the day in UTC.
    """
    known = {"job": job, "run": run_id, "date": rfc3339(started_ms)[:10]}
    files: list[ReportFile] = []
    taken: set[str] = set()
    for spec in specs:
        path = _PLACEHOLDER.sub(lambda found: known[found[1]], spec.path)
        file = ReportFile(spec.format, path, run_id)
        _prove(path, run_id)
        mine = [path]
        if spec.format == "remaining":
            _prove(file.rows_path, run_id)
            mine.append(file.rows_path)
        for real in map(os.path.realpath, mine):
            if real in taken:
                raise UsageError(f"--report {path}: two reports in one file")
            taken.add(real)
        files.append(file)
    return tuple(files)


def write_reports(files: Sequence[ReportFile], content: Content) -> tuple[Result, ...]:
    """Write them all, those of format `json` last: they list the digests of the others.

    A file that fails is an Unwritten, and the others are written all the same. Only the row
    source's own errors leave as exceptions.
    """
    done: dict[int, tuple[Result, ...]] = {}
    digests = dict(content.summary.reports)
    for index, file in sorted(enumerate(files), key=lambda pair: pair[1].format == "json"):
        summary = msgspec.structs.replace(content.summary, reports=dict(digests))
        done[index] = _write(file, content, summary)
        digests |= {r.path: r.sha256 for r in done[index] if isinstance(r, Written)}
    return tuple(result for index in sorted(done) for result in done[index])


def _prove(path: str, run_id: str) -> None:
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise UsageError(f"--report {path}: not a regular file")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise UsageError(f"--report {path}: {_said(error)}") from None
    try:
        with _part(path, run_id) as (file, _):
            file.flush()
    except (OSError, ValueError) as error:
        remedy = ": make its folder first" if isinstance(error, FileNotFoundError) else ""
        raise UsageError(f"--report {path}: cannot be written: {_said(error)}{remedy}") from None


def _write(file: ReportFile, content: Content, summary: Summary) -> tuple[Result, ...]:
    try:
        if file.format == "remaining":
            return _write_remaining(file, content)
        with _part(file.path, file.run_id) as (out, part):
            _fill(file.format, content, summary, out)
            digest = _publish(out, part, file.path)
    except OSError as error:
        return (Unwritten(file.path, _said(error)),)
    return (Written(file.path, digest),)


def _fill(format_: Format, content: Content, summary: Summary, out: BufferedRandom) -> None:
    if format_ == "csv":
        write_csv(content.rows(), out)
    elif format_ == "ndjson":
        write_ndjson(content.rows(), out)
    elif format_ == "json":
        write_json(summary, content.rows(), out)
    else:
        write_restore(content.record.run_id, content.rows(), content.now_ms, out)


def _write_remaining(file: ReportFile, content: Content) -> tuple[Result, ...]:
    with (
        _part(file.rows_path, file.run_id) as (rows, rows_part),
        _part(file.path, file.run_id) as (job, job_part),
    ):
        if not write_remaining_rows(content.rows(), content.leftovers, rows):
            for path in (file.path, file.rows_path):  # an old one must not be run by mistake
                Path(path).unlink(missing_ok=True)
            return (NothingLeft(file.path),)
        job.write(remaining_job(content.record, Path(file.rows_path).name, content.leftovers))
        rows_digest = _publish(rows, rows_part, file.rows_path)
        return (
            Written(file.path, _publish(job, job_part, file.path)),
            Written(file.rows_path, rows_digest),
        )


@contextlib.contextmanager
def _part(path: str, run_id: str) -> Iterator[tuple[BufferedRandom, Path]]:
    """A new file beside the path, gone at the end unless it was renamed."""
    real = Path(os.path.realpath(path))
    part = real.with_name(f".{real.name}.{run_id}.part")
    part.unlink(missing_ok=True)  # of an earlier start of this run, which was killed
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    file = os.fdopen(fd, "w+b")
    try:
        yield file, part
    finally:
        with contextlib.suppress(OSError):  # a full disk, told already
            file.close()
        part.unlink(missing_ok=True)


def _publish(out: BufferedRandom, part: Path, path: str) -> str:
    """Make the file durable and give it its name; its digest."""
    out.flush()
    os.fsync(out.fileno())
    out.seek(0)
    digest = hashlib.file_digest(out, "sha256").hexdigest()
    part.replace(os.path.realpath(path))
    return digest


def _said(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
