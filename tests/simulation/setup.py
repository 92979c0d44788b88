"""What a seed draws before its world begins: the job, the policy, the weather, what else happens.

Which faults are on is drawn first and how often they strike second; otherwise all worlds would
look alike, with a little of everything.
"""

from __future__ import annotations

from random import Random
from typing import Any

from msgspec import Struct

from tests.simulation import unrest
from tests.simulation.fates import CANCEL, CURSES, SEARCH, TOKEN, WIRE, Weather
from tests.simulation.names import MODES
from tests.simulation.unrest import Unrest
from worker.run.reconcile import LookupRules
from worker.run.retry import RetryRules
from worker.run.safety import AbortRules

_KINDS = {
    "mixed": 50,
    "calm": 8,
    "storm": 9,
    "lost": 6,
    "auth": 5,
    "token_down": 4,
    "denied": 4,
    "cursed": 6,
    "throttle": 5,
    "tls": 3,
    "ledger": 6,
    "two": 4,
}
_RARE = {"foreign", "other_command", "bad_id", "redirect", "throttled_huge"}  # they end a run
AHEAD_MS = 1_200_000  # of createTime, where it is ahead of both other clocks for all to see
_OFTEN = ("disconnect", "hang", "truncate", "status_5xx", "throttled", "refused", "lost")


class Setup(Struct):
    """One world, as drawn."""

    seed: int
    kind: str
    devices: int
    variant: int  # of the plan: which ids, which spelling
    scope: str  # all_cached | listed
    by_id: bool
    concurrency: int
    rate: float | None
    retry: RetryRules
    lookup: LookupRules
    abort: AbortRules | None
    max_commands: int | None
    limit: int | None
    deadline: float | None
    until: float | None  # seconds after the start, wall clock
    verify: str
    verify_written: bool
    request_timeout: float
    drain: float
    lag: float  # of the index, at most
    late: float  # how long after a fault a request may still be executed
    skew_ms: int
    tolerance_ms: int | None  # between a signature's time and the gateway's clock
    token_life: float
    token_revoked: tuple[float, ...]
    auth_from: float | None  # no token is accepted from then on
    tls_from: float | None
    limit_per_second: int | None
    outage: tuple[float, float, str, bool] | None  # from, to, fault, searches too
    weather: Weather
    curses: dict[int, str]
    bugs: tuple[int, ...]
    jumps: tuple[tuple[float, int], ...]  # at, ms
    sleeps: tuple[tuple[float, float], ...]  # at, seconds
    signals: tuple[tuple[float, int], ...]
    others: int  # commands that somebody else caches or cancels meanwhile
    crashes: tuple[int, ...]  # after so many events of a process
    resumes: int
    new_run: bool  # after a crash a new run begins instead of a resume
    fail_at: int | None  # the ledger operation that fails
    fail_after: bool  # it was durable all the same
    slow_disk: float
    thorough: bool  # read everything back through the project's own reports, too
    unrest: Unrest | None = None  # of tokens
    names: str = ""  # how rows of replies name their device (`names.MODES`); "": as they should
    names_share: float = 0.0  # of the replies
    date_off: int = 0  # ms, the clock behind Date against the gateway's
    created_off: int = 0  # ms, the clock behind createTime against the gateway's
    wall_off: int = 0  # ms, the machine's wall clock against the truth, from the beginning
    aged: bool = False  # commands are up to two days old
    several: str | None = None  # jobs on one ledger: beside, in turns, as a series
    acts: int = 0  # of several jobs: runs and resumes that follow
    clock_set: int = 0  # ms by which the wall clock is set between the first of these
    limits: tuple[int | None, ...] = ()  # --limit of each resume
    odd: int = 0  # keys that have to be escaped, and which
    hoard: int = 0  # commands that are cached for one device: more than a page of a search
    batch: int = 1_000  # targets that a verification reads at a time
    dies_with: int = 0  # a crash comes right behind the n-th target that cancelled something


