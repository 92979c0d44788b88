"""When which fault strikes, by the seed and not by how a machine happens to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from tests.system.stories.faults import FAULTS, Fault
from tests.system.stories.plot import Shower


class Weather:
    """The faults of one story."""

    def __init__(self, seed: int, showers: Sequence[Shower]) -> None:
        self.clear = False  # set: nothing strikes any more
        self.struck: Counter[str] = Counter()
        self._seed = seed
        self._showers = showers
        self._calls: Counter[str] = Counter()

    def strikes(self, kind: str, about: str = "", nth: int = 0) -> Fault | None:
        """The fault of this call of a kind, about a device, the n-th of that."""
        number = self._calls[kind]
        self._calls[kind] += 1
        if self.clear:
            return None
        for at, shower in enumerate(self._showers):
            if kind in shower.kinds and self._now(at, shower, kind, about, nth or number, number):
                self.struck[shower.fault] += 1
                return FAULTS[shower.fault]
        return None

    def chance(self, kind: str, about: str, nth: int) -> Random:
        """For what a fault draws itself."""
        return Random(f"{self._seed} {kind} {about} {nth}")

    def _now(self, at: int, shower: Shower, kind: str, about: str, nth: int, number: int) -> bool:
        name = f"{self._seed} {at}"
        match shower.scope:
            case "all":
                return True
            case "burst":
                return shower.first <= number < shower.first + shower.count
            case "device":
                return Random(f"{name} {about}").random() < shower.share
        return Random(f"{name} {kind} {about} {nth}").random() < shower.share
