"""The job format: every key once, with its type, bounds, description and remedy.

The `…Entry` types are the file as people write it; they give the JSON Schema, the known keys and
the check of each value. `Job` is what comes of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from worker.errors import Finding
from worker.job.units import DURATION_PATTERN, RATE_PATTERN, SHARE_PATTERN

# ---------------------------------------------------------------- the file as written

# Keys of coming releases: refused by name, so that nobody believes that they work already.
LATER_KEYS = ("match", "phases", "accept", "gateway", "timezone", "window", "schedule")
LATER_SOURCE_KEYS = ("search",)
LATER_SCOPES = ("matching",)

_WHOLE = {"remedy": "write a whole number from 1 to 1000000000"}
_DURATION = {"remedy": "write a whole number with its unit, such as 250ms, 5s, 10m, 2h or 1d"}
_RATE = {"remedy": "write requests per second or minute, such as 50/s or 600/m, or none"}
_SHARE = {"remedy": "write a percentage from 0% to 100%, such as 5%"}

Count = Annotated[int, Meta(ge=1, le=1_000_000_000, extra=_WHOLE)]
Lanes = Annotated[int, Meta(ge=1, le=1024, extra={"remedy": "write a whole number from 1 to 1024"})]
Duration = Annotated[str, Meta(pattern=DURATION_PATTERN, extra=_DURATION)]
Rate = Annotated[str, Meta(pattern=RATE_PATTERN, extra=_RATE)]
Share = Annotated[str, Meta(pattern=SHARE_PATTERN, extra=_SHARE)]
Identity = Annotated[str, Meta(min_length=1)]
CommandId = Annotated[str, Meta(pattern="^[0-9]{1,32}$")]


class DeviceEntry(Struct, forbid_unknown_fields=True):
    """A device by assetId, or by productKey and deviceKey; or many devices of one product."""

    productKey: Annotated[Identity | UnsetType, Meta(description="Product of the device.")] = UNSET
    deviceKey: Annotated[
        Identity | UnsetType, Meta(description="Key of the device within its product.")
    ] = UNSET
    deviceKeys: Annotated[
        Annotated[list[Identity], Meta(min_length=1)] | UnsetType,
        Meta(description="Keys of many devices of one product; only with scope: all_cached."),
    ] = UNSET
    assetId: Annotated[
        Identity | UnsetType, Meta(description="The device by its id on the platform.")
    ] = UNSET
    commandIds: Annotated[
        Annotated[list[CommandId], Meta(min_length=1)] | UnsetType,
        Meta(description="The commands to cancel; with scope: listed, and only then."),
    ] = UNSET


class SourceEntry(Struct, forbid_unknown_fields=True):
    """An inventory beside the job file."""

    file: Annotated[
        str,
        Meta(
            pattern=r"\.(csv|ndjson)$",
            description="A .csv or .ndjson file, relative to the job file and inside its folder.",
            extra={"remedy": "give a .csv or .ndjson file"},
        ),
    ]


class LimitsEntry(Struct, forbid_unknown_fields=True):
    """Bounds of a run; a flag passes over them, the configuration's ceiling holds them."""

    max_devices: Annotated[
        Count | UnsetType,
        Meta(description="A list with more devices is refused before the first call."),
    ] = UNSET
    min_devices: Annotated[
        Count | UnsetType,
        Meta(description="A list with fewer devices is refused before the first call."),
    ] = UNSET
    max_commands: Annotated[
        Count | UnsetType, Meta(description="The run stops once so many commands are cancelled.")
    ] = UNSET
    concurrency: Annotated[
        Lanes | UnsetType, Meta(description="Most requests in flight at the same time.")
    ] = UNSET
    rate: Annotated[
        Rate | UnsetType, Meta(description="Most requests: 50/s, 600/m, or none for no bound.")
    ] = UNSET
    deadline: Annotated[
        Duration | UnsetType,
        Meta(description="The run ends after this time (250ms, 5s, 10m, 2h, 1d); above zero."),
    ] = UNSET


class AbortEntry(Struct, forbid_unknown_fields=True):
    """When a run that goes badly stops by itself."""

    failed: Annotated[
        Share | UnsetType,
        Meta(description="Stop when more than this share of the last 1,000 devices failed."),
    ] = UNSET
    min_sample: Annotated[
        Count | UnsetType, Meta(description="Judge `failed` only from so many devices on.")
    ] = UNSET
    consecutive: Annotated[
        Count | UnsetType, Meta(description="Stop when so many devices in a row failed.")
    ] = UNSET


