"""What goes wrong, how often, and for which request.

A decision is drawn from the seed, the device and the how-many-th request of its kind this is,
so the same seed gives every device the same faults whatever the order of arrival. The rate
limit and the early end of tokens are the exceptions: they are about all requests together.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal

from msgspec import Struct

from worker.clock import Clock
from worker.simulator.chance import Dice

FaultKind = Literal[
    "none", "reset_before", "reset_after", "error_before", "error_after", "truncated"
]


class Faults(Struct, frozen=True):
    """Shares of the requests of one kind that meet a fault; together at most 1.

    "before" means that nothing is executed, "after" that all of it is.
    """

    reset_before: float = 0.0
    reset_after: float = 0.0
    error_before: float = 0.0
    error_after: float = 0.0
    truncated: float = 0.0  # executed; the reply breaks off
    slow: float = 0.0  # drawn apart from the others: executed at once, answered late
    wait: tuple[float, float] = (0.5, 2.0)  # s, of a slow reply, before scaling
    errors: tuple[str, ...] = ("500", "502", "503", "504", "99500")  # what an error says
    retry_after: int | None = None  # s, sent with a 503


class Profile(Struct, frozen=True):
    """The weather of a gateway. Compose your own, or take one of PROFILES."""

    name: str
    cancel: Faults = Faults()
    search: Faults = Faults()  # of commands and of devices, and get
    token: Faults = Faults()
    rate: float | None = None  # connect requests a second above which 429 is answered
    retry_after: int | None = None  # s, said by some of the 429s, before scaling
    retry_after_share: float = 0.5  # of the 429s that say it
    token_life: float = 7200.0  # s, before scaling
    token_uses: int | None = None  # requests after which a token is withdrawn; None: never
    stale_as_code: bool = False  # a stale token is code 1203 with HTTP 200 instead of 401
    newcomers: float = 0.0  # share of cancels after which somebody caches a new command


class Fault(Struct, frozen=True):
    """What happens to one request."""

    kind: FaultKind = "none"
    wait: float = 0.0  # s before the reply, before scaling
    error: str = "503"
    hard: bool = False  # a reset by RST instead of FIN
    cut: float = 0.5  # share of the body that a truncated reply sends
    retry_after: int | None = None  # s, if it is a 503


NO_FAULT = Fault()
_QUIET = Faults()


def decide(faults: Faults, *occasion: str | int) -> Fault:
    """The fault of one request: always the same for the same seed and occasion."""
    if faults is _QUIET or faults == _QUIET:
        return NO_FAULT
    dice = Dice("fault", *occasion)
    slow, kind = dice.share(), _kind(faults, dice.share())
    low, high = faults.wait
    return Fault(
        kind=kind,
        wait=low + (high - low) * dice.share() if slow < faults.slow else 0.0,
        error=dice.pick(faults.errors),
        hard=dice.share() < 0.5,
        cut=0.05 + 0.9 * dice.share(),
        retry_after=faults.retry_after,
    )


def _kind(faults: Faults, drawn: float) -> FaultKind:
    shares: tuple[tuple[FaultKind, float], ...] = (
        ("reset_before", faults.reset_before),
        ("reset_after", faults.reset_after),
        ("error_before", faults.error_before),
        ("error_after", faults.error_after),
        ("truncated", faults.truncated),
    )
    for kind, share in shares:
        if drawn < share:
            return kind
        drawn -= share
    return "none"


class Bucket:
    """A real rate limit: so many requests a second, with a burst of half a second."""

    def __init__(self, clock: Clock, rate: float | None) -> None:
        self._clock = clock
        self._rate = rate
        self._filled = clock.monotonic()
        self._tokens: float | None = None

    def admit(self) -> bool:
        rate = self._rate
        if rate is None:
            return True
        now, most = self._clock.monotonic(), max(1.0, rate / 2)
        have = most if self._tokens is None else self._tokens + (now - self._filled) * rate
        self._filled, self._tokens = now, min(most, have)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


PROFILES = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile("calm"),
            Profile("throttled", rate=40.0, retry_after=2),
            Profile(
                "flaky",
                cancel=Faults(
                    reset_before=0.02,
                    reset_after=0.03,
                    error_before=0.03,
                    error_after=0.03,
                    truncated=0.02,
                    slow=0.05,
                ),
                search=Faults(reset_before=0.015, error_before=0.015, truncated=0.01, slow=0.05),
                token=Faults(error_before=0.05, errors=("500", "503")),
                token_uses=200,
                newcomers=0.01,
            ),
            Profile("lossy", cancel=Faults(reset_after=1.0)),
            Profile("slow", cancel=Faults(slow=1.0), search=Faults(slow=1.0)),
            Profile("expiring", token_life=20.0, stale_as_code=True),
            Profile(
                "down",
                cancel=Faults(error_before=1.0, errors=("503",)),
                search=Faults(error_before=1.0, errors=("503",)),
            ),
        )
    }
)
