"""The truth of a story: devices, their commands, and who cancelled what when.

Shares no code with the worker. Moments are seconds of the machine's clock since 1970. An effect
that comes after its reply is due at a moment and takes hold before anything later is asked, so
that a slow machine moves no effect behind the search that must see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

CREATED, CANCELLED, EXPIRED, SUCCEEDED = 1, 2, 3, 5
MOST_CACHED = 50


class Spelling(NamedTuple):
    """A device as a request or a job names it: by asset, or by product and key."""

    assetId: str = ""
    productKey: str = ""
    deviceKey: str = ""


class Command(Struct, eq=False):
    """One command and its states, the oldest first: (since when, state)."""

    commandId: str
    cached_at: float
    ttl: int  # s
    input: Any
    states: list[tuple[float, int]]

    def state(self, at: float) -> int | None:
        """Its state at a moment; None: not there yet."""
        return next((state for since, state in reversed(self.states) if since <= at), None)

    @property
    def now(self) -> int:
        return self.states[-1][1]


class Device(Struct, eq=False):
    """One device under all its names."""

    number: int
    productKey: str
    deviceKey: str
    assetId: str
    exists: bool = True
    commands: list[Command] = []

    @property
    def by_asset(self) -> Spelling:
        return Spelling(assetId=self.assetId)

    @property
    def by_pair(self) -> Spelling:
        return Spelling("", self.productKey, self.deviceKey)


class Effect(Struct, eq=False):
    """What a cancel does to its device, and whose it is."""

    due: float
    sent: float  # what was cached later is not taken
    device: Device
    commandId: str | None  # None: all
    share: float  # of the commands of a cancel-all that it takes
    taken: list[str]  # filled when it happens


class Fleet:
    """All devices of a story."""

    def __init__(self, devices: Sequence[Device], lag: float) -> None:
        """lag: s that searches are behind."""
        self.devices = devices
        self.lag = lag
        self._coming: list[Effect] = []
        self._named = {name: each for each in devices for name in (each.by_asset, each.by_pair)}
        self._owner = {c.commandId: each for each in devices for c in each.commands}

    def find(self, spelling: Spelling) -> Device | None:
        """The device of that name; None where the gateway knows none."""
        device = self._named.get(spelling)
        return device if device is not None and device.exists else None

    def owner(self, commandId: str) -> Device | None:
        return self._owner.get(commandId)

    def cache(self, device: Device, command: Command) -> None:
        """Somebody caches one more command."""
        device.commands.append(command)
        self._owner[command.commandId] = device

    def happen(self, effect: Effect) -> None:
        """An effect, now or when it is due."""
        self._coming.append(effect)

    def settle(self, now: float) -> None:
        """Let everything happen that is due."""
        due = sorted((e for e in self._coming if e.due <= now), key=lambda e: e.due)
        self._coming = [e for e in self._coming if e.due > now]
        for effect in due:
            _take(effect)

    def search(self, device: Device, state: int, now: float) -> list[Command]:
        """What a search of that moment shows, as late as the index is."""
        self.settle(now)
        return [c for c in device.commands if c.state(now - self.lag) == state]

    def cached(self, device: Device) -> list[Command]:
        """What is really cached."""
        return [c for c in device.commands if c.now == CREATED]


def _take(effect: Effect) -> None:
    found = [c for c in effect.device.commands if c.now == CREATED]
    if effect.commandId is not None:
        found = [c for c in found if c.commandId == effect.commandId]
    else:
        found = [c for c in found if c.cached_at <= effect.sent]
        found = found[: max(1, round(len(found) * effect.share))] if found else []
    for command in found:
        command.states.append((effect.due, CANCELLED))
        effect.taken.append(command.commandId)


def ids(commands: Iterable[Command]) -> list[str]:
    return [c.commandId for c in commands]
