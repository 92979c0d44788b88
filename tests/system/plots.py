"""What a story of kills is about, drawn from its seed: the job, the weather, the moments."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from tests.system.stage import Stage, devices
from worker.model import Device
from worker.simulator.faults import PROFILES, Faults, Profile

_ROUGH = Profile(
    "rough",
    cancel=Faults(
        reset_before=0.05,
        reset_after=0.12,
        error_before=0.05,
        error_after=0.08,
        truncated=0.1,
        slow=0.5,
        wait=(0.2, 1.0),
    ),
    search=Faults(reset_before=0.02, error_before=0.02, slow=0.3, wait=(0.2, 0.6)),
    newcomers=0.02,
)
_STEADY = Profile("steady", cancel=Faults(slow=1.0, wait=(0.2, 0.8)))
_WEATHER = {**PROFILES, "rough": _ROUGH, "steady": _STEADY}
_SHARES = {
    "steady": 5,
    "rough": 5,
    "lossy": 4,
    "flaky": 4,
    "calm": 2,
    "slow": 2,
    "expiring": 1,
    "throttled": 1,
}
After = Literal["", "token", "cancel", "search"]


class Kill(Struct, frozen=True):
    """SIGKILL `delay` s after the start has sent `count` requests of a kind (""; at once)."""

    after: After
    count: int
    delay: float


class Plot(Struct, frozen=True):
    """One story, before it is told."""

    seed: int
    weather: str
    targets: int
    concurrency: int
    listed: bool
    by_id: bool
    verify: str
    busy: float
    fresh: bool  # every start is a new interpreter, and no fork of one
    kills: tuple[Kill, ...]

    @property
    def profile(self) -> Profile:
        return _WEATHER[self.weather]

    def environment(self) -> dict[str, str]:
        """The configuration, where it differs from the stage's."""
        own = {"CANCEL_WORKER_RETRY_COOLDOWN": "50ms", "CANCEL_WORKER_LOOKUP_WAIT": "150ms"}
        if self.by_id:
            own["CANCEL_WORKER_GATEWAY_CANCEL_ALL"] = "by_id"
        return own

    def write_job(self, gateway: Stage) -> Path:
        keys = {"abort": "off", "verify": self.verify}
        names = devices(self.targets)
        if not self.listed:
            return gateway.job("killed", names, **keys)
        commands = [(name, _ids(number, self.seed)) for number, name in enumerate(names)]
        return gateway.listed_job("killed", commands, **keys)

    def devices(self) -> list[Device]:
        return devices(self.targets)


def draw(seed: int) -> Plot:
    """The story of a seed."""
    chance = random.Random(f"kills {seed}")
    weather = chance.choices(list(_SHARES), list(_SHARES.values()))[0]
    listed = chance.random() < 0.25
    targets = chance.choice((10, 40, 80, 80, 150, 150, 300))
    if weather == "throttled":
        targets = min(targets, 40)
    return Plot(
        seed=seed,
        weather=weather,
        targets=targets,
        concurrency=chance.choice((4, 8, 8, 16, 32)),
        listed=listed,
        by_id=not listed and targets < 100 and chance.random() < 0.2,
        verify=chance.choice(("none", "none", "touched")),
        busy=chance.choice((0.3, 0.6, 0.9)),
        fresh=chance.random() < 0.1,
        kills=tuple(_kill(chance, targets) for _ in range(chance.choice((1, 1, 2, 2, 3)))),
    )


def _kill(chance: random.Random, targets: int) -> Kill:
    drawn: dict[After, Any] = {
        "": lambda: (0, chance.choice((0.05, 0.15, 0.6)) * chance.random()),
        "token": lambda: (1, 0.05 * chance.random()),
        "cancel": lambda: (chance.randint(1, targets), 0.01 * chance.random()),
        "search": lambda: (chance.randint(1, 20), 0.02 * chance.random()),
    }
    after = chance.choices(list(drawn), (3, 1, 6, 2))[0]
    count, delay = drawn[after]()
    return Kill(after, count, round(delay, 4))


def _ids(number: int, seed: int) -> tuple[str, ...]:
    return tuple(f"22{seed % 10**6:06}{number:06}{at:02}" for at in range(1 + number % 3))