def draw(seed: int, transport: str = "fake") -> Setup:
    """The world of a seed."""
    chance = Random(seed)
    kind = chance.choices(list(_KINDS), list(_KINDS.values()))[0]
    some = _Some(chance)
    lookup = LookupRules(some.of(0.5, 2.0, 2.0, 3.0), some.of(1, 2, 2, 3))
    lag = min(2.0, lookup.wait) * some.of(0.0, 0.5, 0.95)
    devices = _size(chance, kind)
    scope = some.of("all_cached", "all_cached", "listed")
    by_id = scope == "all_cached" and some.one_in(5)
    given: dict[str, Any] = {
        "seed": seed,
        "kind": kind,
        "devices": devices,
        "variant": chance.randrange(4),
        "scope": scope,
        "by_id": by_id,
        "lookup": lookup,
        "lag": lag,
        "late": max(0.0, lookup.wait * lookup.tries - lag - 0.01) * some.of(0.0, 0.5, 1.0),
        **_limits(some, devices),
        **_policy(some),
        **_gateway(some, kind),
        **_weather(some, kind),
        **_events(some, kind, devices),
        **_accidents(some, kind),
    }
    setup = Setup(**given)
    _identities(setup)
    _clocks(setup)
    if setup.kind == "calm":
        _calm(setup)
    setup.unrest = unrest.draw(seed, setup.kind, setup.devices)
    _several(setup, _Some(Random(f"{seed} several jobs")))
    _in_parts(setup, _Some(Random(f"{seed} in parts")))
    _long(setup, _Some(Random(f"{seed} long")))
    dies = _Some(Random(f"{seed} dies with"))
    setup.dies_with = dies.chance.randrange(1, 6) if setup.crashes and dies.one_in(3) else 0
    odd = _Some(Random(f"{seed} odd keys"))
    setup.odd = odd.chance.randrange(1, 1_000) if odd.one_in(12) else 0
    if transport == "aiohttp":
        setup.bugs = ()
        if setup.tls_from is not None:  # no TLS in memory
            setup.tls_from = None
    return setup


def _size(chance: Random, kind: str) -> int:
    if kind in ("storm", "cursed") and chance.random() < 0.5:
        return chance.randrange(20, 41)
    at = chance.random()
    if at < 0.003:
        return 200
    if at < 0.12:
        return chance.randrange(10, 41)
    return chance.randrange(1, 9)


class _Some:
    def __init__(self, chance: Random) -> None:
        self.chance = chance

    def of(self, *values: Any) -> Any:
        return values[self.chance.randrange(len(values))]

    def one_in(self, count: int) -> bool:
        return self.chance.randrange(count) == 0

    def within(self, low: float, high: float) -> float:
        return self.chance.uniform(low, high)


def _limits(some: _Some, devices: int) -> dict[str, Any]:
    written = some.one_in(6)
    return {
        "concurrency": some.of(1, 2, 3, 4, 8, 16),
        "rate": some.of(None, None, None, 50.0, 5.0),
        "abort": some.of(
            None,
            AbortRules(),
            AbortRules(0.05, 50, 20),
            AbortRules(0.3, 4, 5),
            AbortRules(1.0, 1000, 3),
        ),
        "max_commands": some.of(*[None] * 9, some.chance.randrange(1, 12)),
        "limit": some.of(*[None] * 11, max(1, some.chance.randrange(0, devices + 1))),
        "deadline": some.of(*[None] * 7, some.within(0.05, 30.0)),
        "until": some.of(*[None] * 11, some.within(0.05, 30.0)),
        "verify": some.of("touched", "all") if written else some.of("none", "none", "touched"),
        "verify_written": written,
        "drain": some.of(0.0, 1.0, 8.0),
    }


def _policy(some: _Some) -> dict[str, Any]:
    return {
        "retry": RetryRules(
            attempts=some.of(1, 2, 3, 4, 5),
            wait_initial=some.of(0.05, 0.5, 2.0),
            wait_max=some.of(1.0, 20.0),
            elapsed=some.of(5.0, 120.0),
            ambiguous_window=some.of(1.0, 10.0, 60.0),
            retry_after_max=some.of(20.0, 300.0),
            budget=some.of(0.0, 0.1, 1.0),
            budget_reserve=some.of(0, 2, 10, 100),
            passes=some.of(0, 1, 2),
            cooldown=some.of(0.1, 10.0),
        ),
        "request_timeout": some.of(2.0, 5.0, 30.0),
    }


