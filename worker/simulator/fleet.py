"""Which devices there are, by which names, and what each has cached.

Devices are derived when they are first asked for, from the seed and their name: a million with
nothing cached cost 29 MB in all (`roster.py`), one with commands 2 kB (some six commands),
and listed ids are kept as they are. A device has all three parts of an identity; what a job
did not name is invented.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from worker.model import AllCached, AssetId, Device, DeviceKey, Target
from worker.simulator import commands as cache
from worker.simulator.chance import Dice, key64
from worker.simulator.commands import CREATED, MOST_CACHED, Cached, Identity
from worker.simulator.expressions import DeviceCase
from worker.simulator.roster import Roster
from worker.simulator.truth import Executed

CANCELS, SEARCHES, NEWCOMERS = range(3)  # what is counted for every device

_STATUSES = ("offline", "offline", "offline", "online", "inactive", "disable")


class Known(Struct):
    """A device that is kept in full: it has commands, or somebody learned its other name."""

    key: int
    who: Identity
    commands: list[Cached]
    executed: tuple[Executed, ...] = ()

    @property
    def status(self) -> str:
        return _STATUSES[self.key % len(_STATUSES)]

    def room(self) -> int:
        """How many more commands can be cached."""
        return MOST_CACHED - sum(command.state == CREATED for command in self.commands)


class Fleet:
    """The devices of one gateway."""

    def __init__(self, seed: int, started_ms: int, *, any_device: bool, busy: float) -> None:
        self._seed = seed
        self._started_ms = started_ms
        self._any_device = any_device
        self._busy = busy
        self._roster = Roster(counters=3)
        self._known: dict[int, Known] = {}
        self._other_names: dict[int, int] = {}  # key of the second name -> key
        self._listed: dict[int, tuple[str, ...]] = {}
        self._whole: set[int] = set()  # listed devices that another job names as a whole
        self._absent: set[int] = set()

    def __len__(self) -> int:
        return len(self._roster)

    def seed_target(self, target: Target) -> None:
        key = self.key_of(target.orgId, target.device)
        new = self._roster.add(key)
        if isinstance(target.scope, AllCached):
            if key in self._listed:
                self._whole.add(key)
            return
        if not new and key not in self._listed:
            self._whole.add(key)
        before = self._listed.get(key, ())
        more = tuple(i for i in target.scope.commandIds if i not in before)
        self._listed[key] = (*before, *more)
        if key in self._known:
            self._add_listed(self._known[key], more)

    def seed_absent(self, target: Target) -> None:
        self._absent.add(self.key_of(target.orgId, target.device))

    def add(self, who: Identity) -> Known:
        """A device with names of one's own choice and nothing cached; KeyError when taken."""
        key = self.key_of(who.orgId, DeviceKey(who.productKey, who.deviceKey))
        asset = self.key_of(who.orgId, AssetId(who.assetId))
        if key in self._roster or asset in self._roster:
            raise KeyError(f"{who} is there already")
        self._roster.add(key)
        return self._keep(Known(key, who, []), asset)

    def key_of(self, orgId: str, device: Device) -> int:
        """The key of a device, whichever of its names is used."""
        if isinstance(device, AssetId):
            key = key64(orgId, "asset", device.assetId)
        else:
            key = key64(orgId, "key", device.productKey, device.deviceKey)
        return self._other_names.get(key, key)

    def look(self, orgId: str, device: Device) -> Known | None:
        """The device if it has (or had) commands, or is kept for another reason."""
        key = self.key_of(orgId, device)
        known = self._known.get(key)
        if known is not None or not self.has(key):
            return known
        listed = self._listed.get(key)
        if listed is None:
            commands = cache.derive_all(self._seed, key, self._started_ms, self._busy)
            return self._promote(key, orgId, device, commands) if commands else None
        known = self._promote(key, orgId, device, [])
        self._add_listed(known, listed)
        others = min(known.room(), Dice(self._seed, "others", key).whole(0, 3))
        known.commands += cache.derive_some(self._seed, key, self._started_ms, others)
        return known

    def peek(self, orgId: str, device: Device) -> Known | None:
        """As `look`, but a device that nobody asked for yet is not derived."""
        return self._known.get(self.key_of(orgId, device))

    def learn(self, orgId: str, device: Device) -> Known | None:
        """The device with all its names, kept from now on; None when there is none."""
        known = self.look(orgId, device)
        key = self.key_of(orgId, device)
        if known is None and self.has(key):
            known = self._promote(key, orgId, device, [])
        return known

    def has(self, key: int) -> bool:
        if self._any_device and key not in self._absent:
            self._roster.add(key)
        return key in self._roster

    def bump(self, key: int, counter: int) -> int:
        """Count one more for the device; always 1 for one that is not there."""
        return self._roster.bump(key, counter) or 1

    def count(self, key: int, counter: int) -> int:
        return self._roster.count(key, counter)

    def names(self, key: int) -> bool:
        """Whether a job names the device."""
        return key in self._roster or key in self._absent

    def asked_for(self, key: int, commandId: str | None) -> bool:
        """Whether a job names the command of the device, or (None) all of them."""
        if key in self._listed and key not in self._whole:
            return commandId in self._listed[key]
        return True

    def kept(self) -> Iterator[Known]:
        """All devices that are kept in full, in the order in which they became so."""
        return iter(self._known.values())

    def find(self, orgId: str, cases: tuple[DeviceCase, ...]) -> list[Known]:
        """The kept devices that a filter selects, newest first; a device that it names is kept.

        Those with nothing cached that nobody named are not found: their names are not stored.
        """
        for case in cases:
            for device in _named(case):
                self.learn(orgId, device)
        return [
            known
            for known in reversed(self._known.values())
            if known.who.orgId == orgId and any(_selects(case, known) for case in cases)
        ]

    def _add_listed(self, known: Known, ids: tuple[str, ...]) -> None:
        known.commands += cache.derive_listed(
            self._seed, known.key, self._started_ms, ids, known.room()
        )

    def _promote(self, key: int, orgId: str, device: Device, commands: list[Cached]) -> Known:
        other: Device
        if isinstance(device, AssetId):
            other = DeviceKey(*cache.invent_key(self._seed, orgId, device.assetId))
            who = Identity(orgId, other.productKey, other.deviceKey, device.assetId)
        else:
            names = (device.productKey, device.deviceKey)
            other = AssetId(cache.invent_asset(self._seed, orgId, *names))
            who = Identity(orgId, *names, other.assetId)
        return self._keep(Known(key, who, commands), self.key_of(orgId, other))

    def _keep(self, known: Known, other_name: int) -> Known:
        self._known[known.key] = known
        self._other_names[other_name] = known.key
        return known


def _named(case: DeviceCase) -> Iterator[Device]:
    yield from map(AssetId, sorted(case.get("assetId", ())))
    for productKey in sorted(case.get("productKey", ())):
        for deviceKey in sorted(case.get("deviceKey", ())):
            yield DeviceKey(productKey, deviceKey)


def _selects(case: DeviceCase, known: Known) -> bool:
    has: Mapping[str, str] = {
        "productKey": known.who.productKey,
        "deviceKey": known.who.deviceKey,
        "assetId": known.who.assetId,
        "status": known.status,
    }
    return all(has[field] in values for field, values in case.items())
