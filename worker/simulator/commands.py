"""Cached commands: what is derived for a device, their states over time, how they are shown.

A command keeps only its id, age and states; all else that a reply shows is drawn from the seed
and the id whenever it is asked for, so that a large fleet stays small.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from worker.simulator.chance import Dice

CREATED, CANCELLED, EXPIRED, SUCCEEDED = 1, 2, 3, 5
MOST_CACHED = 50
LONGEST_TTL = 172_800  # s

_HOUR_MS = 3_600_000
_ALWAYS = float("-inf")
_SINCE_EVER = ((_ALWAYS, CREATED),)
_NAMES = ("reboot", "set_interval", "Int_value", "upgrade_firmware", "sync_clock", "read_log")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_PRODUCTS = ("bXuuAiku", "kQ3vTz0p", "wR8yLm2d", "hN5cJx7s")


class Identity(Struct, frozen=True, gc=False):
    """Who a device is, by all its names."""

    orgId: str
    productKey: str
    deviceKey: str
    assetId: str

    def __str__(self) -> str:
        return f"{self.productKey}/{self.deviceKey} ({self.assetId})"


class Cached(Struct, gc=False):
    """One command and its states: (since when on the monotonic clock, state), oldest first."""

    commandId: str
    created_ms: int  # gateway's clock
    ttl: int  # s
    states: tuple[tuple[float, int], ...] = _SINCE_EVER

    @property
    def state(self) -> int:
        return self.states[-1][1]

    @property
    def seeded(self) -> bool:
        """Whether it was there from the start."""
        return self.states[0][0] == _ALWAYS

    def expire(self, now: float, now_ms: int) -> None:
        """Let its time to live run out."""
        if self.state == CREATED and self.created_ms + self.ttl * 1000 <= now_ms:
            enter([self], EXPIRED, now)

    def indexed(self, at: float) -> int | None:
        """The state that an index of that moment shows; None: not in it yet."""
        return next((state for since, state in reversed(self.states) if since <= at), None)


def enter(commands: Iterable[Cached], state: int, now: float) -> None:
    """Put commands into a state; equal histories are kept once, most are equal."""
    histories: dict[tuple[tuple[float, int], ...], tuple[tuple[float, int], ...]] = {}
    for command in commands:
        before = command.states
        command.states = histories.setdefault(before, (*before, (now, state)))


def invent_asset(seed: int, orgId: str, productKey: str, deviceKey: str) -> str:
    dice = Dice(seed, "asset", orgId, productKey, deviceKey)
    return "".join(dice.pick(_LETTERS) for _ in range(10))


def invent_key(seed: int, orgId: str, assetId: str) -> tuple[str, str]:
    dice = Dice(seed, "key", orgId, assetId)
    return dice.pick(_PRODUCTS), f"dev_{dice.whole(0, 2**48 - 1):012x}"


def derive_all(seed: int, key: int, started_ms: int, busy: float) -> list[Cached]:
    """What an ordinary device has cached: mostly nothing, else 1 to 50, few more often."""
    dice = Dice(seed, "cache", key)
    if dice.share() >= busy:
        return []
    return derive_some(seed, key, started_ms, 1 + int((MOST_CACHED - 0.01) * dice.share() ** 8))


def derive_listed(
    seed: int, key: int, started_ms: int, ids: Sequence[str], room: int
) -> list[Cached]:
    """The commands asked for: a tenth of them gone, and those for which there is no room."""
    commands = []
    for commandId in ids:
        dice = Dice(seed, "listed", key, commandId)
        command = _cached(dice, commandId, started_ms)
        if dice.share() < 0.1 or room == 0:
            command.states = ((_ALWAYS, dice.pick((SUCCEEDED, EXPIRED))),)
        else:
            room -= 1
        commands.append(command)
    return commands


def derive_some(seed: int, key: int, started_ms: int, count: int) -> list[Cached]:
    return [
        _cached(Dice(seed, "command", key, at), invent_id(seed, key, at), started_ms)
        for at in range(count)
    ]


def invent_id(seed: int, key: int, at: int | str) -> str:
    """19 digits, above 2^53: a reader that takes it for a number loses digits."""
    return str(Dice(seed, "id", key, at).whole(10**18, 10**19 // 2))


def _cached(dice: Dice, commandId: str, started_ms: int) -> Cached:
    """Created minutes to 47 h ago, and good for at least another 30 minutes."""
    age_ms = int(60_000 + 47 * _HOUR_MS * dice.share() ** 2)
    least = age_ms // 1000 + 1800
    ttl = dice.whole(least, LONGEST_TTL)
    return Cached(commandId, started_ms - age_ms, ttl)


def show(seed: int, who: Identity, command: Cached, state: int) -> dict[str, Any]:
    """The command as replies describe it; shapes vary where the documentation's do."""
    dice = Dice(seed, "show", command.commandId)
    name, created = dice.pick(_NAMES), command.created_ms
    local = "createLocalTime" if dice.share() < 0.8 else "createLocaltime"
    shown: dict[str, Any] = {
        "commandId": command.commandId,
        "orgId": who.orgId,
        "productKey": who.productKey,
        "deviceKey": who.deviceKey,
        "assetId": who.assetId,
        "createTime": created if dice.share() < 0.9 else str(created),
        local: created,
        "commandType": dice.whole(1, 2),
        "commandName": {
            "defaultValue": name,
            "i18nValue": {"en_US": name, "zh_CN": f"{name} 指令"},
        },
        "timeout": dice.pick((1, 30, 60)),
        "pendingTtl": command.ttl,
        "state": state,
        "tslIdentifier": name,
        "inputData": _input(dice),
    }
    if dice.share() < 0.3:
        shown["outputData"] = None
    return shown


def _input(dice: Dice) -> Any:
    number = dice.whole(0, 10_000)
    return dice.pick(
        (
            number,
            number / 7,
            f"v{number}",
            {"interval": number, "unit": "s"},
            [number, number + 1],
            number % 2 == 0,
            {},
        )
    )