def _gateway(some: _Some, kind: str) -> dict[str, Any]:
    auth = kind == "auth"
    return {
        "skew_ms": some.of(0, 0, 0, 3_000, -3_000, 700_000 if auth else 0),
        "tolerance_ms": some.of(None, None, 300_000),
        "token_life": some.of(7200.0, 7200.0, 60.0, 8.0) if not auth else some.of(3.0, 60.0),
        "token_revoked": tuple(some.within(0, 20) for _ in range(some.of(0, 1, 3))) if auth else (),
        "auth_from": some.within(0, 5) if auth and some.one_in(2) else None,
        "tls_from": some.within(0, 3) if kind == "tls" else None,
        "limit_per_second": some.of(2, 5, 10) if kind == "throttle" else None,
        "curses": {},
        "others": some.of(0, 0, 2, 6),
    }


def _weather(some: _Some, kind: str) -> dict[str, Any]:
    weather = Weather()
    outage = None
    if kind not in ("calm", "ledger") or some.one_in(2):
        for table, names, most in (
            ("cancel", list(CANCEL), 4),
            ("search", list(SEARCH), 2),
            ("token", list(TOKEN), 1),
        ):
            setattr(weather, table, _some_faults(some, names, most, table))
    if kind == "storm":
        fault = some.of("status_5xx", "status_503", "refused", "lost", "hang", "disconnect")
        start = some.of(0.0, 0.0, 0.3, 1.0)
        outage = (start, start + some.of(3.0, 30.0, 1e9), fault, some.one_in(2))
    elif kind == "lost":
        outage = (0.0, 1e9, "lost", some.one_in(4))
        weather = Weather()
    elif kind == "denied":
        weather.search = {some.of("denied", "denied_code"): 1.0}
        weather.cancel = {"disconnect": 0.3, "truncate": 0.2}
    elif kind == "token_down":
        weather.token = {some.of("refused", "hang", "status_5xx"): some.of(0.5, 0.9, 1.0)}
    return {"weather": weather, "outage": outage}


def _some_faults(some: _Some, names: list[str], most: int, table: str) -> dict[str, float]:
    found: dict[str, float] = {}
    if table == "token" and not some.one_in(8):
        return found
    for _ in range(some.chance.randrange(most + 1)):
        often = table == "cancel" and some.one_in(2)
        name = some.of(*_OFTEN) if often else some.of(*names)
        found[name] = 0.03 if name in _RARE else some.of(0.05, 0.2, 0.4)
    return found


def _events(some: _Some, kind: str, devices: int) -> dict[str, Any]:
    jump = some.of(3_600_000, -3_600_000, 315_000_000_000, -315_000_000_000)
    number = some.of(2, 15)
    at = some.within(0.01, 12.0)
    signals: tuple[tuple[float, int], ...] = ((at, number),) if some.one_in(10) else ()
    if signals and number == 2 and some.one_in(3):
        signals += ((at + some.within(0.0, 2.0), 2),)
    curses = {}
    if kind == "cursed":
        curse = some.of(*CURSES)
        spared = some.of(0, 0, 1, 3)
        for index in range(devices):
            if not spared or some.chance.randrange(devices) >= spared:
                curses[index] = curse
    elif kind == "mixed" and some.one_in(4):
        curses = {some.chance.randrange(devices): some.of(*CURSES)}
    bugs = (some.chance.randrange(devices),) if kind == "mixed" and some.one_in(12) else ()
    return {
        "jumps": ((some.within(0, 8), jump),) if some.one_in(14) else (),
        "sleeps": ((some.within(0, 8), some.of(30.0, 90.0, 3600.0)),) if some.one_in(14) else (),
        "signals": signals,
        "curses": curses,
        "bugs": bugs,
    }


