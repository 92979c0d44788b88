"""One run of a job at a time on one ledger.

A flock on a file beside the ledger: the kernel frees it when the process dies, however it dies,
so that there is no stale lock to clear by hand. The file stays behind on purpose: removing it
would let two processes hold locks on two files of one name. Its text names the holder.
It lies at the real path of the ledger, so that two names of one ledger are one lock, and a link
or a file of somebody else in its place is refused and left as it is.
A ledger without a file belongs to one process and needs no lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.errors import NotNowError, UsageError
from worker.ledger.database import ledger_path

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would block
_WRITE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_LONGEST = 300  # bytes of a holder: its process and its run_id
_HOLDER = re.compile(rb"[0-9]+ \S+\n")


@contextmanager
def job_lock(url: str, job: str, run_id: str) -> Iterator[None]:
    """Hold the job's lock; raises NotNowError that names the run which holds it.

    Raises UsageError when the lock file cannot be written or is not ours.
    """
    path, gate_path = _beside(url, f".{job}.lock"), _beside(url, ".lock")
    if path is None or gate_path is None:
        yield
        return
    gate = _open(gate_path)
    try:
        file = _open(path)
    except UsageError:
        os.close(gate)
        raise
    try:
        if not _take(file, gate):
            run, process = _holder(file)
            said = f"another run of job {job} is at work on this ledger: {run} (process {process})"
            raise NotNowError(f"{said}: wait for its end, or stop it")
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()} {run_id}\n".encode(), 0)
        yield
    finally:
        os.close(file)


def locked_by(url: str, job: str) -> str | None:
    """The run that holds the job's lock now; None when nobody does."""
    path = _beside(url, f".{job}.lock")
    if path is None:
        return None
    try:
        file = os.open(path, _READ)
    except OSError:
        return None
    try:
        return None if _try(file, fcntl.LOCK_SH) else _holder(file)[0]
    finally:
        os.close(file)


def is_locked(url: str, job: str) -> bool:
    """Whether a run of the job is at work on this ledger now."""
    return locked_by(url, job) is not None


def _beside(url: str, suffix: str) -> Path | None:
    path = ledger_path(url)
    if path is None:
        return None
    real = Path(os.path.realpath(path))
    return real.with_name(real.name + suffix)


def _open(path: Path) -> int:
    """A lock file, made where there is none; UsageError for what cannot be one of ours."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(path, _WRITE, 0o600)
    except OSError as failure:
        linked = failure.errno == errno.ELOOP
        said = "a symbolic link, which a lock never is" if linked else failure.strerror
        remedy = "remove it" if linked else "give another ledger.url"
        raise UsageError(f"lock {path}: {said}: {remedy}") from None
    status = os.fstat(file)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and _is_ours(file):
        return file
    os.close(file)
    raise UsageError(f"lock {path}: not a lock of ours: move it away, or give another ledger.url")


def _is_ours(file: int) -> bool:
    text = os.pread(file, _LONGEST + 1, 0)
    return not text or (len(text) <= _LONGEST and _HOLDER.fullmatch(text) is not None)


def _take(file: int, gate: int) -> bool:
    """Lock it for ourselves alone; whoever only looks is waited for, a holder is not.

    Runs pass the gate one by one, so that behind it nobody but a holder or a passer-by, who
    shares the lock for microseconds, can be in the way.
    """
    fcntl.flock(gate, fcntl.LOCK_EX)
    try:
        if not _try(file, fcntl.LOCK_EX):
            if not _try(file, fcntl.LOCK_SH):
                return False
            fcntl.flock(file, fcntl.LOCK_EX)
        return True
    finally:
        os.close(gate)


def _try(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: int) -> tuple[str, str]:
    """The run and the process that the file names; it may be just about to write them."""
    words = os.pread(file, _LONGEST, 0).decode(errors="replace").split()
    return (words[1], words[0]) if len(words) == 2 else ("just starting", "unknown")
