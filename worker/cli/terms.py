"""What a run was agreed on: all that a later start needs, kept with the plan in the ledger."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from worker.config import Limits
from worker.errors import UsageError
from worker.job.schema import Job, Source
from worker.job.units import format_duration, format_rate
from worker.model import RunRecord
from worker.report.remaining import Leftovers
from worker.run.safety import AbortRules

Verify = Literal["none", "touched", "all"]

#: Where continuous integration names who started it.
_CI_USERS = ("GITHUB_ACTOR", "GITLAB_USER_LOGIN", "BUILD_USER_ID", "BUILDKITE_BUILD_CREATOR")


class Terms(Struct, frozen=True, forbid_unknown_fields=True):
    """The job's word on how its list is worked off, limits resolved."""

    limits: Limits
    verify: Verify
    verify_written: bool  # in the job, so that a search that is refused refuses the run
    abort: AbortRules | None
    sources: tuple[Source, ...]
    limit: int | None = None  # the first so many targets only
    settings: dict[str, object] = {}  # the configuration, for the record

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    def leftovers(self, *, rejected: bool = False, not_found: bool = False) -> Leftovers:
        """What a `remaining` job keeps of this one."""
        limits: dict[str, int | float | str] = {"concurrency": self.limits.concurrency}
        limits["rate"] = format_rate(self.limits.rate)
        limits["max_devices"] = self.limits.max_devices
        if self.limits.max_commands is not None:
            limits["max_commands"] = self.limits.max_commands
        if self.limits.deadline is not None:
            limits["deadline"] = format_duration(self.limits.deadline)
        abort: Mapping[str, int | float | str] | str = "off"
        if self.abort is not None:
            abort = {
                "failed": f"{self.abort.failed * 100:g}%",
                "min_sample": self.abort.min_sample,
                "consecutive": self.abort.consecutive,
            }
        verify = self.verify if self.verify_written else None
        return Leftovers(limits, verify, abort, rejected=rejected, not_found=not_found)


def terms_of(record: RunRecord) -> Terms:
    """The terms that a run was planned with; UsageError when this version cannot read them all."""
    try:
        return msgspec.json.decode(record.settings, type=Terms)
    except msgspec.DecodeError as problem:
        raise UsageError(
            f"run {record.run_id} was planned by cancel-worker {record.version}, whose settings "
            f"this version cannot read ({problem}): use that version, or plan it anew"
        ) from None


def agree(job: Job, limits: Limits, limit: int | None, settings: dict[str, object]) -> Terms:
    """The terms of a job under these limits."""
    abort = job.abort
    return Terms(
        limits=limits,
        verify=job.verify or "touched",
        verify_written=job.verify in ("touched", "all"),
        abort=AbortRules(abort.failed, abort.min_sample, abort.consecutive) if abort else None,
        sources=job.sources,
        limit=limit,
        settings=settings,
    )


def actor(given: str | None, environ: Mapping[str, str]) -> str:
    """Who runs this: `--actor`, its variable, the user that CI names, or user@host."""
    if given:
        return given
    for name in ("CANCEL_WORKER_ACTOR", *_CI_USERS):
        if environ.get(name):
            return environ[name]
    user = environ.get("USER") or environ.get("LOGNAME") or f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
