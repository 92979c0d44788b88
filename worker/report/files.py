"""Reports as files: `--report FORMAT=PATH`, checked early, written whole or not at all.

Apart from the formats because files fail: a path that cannot be written, or that is not ours to
write, is found out before anything is sent, a report appears under its name only when it is
complete, and a disk that is full at the end is a value that the caller tells about, not an
exception.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
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
from worker.writing import Form, Guarded, flaw

Format = Literal["csv", "ndjson", "json", "restore", "remaining"]
FORMATS: tuple[Format, ...] = get_args(Format)
_MODE = 0o640  # identities stand in it
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_UNNAMED = getattr(os, "O_TMPFILE", 0) and os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_TEXT = rb'"(?:[^"\\]|\\.)*"'
_DEVICE = rb'\{"orgId":%b(?:,"(?:productKey|deviceKey|assetId)":%b){1,2}' % (_TEXT, _TEXT)
_DEVICES = Form(
    "the devices of a remaining report",
    re.compile(_DEVICE + rb'(?:,"commandIds":\[[^]\n]*\])?\}\n'),
)
#: How a file begins that is a report of the format, and so may be replaced by one.
_BEGINS: dict[Format, bytes] = {
    "csv": rb"orgId,productKey,deviceKey,assetId,outcome,",
    "ndjson": rb'\{"orgId":[^\n]*,"outcome":"',
    "json": rb'\{"schema_version":[0-9]+,"run_id":"',
    "restore": rb'\{"schema_version":[0-9]+,"orgId":"',
    "remaining": rb"# What run \S+ left, written by cancel-worker\.",
}
_FORMS = {name: Form(f"a {name} report", re.compile(begins)) for name, begins in _BEGINS.items()}


class CutShortError(Exception):
    """Raised by a source of rows that has to end early; `str()` says why."""


class ReportSpec(Struct, frozen=True):
    """What `--report FORMAT=PATH` asks for, its placeholders not yet filled in."""

    format: Format
    path: str


class ReportFile(Struct, frozen=True):
    """A report whose path was found writable and ours to write."""

    format: Format
    path: str  # as it is shown: placeholders filled in
    run_id: str

    @property
    def rows_path(self) -> str:
        """Where a `remaining` keeps its devices: beside the job."""
        return str(Path(self.path).with_suffix(".devices.ndjson"))

    def paths(self) -> dict[str, Form]:
        """The files of this report, and what each is."""
        if self.format == "remaining":
            return {self.path: _FORMS["remaining"], self.rows_path: _DEVICES}
        return {self.path: _FORMS[self.format]}


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
    format: Format


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
    specs: Sequence[ReportSpec], *, job: str, run_id: str, started_ms: int, guarded: Guarded
) -> tuple[ReportFile, ...]:
    """Fill in the paths and prove that each can and may be written; leaves no file behind.

    Raises UsageError for a missing folder, a path without permission, a file that is guarded or
    not ours, or two reports in one file: `guarded` takes the paths. `{date}` is the day in UTC.
    """
    known = {"job": job, "run": run_id, "date": rfc3339(started_ms)[:10]}
    files: list[ReportFile] = []
    for spec in specs:
        path = _PLACEHOLDER.sub(lambda found: known[found[1]], spec.path)
        file = ReportFile(spec.format, path, run_id)
        for mine, form in file.paths().items():
            _prove(mine, form, run_id, guarded)
            guarded.add(mine, "another report")
        files.append(file)
    return tuple(files)


def write_reports(files: Sequence[ReportFile], content: Content) -> tuple[Result, ...]:
    """Write them all, those of format `json` last: they list the digests of the others.

    A file that fails is an Unwritten, and the others are written all the same. Only the row
    source's own errors leave as exceptions, but for CutShortError.
    """
    done: dict[int, tuple[Result, ...]] = {}
    digests = dict(content.summary.reports)
    for index, file in sorted(enumerate(files), key=lambda pair: pair[1].format == "json"):
        summary = msgspec.structs.replace(content.summary, reports=dict(digests))
        done[index] = _write(file, content, summary)
        digests |= {r.path: r.sha256 for r in done[index] if isinstance(r, Written)}
    return tuple(result for index in sorted(done) for result in done[index])


def _prove(path: str, form: Form, run_id: str, guarded: Guarded) -> None:
    try:
        problem = flaw(path, form, guarded)
    except (OSError, ValueError) as error:
        raise UsageError(f"--report {path}: {_said(error)}") from None
    if problem is not None:
        raise UsageError(f"--report {path}: {problem}: give another path")
    try:
        with _part(path, run_id):
            pass
    except (OSError, ValueError) as error:
        remedy = ": make its folder first" if isinstance(error, FileNotFoundError) else ""
        raise UsageError(f"--report {path}: cannot be written: {_said(error)}{remedy}") from None


def _write(file: ReportFile, content: Content, summary: Summary) -> tuple[Result, ...]:
    try:
        if file.format == "remaining":
            return _write_remaining(file, content)
        with _part(file.path, file.run_id) as part:
            _fill(file.format, content, summary, part.file)
            _check(file)
            digest = part.publish()
    except OSError as error:
        return (Unwritten(file.path, _said(error), file.format),)
    except CutShortError as cut:
        return (Unwritten(file.path, str(cut), file.format),)
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
        _part(file.rows_path, file.run_id) as rows,
        _part(file.path, file.run_id) as job,
    ):
        left = write_remaining_rows(content.rows(), content.leftovers, rows.file)
        _check(file)
        if not left:
            for path in (file.path, file.rows_path):  # an old one must not be run by mistake
                Path(path).unlink(missing_ok=True)
            return (NothingLeft(file.path),)
        name = Path(file.rows_path).name
        job.file.write(remaining_job(content.record, name, content.leftovers))
        rows_digest = rows.publish()
        return (Written(file.path, job.publish()), Written(file.rows_path, rows_digest))


def _check(file: ReportFile) -> None:
    """Once more before a file is replaced, which may have come during the run."""
    for path, form in file.paths().items():
        problem = flaw(path, form, Guarded())
        if problem is not None:
            raise OSError(errno.EEXIST, f"{path} {problem}")


class _Part:
    """A report that has no name yet."""

    def __init__(self, file: BufferedRandom, folder: int, name: str, part: str) -> None:
        self.file = file
        self._folder = folder  # descriptor
        self._name = name
        self._part = part
        self._unnamed = not os.fstat(file.fileno()).st_nlink

    def publish(self) -> str:
        """Make the file durable and give it its name; its digest."""
        out, folder = self.file, self._folder
        out.flush()
        os.fsync(out.fileno())
        out.seek(0)
        digest = hashlib.file_digest(out, "sha256").hexdigest()
        if self._unnamed:
            _link(out.fileno(), self._part, folder)
        os.replace(self._part, self._name, src_dir_fd=folder, dst_dir_fd=folder)
        return digest


@contextlib.contextmanager
def _part(path: str, run_id: str) -> Iterator[_Part]:
    """A new file in the folder of the path, gone at the end unless it was published.

    It has no name where the system can do that, so that not even a kill leaves it behind.
    """
    real = Path(os.path.realpath(path))
    part = f".{real.name}.{run_id}.part"
    folder = os.open(real.parent, _FOLDER)
    try:
        _unlink(part, folder)  # of an earlier start of this run, which was killed
        file = os.fdopen(_create(part, folder), "w+b")
        try:
            yield _Part(file, folder, real.name, part)
        finally:
            with contextlib.suppress(OSError):  # a full disk, told already
                file.close()
            _unlink(part, folder)
    finally:
        os.close(folder)


def _create(part: str, folder: int) -> int:
    """A file without a name where one can be given later, else one that is called `part`."""
    if _UNNAMED:
        with contextlib.suppress(OSError):
            trial = os.open(".", _UNNAMED, _MODE, dir_fd=folder)
            try:
                _link(trial, part, folder)
                _unlink(part, folder)  # a file that has lost its name cannot get one again
            finally:
                os.close(trial)
            return os.open(".", _UNNAMED, _MODE, dir_fd=folder)
    return os.open(part, _NEW, _MODE, dir_fd=folder)


def _link(fd: int, name: str, folder: int) -> None:
    os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=folder, follow_symlinks=True)


def _unlink(name: str, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _said(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
