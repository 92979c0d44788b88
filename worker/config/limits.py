"""The bounds of a run: flag over job over configuration, and nothing above the ceiling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

from msgspec import Struct

from worker.config.kinds import Duration, Kind, Origin, OrNone, Rate, UnfitError, Whole
from worker.config.places import Place, raise_any
from worker.job.schema import JobLimits, NoRate

_DAYS = 86_400.0  # seconds
_CONCURRENCY = Whole("Requests in flight at the same time, at most.", 1, 1024)
_RATE = Rate("Requests per second or minute, at most; none for no bound.")
_MAX_DEVICES = Whole("A list of more devices is refused.", 1)
_MAX_COMMANDS = Whole("The run stops once so many commands are cancelled.", 1)
_MIN_DEVICES = Whole("A list of fewer devices is refused.", 1)
_DEADLINE = Duration("The run ends after this time.", 0.001, 100 * _DAYS)


def _bound(kind: Kind) -> OrNone:
    return OrNone(kind.doc, of=kind)


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of a run, where neither a flag nor the job states them."""

    concurrency: Annotated[int, _CONCURRENCY] = 16
    rate: Annotated[float | None, _RATE] = 50.0  # requests a second
    max_devices: Annotated[int, _MAX_DEVICES] = 5000
    max_commands: Annotated[int | None, _bound(_MAX_COMMANDS)] = None
    min_devices: Annotated[int | None, _bound(_MIN_DEVICES)] = None
    deadline: Annotated[float | None, _bound(_DEADLINE)] = None  # seconds


class Ceiling(Struct, frozen=True):
    """What no job, no flag and no limit above may pass."""

    concurrency: Annotated[int | None, _bound(_CONCURRENCY)] = None
    rate: Annotated[float | None, _RATE] = None
    max_devices: Annotated[int | None, _bound(_MAX_DEVICES)] = None
    max_commands: Annotated[int | None, _bound(_MAX_COMMANDS)] = None
    min_devices: Annotated[int | None, _bound(_MIN_DEVICES)] = None
    deadline: Annotated[float | None, _bound(_DEADLINE)] = None


class Bounding(Protocol):
    """What is asked of the settings here."""

    @property
    def limits(self) -> Limits: ...
    @property
    def ceiling(self) -> Ceiling: ...


_KINDS: dict[str, Kind] = {
    "concurrency": _CONCURRENCY,
    "rate": _RATE,
    "max_devices": _MAX_DEVICES,
    "max_commands": _MAX_COMMANDS,
    "min_devices": _MIN_DEVICES,
    "deadline": _DEADLINE,
}


def resolve_limits(
    flags: Mapping[str, str | None], job: JobLimits | None, settings: Bounding
) -> tuple[Limits, tuple[str, ...]]:
    """The bounds of one run, and a note for people on each one that the ceiling lowered.

    flags holds the text of each limit's flag by the limit's name; None is a flag not given.
    Raises InvalidInputError with every flag that is no value.
    """
    asked = _flags(flags)
    values: dict[str, Any] = {}
    notes: list[str] = []
    for name, kind in _KINDS.items():
        value, who = _asked(name, asked, job, settings.limits)
        ceiling = getattr(settings.ceiling, name)
        values[name] = value
        if ceiling is None or not _is_above(name, value, ceiling):
            continue
        values[name] = ceiling
        if who is not None or value is not None:
            spelled = _bound(kind).written(value)
            notes.append(
                f"{who or f'limits.{name} of the configuration'}: {spelled} is above the ceiling,"
                f" {kind.written(ceiling)} is used (ceiling.{name})"
            )
    return Limits(**values), tuple(notes)


def _flags(flags: Mapping[str, str | None]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    findings = []
    for name, text in flags.items():
        if text is None:
            continue
        try:
            values[name] = _KINDS[name].read(text, Origin(Path()))
        except UnfitError as error:
            findings.append(Place(f"--{name.replace('_', '-')}").finding(error))
    raise_any(findings)
    return values


def _asked(
    name: str, flags: Mapping[str, Any], job: JobLimits | None, configured: Limits
) -> tuple[Any, str | None]:
    """The value that counts before the ceiling, and who asked for it; None: the configuration."""
    if name in flags:
        return flags[name], f"--{name.replace('_', '-')}"
    of_job = getattr(job, name) if job is not None else None
    if of_job is not None:
        return None if isinstance(of_job, NoRate) else of_job, f"limits.{name} of the job"
    return getattr(configured, name), None


def _is_above(name: str, value: Any, ceiling: Any) -> bool:
    if value is None:
        return name != "min_devices"  # none is no bound at all; of a minimum it is the least
    return bool(value > ceiling)
