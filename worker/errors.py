"""Every error that a person may see, and the exit code that it means.

    CancelWorkerError
    ├── UsageError          2   the command line, the configuration, a job file
    │   └── InvalidInputError   all findings of a file, each with its position
    ├── RefusedError        7   well-formed, but not allowed to start
    ├── NotNowError         9   another run holds the lock, or --until has passed
    ├── SignalError   130, 143   a signal, before anything was sent
    └── LedgerError         6   the record could not be made durable

An expected failure of a target is not here: it is data (`model.Evidence`, `model.Outcome`).
Any other exception that reaches the command line is a bug (exit code 1).
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from msgspec import Struct


class CancelWorkerError(Exception):
    """Something that a person must read; `str()` says where and what to do."""

    exit_code = 1


class UsageError(CancelWorkerError):
    """The command line, the configuration or a file cannot be used as it is."""

    exit_code = 2


class Finding(Struct, frozen=True, order=True):
    """One thing wrong in a file: where, what, and what to write instead."""

    file: str
    line: int
    column: int
    problem: str
    remedy: str = ""

    def __str__(self) -> str:
        said = f"{self.file}:{self.line}:{self.column}: {self.problem}"
        return f"{said}: {self.remedy}" if self.remedy else said


class InvalidInputError(UsageError):
    """A file with findings; `str()` lists them, one a line."""

    def __init__(self, findings: Sequence[Finding], more: int = 0) -> None:
        self.findings = tuple(findings)
        self.more = more
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """What `str()` says, a finding a line."""
        return [*map(str, self.findings), *([f"… and {self.more} more"] if self.more else [])]


class RefusedError(CancelWorkerError):
    """Well-formed, but a guard forbids it: cap, confirmation, digest, organization, permission."""

    exit_code = 7


class NotNowError(CancelWorkerError):
    """It could run at another time: the job's lock is held, or the moment of --until has passed."""

    exit_code = 9


class SignalError(CancelWorkerError):
    """SIGINT or SIGTERM came before anything was sent."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(f"{signal.Signals(number).name}: nothing was sent")


class LedgerError(CancelWorkerError):
    """The ledger failed under a run: what happened could not be made durable."""

    exit_code = 6
