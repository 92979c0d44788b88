"""Which names the rows of a reply carry, beside or instead of the one that was asked for.

A row can name its device in three ways that a client must not fall for: with the other spelling
of somebody else's device, with another one in each reply, or with the other spelling alone.
Strangers are devices that no job names; they have commands of their own, so that a request which
spells a device as a reply did finds something to take.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from tests.simulation.clock import WALL_MS
from tests.simulation.truth import Cached, Exchange, Thing

if TYPE_CHECKING:
    from tests.simulation.setup import Setup

ASKED = "asked"  # the identity that was asked for, and no other
STRANGE = "strange"  # beside it the other spelling of a stranger, the same in every reply
DIFFER = "differ"  # beside it the device's own other spelling, or now and then a stranger's
LOST = "lost"  # now and then the device's other spelling alone
LOST_STRANGE = "lost_strange"  # now and then rows of a stranger, by the other spelling alone
MODES = (ASKED, STRANGE, DIFFER, LOST, LOST_STRANGE)
_WITHOUT = (LOST, LOST_STRANGE)

Names3 = tuple[str, str, str]  # productKey, deviceKey, assetId; "": not named


def strangers(setup: Setup) -> list[Thing]:
    """One for each device of the world; none where names are as they should be."""
    if not setup.names:
        return []
    found = []
    for index in range(setup.devices):
        thing = Thing(900 + index, "p9", f"s{index}", f"as{index}", commands=[])
        made = 6_000_000_000_000_000_000 + index
        thing.commands.append(Cached(str(made), -500.0, WALL_MS + setup.skew_ms - 500_000, -500.0))
        found.append(thing)
    return found


class Names:
    """Decides it for each reply; one for a world."""

    def __init__(self, setup: Setup, things: list[Thing], chance: Random) -> None:
        self._setup = setup
        self._strangers = things
        self._chance = chance

    def choose(self, exchange: Exchange) -> None:
        """Note in the exchange which names its rows will carry."""
        thing, mode = exchange.thing, self._setup.names
        if thing is None or not mode or thing.index >= len(self._strangers):
            return
        strikes = self._chance.random() < self._setup.names_share
        if mode in _WITHOUT and not strikes:
            return
        stranger = self._strangers[thing.index]
        by_asset = len(exchange.key) == 1
        asked = _other(thing, not by_asset)
        own, strange = _other(thing, by_asset), _other(stranger, by_asset)
        match mode:
            case "asked":
                exchange.names = asked
            case "lost":
                exchange.names = own
            case "lost_strange":
                exchange.names, exchange.about = strange, stranger
            case _:
                other = strange if mode == STRANGE or strikes else own
                exchange.names = _both(asked, other)
                exchange.named = tuple(filter(None, other))

    def without(self, exchange: Exchange) -> bool:
        """Whether its rows, if it has any, lack the identity that was asked for."""
        return self._setup.names in _WITHOUT and any(exchange.names)


def written(names: Names3) -> str:
    """Names as members of a JSON object."""
    members = ("productKey", "deviceKey", "assetId")
    return "".join(f'"{member}":"{name}",' for member, name in zip(members, names) if name)  # noqa: B905


def _other(thing: Thing, by_asset: bool) -> Names3:
    """The spelling of a device beside the one by its assetId, or by its keys."""
    return (thing.productKey, thing.deviceKey, "") if by_asset else ("", "", thing.assetId)


def _both(one: Names3, two: Names3) -> Names3:
    return one[0] or two[0], one[1] or two[1], one[2] or two[2]
