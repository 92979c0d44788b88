"""The devices of a world, what is cached for them, and what other people do to them meanwhile."""

from __future__ import annotations

from random import Random

from tests.simulation import ledgers
from tests.simulation.clock import WALL_MS
from tests.simulation.gateway import Gateway
from tests.simulation.setup import Setup
from tests.simulation.truth import CANCELLED, RELEASED, Cached, Thing


def things(setup: Setup, chance: Random) -> list[Thing]:
    """The devices and what is cached for them."""
    found = []
    for index in range(setup.devices):
        thing = Thing(index, f"p{index % 2}", f"d{index}", f"a{index}", commands=[])
        thing.curse = setup.curses.get(index)
        thing.bug = index in setup.bugs
        count = chance.choice((0, 0, 1, 1, 2, 3, 4))
        if chance.random() < 0.01:
            count = 50
        for number in range(count):
            age = 1000.0 - number + chance.random() * 3600
            thing.commands.append(_old(setup, ledgers.command_id(index, number), age))
        if chance.random() < 0.03:  # a history that takes several pages
            for number in range(chance.randrange(1, 130)):
                old = _old(setup, ledgers.command_id(index, 500 + number), 90_000.0 + number)
                old.change(CANCELLED, -50_000.0, 0.0)
                thing.commands.append(old)
        found.append(thing)
    return found


def _old(setup: Setup, commandId: str, age: float) -> Cached:
    return Cached(commandId, -age, WALL_MS + setup.skew_ms - int(age * 1000), -age)


def start_others(gateway: Gateway, setup: Setup, chance: Random) -> None:
    """What other people will do meanwhile."""
    for number in range(setup.others):
        thing = gateway.things[chance.randrange(len(gateway.things))]
        at, what = chance.uniform(0.0, 8.0), chance.randrange(3)
        if what == 0:
            commandId = str(7_000_000_000_000_000_000 + number)
            gateway.later(at, lambda now, t=thing, c=commandId: gateway.cache(t, c, now))  # type: ignore[misc]
        else:
            state = CANCELLED if what == 1 else RELEASED
            gateway.later(at, lambda now, t=thing, s=state: gateway.take_away(t, now, s))  # type: ignore[misc]
