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

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


@contextmanager
def job_lock(url: str, job: str, run_id: str) -> Iterator[None]:
    """Hold the job's lock; raises NotNowError that names the run which holds it.

    Raises UsageError when the lock file cannot be written.
    """
    path, gate_path = _beside(url, f".{job}.lock"), _beside(url, ".lock")
    if path is None or gate_path is None:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        gate = os.open(gate_path, _FLAGS, 0o600)
        file = os.open(path, _FLAGS, 0o600)
    except OSError as failure:
        raise UsageError(f"lock {path}: {failure.strerror}: give another ledger.url") from None
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


def _beside(url: str, suffix: str) -> Path | None:
    path = ledger_path(url)
    return path.with_name(path.name + suffix) if path else None


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
    """The run and the process that stand in the file; it may be just about to write them."""
    words = os.pread(file, 200, 0).decode(errors="replace").split()
    return (words[1], words[0]) if len(words) == 2 else ("just starting", "unknown")
