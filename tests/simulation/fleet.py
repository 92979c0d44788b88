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
        thing = Thing(index, *ledgers.names_of(index, setup.odd), commands=[])
        thing.curse = setup.curses.get(index)
        thing.bug = index in setup.bugs
        count = chance.choice((0, 0, 1, 1, 2, 3, 4))
        if chance.random() < 0.01:
            count = 50
        if setup.hoard and index == 0:
            count = setup.hoard
        for number in range(count):
            age = _age(setup, 1000.0 - number + chance.random() * 3600, number)
            thing.commands.append(_old(setup, ledgers.command_id(index, number), age))
        if chance.random() < 0.03:  # a history that takes several pages
            for number in range(chance.randrange(1, 130)):
                old = _old(setup, ledgers.command_id(index, 500 + number), 90_000.0 + number)
                old.change(CANCELLED, -50_000.0, 0.0)
                thing.commands.append(old)
        found.append(thing)
    if setup.odd:
        found += _mistaken(setup, Random(f"{setup.seed} mistaken"))
    return found


def _mistaken(setup: Setup, chance: Random) -> list[Thing]:
    """The devices that a key is for when it is escaped wrongly: in no job, with commands."""
    found = []
    for index in range(setup.devices):
        names = ledgers.names_of(index, setup.odd, misread=True)
        thing = Thing(1_000 + index, *names, commands=[])
        for number in range(2):
            commandId = ledgers.command_id(1_000 + index, number)
            thing.commands.append(_old(setup, commandId, 100.0 + chance.random()))
        found.append(thing)
    return found


def _age(setup: Setup, age: float, number: int) -> float:
    """Seconds since it was cached, at most 48 h.

    Where createTime is ahead of both other clocks a reply shows that, or the command is so old
    that it cannot be taken for a new one: the assumption that docs/simulation.md names.
    """
    if setup.aged and number % 2:
        age += 160_000.0
    ahead = setup.created_off / 1000
    if ahead > 2.0 and ahead - 700.0 < age < ahead + 100.0:
        age += 800.0
    return age


def _old(setup: Setup, commandId: str, age: float) -> Cached:
    created_ms = WALL_MS + setup.skew_ms + setup.created_off - int(age * 1000)
    return Cached(commandId, -age, created_ms, -age)


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