class JobFile(Struct, forbid_unknown_fields=True):
    """A job of cancel-worker: whose cached commands to cancel, and within which bounds."""

    name: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z0-9][A-Za-z0-9-]{0,199}$",
            description="Names the lock and the reports: letters, digits and -.",
            extra={"remedy": "use letters, digits and -, a letter or digit first"},
        ),
    ]
    orgId: Annotated[Identity, Meta(description="The one organization that owns the devices.")]
    scope: Annotated[
        Literal["all_cached", "listed"],
        Meta(
            description="all_cached: every cached command; listed: exactly the commandIds given.",
            extra={"remedy": "write all_cached or listed"},
        ),
    ]
    reason: Annotated[
        Annotated[str, Meta(min_length=1, extra={"remedy": "write why, or leave it out"})]
        | UnsetType,
        Meta(description="Why; kept in the record of every run."),
    ] = UNSET
    devices: Annotated[
        Annotated[list[DeviceEntry], Meta(min_length=1)] | UnsetType,
        Meta(description="The devices, one an entry."),
    ] = UNSET
    devices_from: Annotated[
        Annotated[list[SourceEntry], Meta(min_length=1)] | UnsetType,
        Meta(description="Inventories that name devices, beside or instead of `devices`."),
    ] = UNSET
    limits: Annotated[LimitsEntry | UnsetType, Meta(description="Bounds of a run of this job.")] = (
        UNSET
    )
    verify: Annotated[
        Literal["none", "touched", "all"] | UnsetType,
        Meta(
            description="Which devices are searched again afterwards; touched by default.",
            extra={"remedy": "write none, touched or all"},
        ),
    ] = UNSET
    abort: Annotated[
        AbortEntry | Literal["off"] | UnsetType,
        Meta(description="When the run stops by itself; off switches these two rules off."),
    ] = UNSET


def job_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a job file, from the types above."""
    schema = msgspec.json.schema(JobFile)
    parts: dict[str, Any] = schema["$defs"]
    parts["JobFile"]["anyOf"] = [{"required": ["devices"]}, {"required": ["devices_from"]}]
    parts["DeviceEntry"]["oneOf"] = [
        {"required": ["assetId"], **_without("productKey", "deviceKey", "deviceKeys")},
        {"required": ["productKey", "deviceKey"], **_without("assetId", "deviceKeys")},
        {
            "required": ["productKey", "deviceKeys"],
            **_without("assetId", "deviceKey", "commandIds"),
        },
    ]
    for option in parts["JobFile"]["properties"]["abort"]["anyOf"]:
        if "enum" in option:
            option["enum"] = ["off", False]  # a YAML 1.1 reader makes false of off
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Job file"}
    return {**dialect, **schema}


def _without(*names: str) -> dict[str, Any]:
    return {"not": {"anyOf": [{"required": [name]} for name in names]}}


# ---------------------------------------------------------------- what comes of it


class NoRate(Struct, frozen=True):
    """`rate: none`, which is not the same as a rate that was not written."""


class JobLimits(Struct, frozen=True):
    """The bounds that the job states; None where it does not."""

    max_devices: int | None = None
    min_devices: int | None = None
    max_commands: int | None = None
    concurrency: int | None = None
    rate: float | NoRate | None = None  # requests a second
    deadline: float | None = None  # seconds


class Abort(Struct, frozen=True):
    """When a run that goes badly stops by itself."""

    failed: float = 0.05  # share, 0 to 1
    min_sample: int = 50
    consecutive: int = 20


class Source(Struct, frozen=True, forbid_unknown_fields=True):
    """A file that the list came from."""

    file: str
    sha256: str  # of its bytes, as read
    rows: int  # devices that it names


class Job(Struct, frozen=True):
    """A checked job; its rows went to the sheet."""

    name: str
    reason: str | None
    orgId: str
    scope: Literal["all_cached", "listed"]
    limits: JobLimits
    verify: Literal["none", "touched", "all"] | None  # None: not written, so not binding
    abort: Abort | None  # None: `abort: off`
    path: str  # as given
    sources: tuple[Source, ...]  # the job file, then each inventory: Row.source counts here
    warnings: tuple[Finding, ...] = ()  # the first 20
    more_warnings: int = 0
