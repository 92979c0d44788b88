"""One run of a job at a time on one ledger.

A flock on a file beside the ledger: the kernel frees it when the process dies, however it dies,
so that there is no stale lock to clear by hand. The file stays behind on purpose: removing it
would let two processes hold locks on two files of one name. What stands in it names the holder.
A ledger without a file belongs to one process and needs no lock.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.errors import NotNowError, UsageError
from worker.ledger.database import ledger_path

_TRIES = 1000  # a look takes microseconds; more than one at a time is rare


@contextmanager
def job_lock(url: str, job: str, run_id: str) -> Iterator[None]:
    """Hold the job's lock; raises NotNowError that names the run which holds it.

    Raises UsageError when the lock file cannot be written.
    """
    path = _lock_path(url, job)
    if path is None:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as failure:
        raise UsageError(f"lock {path}: {failure.strerror}: give another ledger.url") from None
    try:
        if not _take(file):
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
    path = _lock_path(url, job)
    if path is None:
        return None
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return None if _try(file, fcntl.LOCK_SH) else _holder(file)[0]
    finally:
        os.close(file)


def is_locked(url: str, job: str) -> bool:
    """Whether a run of the job is at work on this ledger now."""
    return locked_by(url, job) is not None


def _lock_path(url: str, job: str) -> Path | None:
    path = ledger_path(url)
    return path.with_name(f"{path.name}.{job}.lock") if path else None


def _take(file: int) -> bool:
    """Lock it for ourselves alone; a passer-by who only looks is waited for, a holder is not."""
    for _ in range(_TRIES):
        if _try(file, fcntl.LOCK_EX):
            return True
        if not _try(file, fcntl.LOCK_SH):
            return False
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _try(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: int) -> tuple[str, str]:
    """The run and the process that stand in the file; it may be just about to write them."""
    words = os.pread(file, 200, 0).decode(errors="replace").split()
    return (words[1], words[0]) if len(words) == 2 else ("just starting", "unknown")
