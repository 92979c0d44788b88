"""What becomes of tokens besides growing old (row 101), drawn from a stream of its own.

They die several times, also close together; a success comes late, when newer tokens are known; one
device, some devices or all searches are turned down whatever the token; the token service gives
the text of a dead token again.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from tests.simulation.truth import Exchange

_SHARE = 0.1  # of worlds


class Unrest(Struct, frozen=True):
    """One world's trouble with tokens; moments are seconds of true time."""

    deaths: tuple[float, ...] = ()  # every token is void
    same_text: bool = False  # a new token has the text of the one before
    late: float = 0.0  # share of cancels that are answered later than others
    barred: frozenset[int] = frozenset()  # devices whose cancels are turned down
    searches: bool = False  # every search is turned down
    since: float = 0.0  # from then on
    as_code: bool = False  # by code 1203, not by HTTP 401

    def bars(self, exchange: Exchange, now: float) -> bool:
        """Whether this request is turned down, whatever its token."""
        if now < self.since:
            return False
        if exchange.kind == "search":
            return self.searches
        return exchange.thing is not None and exchange.thing.index in self.barred


def draw(seed: int, kind: str, devices: int) -> Unrest | None:
    """The unrest of a world; most have none."""
    chance = Random(f"{seed} tokens")
    if chance.random() >= _SHARE or kind == "calm":
        return None
    what = chance.choice(("deaths", "deaths", "late", "late", "device", "devices", "searches"))
    barred: frozenset[int] = frozenset()
    if what in ("device", "devices") or (what == "late" and chance.random() < 0.5):
        most = 1 if what == "device" else max(1, devices // 2)
        barred = frozenset(chance.randrange(devices) for _ in range(chance.randint(1, most)))
    dies = what in ("deaths", "late") or chance.random() < 0.3
    return Unrest(
        deaths=_deaths(chance) if dies else (),
        same_text=chance.random() < 0.3,
        late=chance.choice((0.2, 0.5)) if what == "late" else 0.0,
        barred=barred,
        searches=what == "searches",
        since=0.0 if chance.random() < 0.6 else chance.uniform(0.0, 3.0),
        as_code=chance.random() < 0.4,
    )


def _deaths(chance: Random) -> tuple[float, ...]:
    """Several moments, some of them close together."""
    found = []
    at = chance.uniform(0.0, chance.choice((0.2, 1.0, 5.0)))
    for _ in range(chance.randint(2, 8)):
        found.append(at)
        at += chance.uniform(0.0, chance.choice((0.05, 0.3, 2.0)))
    return tuple(found)