def _accidents(some: _Some, kind: str) -> dict[str, Any]:
    crashes: tuple[int, ...] = ()
    if kind not in ("two", "calm") and some.one_in(4):
        crashes = _crashes(some)
    fails = kind == "ledger"
    return {
        "crashes": crashes,
        "resumes": some.of(1, 2, 3) if crashes or fails or some.one_in(4) else 0,
        "new_run": bool(crashes) and some.one_in(4),
        "fail_at": some.chance.randrange(1, 25) if fails else None,
        "fail_after": some.one_in(3),
        "slow_disk": some.of(0.0, 0.0, 0.002, 0.3),
        "thorough": some.one_in(8),
    }


_HOUR = 3_600_000
_DATE_OFF = (1_200_000, -1_200_000, 8 * _HOUR, -8 * _HOUR, -60_000, 5_000, 25 * _HOUR)
_WALL_OFF = (*_DATE_OFF, 30 * _HOUR, -30 * _HOUR, 10 * 365 * 24 * _HOUR)


def _identities(setup: Setup) -> None:
    """Rows 94 and 95."""
    some = _Some(Random(f"{setup.seed} names"))
    if some.one_in(9):
        setup.names = some.of(*MODES)
        setup.names_share = some.of(0.2, 0.5, 1.0)
        setup.variant = some.of(setup.variant, 1, 3)  # some devices by assetId


def _clocks(setup: Setup) -> None:
    """Row 96: Date, createTime and the local clock are three clocks."""
    some = _Some(Random(f"{setup.seed} clocks"))
    if setup.kind in ("calm", "auth") or not some.one_in(8):
        return
    setup.aged = some.one_in(2)
    if some.one_in(2):  # something to look up
        setup.weather.cancel = {**setup.weather.cancel, "lost": 0.3, "status_5xx": 0.2}
    match some.chance.randrange(5):
        case 0 | 1:
            setup.date_off = some.of(*_DATE_OFF)
        case 2:
            setup.created_off = -some.chance.randrange(600_000)
        case 3:
            setup.created_off = some.of(1_000, 2_000, AHEAD_MS)
        case _:
            setup.wall_off = some.of(*_WALL_OFF)


def _several(setup: Setup, some: _Some) -> None:
    """Jobs whose devices overlap, on one ledger."""
    if not some.one_in(8) or setup.kind in ("calm", "two"):
        return
    setup.several = some.of("beside", "turns", "turns", "series", "series")
    if setup.kind == "ledger":  # a store that fails would fail for both
        setup.several = "turns"
    setup.acts = some.of(1, 2, 3, 4)
    if some.chance.random() < 0.7:
        setup.crashes = _crashes(some)
    if some.one_in(4):  # set back, it puts what came later before what was
        setup.clock_set = some.of(-3_600_000, 3_600_000, -315_000_000_000)


def _in_parts(setup: Setup, some: _Some) -> None:
    """A list that is worked off in parts: --limit, of the run and of its resumes."""
    unfit = setup.kind in ("calm", "two") or setup.several or setup.devices < 2
    if not some.one_in(10) or unfit:
        return
    setup.limit = some.of(None, some.chance.randrange(1, setup.devices))
    setup.resumes = some.of(1, 2, 3)
    sizes = (None, *range(1, setup.devices))
    setup.limits = tuple(some.of(*sizes) for _ in range(setup.resumes))
    if some.one_in(2):
        setup.crashes = _crashes(some)


def _long(setup: Setup, some: _Some) -> None:
    """What is read in several parts: lists that are verified, searches of a device."""
    if some.one_in(12):
        setup.batch = some.of(1, 2, 3)
        setup.verify, setup.verify_written = some.of("touched", "all"), some.one_in(2)
    if some.one_in(12):
        setup.hoard = some.chance.randrange(51, 260 if setup.by_id else 131)


def _crashes(some: _Some) -> tuple[int, ...]:
    return tuple(int(10 ** some.within(1.0, 2.8)) for _ in range(some.of(1, 1, 2, 3)))


def _calm(setup: Setup) -> None:
    """Nothing happens."""
    setup.weather, setup.outage, setup.curses = Weather(), None, {}
    setup.jumps = setup.sleeps = setup.signals = setup.crashes = ()
    setup.deadline = setup.until = setup.limit = setup.max_commands = None
    setup.skew_ms, setup.others, setup.resumes = 0, 0, 0
    setup.names = ""


assert WIRE.keys() <= CANCEL.keys()
