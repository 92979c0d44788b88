"""What a story is about, drawn from its seed: devices, jobs, the way, the weather, the ends.

Each topic has a stream of chance of its own, so that a draw that is added later leaves the others
as they are. The kind of fault that a story is mainly about goes round with the seed: as many
stories as there are kinds draw each kind once.
"""

from __future__ import annotations

from random import Random
from typing import Any, Literal

from msgspec import Struct

from tests.system.stories.faults import FAULTS
from tests.system.stories.fleet import CANCELLED, CREATED, EXPIRED, SUCCEEDED, Command, Device
from tests.system.stories.gateway import INPUT, Laws

Way = Literal["plain", "tls", "tunnel", "forward"]
Scope = Literal["each", "device", "burst", "all"]
Shape = Literal[
    "single",
    "crowd",
    "planned",
    "series",
    "together",
    "twice",
    "older",
    "remaining",
    "limit",
    "retry",
    "verify",
    "moved",
    "restored",
]
Name = Literal["asset", "pair"]

#: Ways in which a whole gateway can be odd, by name.
_TURNS: dict[str, dict[str, Any]] = {
    "rows_asked": {"names": "asked"},
    "rows_without_identity": {"names": "none"},
    "rows_other_spelling": {"names": "other"},
    "rows_foreign_in_searches": {"foreign_rows": True},
    "pair_wrong": {"names": "wrong"},
    "pair_changing": {"names": "changing"},
    "date_20min_ahead": {"date_shift": 1200.0},
    "date_8h_ahead": {"date_shift": 28_800.0},
    "date_60s_behind": {"date_shift": -60.0},
    "date_missing": {"date_shift": None},
    "create_20min_ahead": {"create_shift": 1200.0},
    "create_8h_ahead": {"create_shift": 28_800.0},
    "create_60s_behind": {"create_shift": -60.0},
    "create_9min_behind": {"create_shift": -540.0},
    "clocks_both_apart": {"date_shift": -300.0, "create_shift": 1500.0},
    "gateway_8h_ahead": {"date_shift": 28_800.0, "create_shift": 28_800.0},
    "gateway_8h_behind": {"date_shift": -28_800.0, "create_shift": -28_800.0},
    "timestamps_refused": {"date_shift": 3600.0, "strict_time": True},
    "tokens_short": {"token_life": 1.2},
    "tokens_new_each_time": {"same_token": False, "life_as_text": True},
    "newcomers": {"newcomers": 0.3},
    "others_cancel": {"others": 0.15},
    "small_pages": {"page_most": 50},
}
TURNS = frozenset(_TURNS)
_LIES = frozenset({"pair_wrong", "pair_changing", "rows_foreign_in_searches"})

#: Only under a flag: what a later version must do right (row 100).
LATER = frozenset({"late_second_reply", "answers_first"})

_ODD = ("a+b", "a%2Fb", "a/b", "a b c", "a&commandId=1", "设备", "a=b#c", "x?y", "é+ü", "%41%")


class Shower(Struct, frozen=True):
    """One fault of a story and when it strikes."""

    fault: str
    kinds: tuple[str, ...]
    scope: Scope
    share: float  # of the calls, or of the devices
    first: int = 0  # a burst: from this call of a kind …
    count: int = 0  # … so many


class Signal(Struct, frozen=True):
    """What happens to a process: so much later than the n-th request, or at an event."""

    kind: Literal["KILL", "TERM", "INT", "INT2"]
    after: Literal["", "token", "cancel", "search", "settled", "finished"]
    count: int
    delay: float  # s


class Row(Struct, frozen=True):
    """A device of a job."""

    device: int
    name: Name
    ids: tuple[str, ...] = ()


class Job(Struct, frozen=True):
    """A job file."""

    name: str
    listed: bool
    form: Literal["yaml", "grouped", "csv", "ndjson", "two"]
    rows: tuple[Row, ...]
    verify: str  # "": not written
    abort: bool
    limits: str = ""  # as YAML


class Plot(Struct, frozen=True):
    """One story, before it is told."""

    seed: int
    main: str
    shape: Shape
    way: Way
    jobs: tuple[Job, ...]
    devices: int
    odd_keys: bool
    many_cached: bool
    laws: Laws
    lag: float
    showers: tuple[Shower, ...]
    signals: tuple[Signal | None, ...]  # of the starts, in order; none for the others
    clears: bool  # the weather is fine for the last resumes
    by_id: bool
    concurrency: int
    limit: int
    attempts: int
    formats: tuple[str, ...]
    fresh: bool  # every start is a new interpreter, and no fork of one
    debug: bool
    rate: str = "none"
    text: bool = False  # results are printed for people
    asks: bool = False  # the other commands are asked at the end
    linked: bool = False  # the second of two processes knows the ledger by another name
    loss: Literal["removed", "renamed", "replaced"] = "removed"  # of the ledger's file

    @property
    def stops(self) -> set[str]:
        """The stop rules that the weather explains."""
        found = {"signal"} if any(self.signals) else set()
        for shower in self.showers:
            found |= FAULTS[shower.fault].stops
            if set(shower.kinds) & {"token", "accept", "tls", "tunnel", "forward"}:
                found.add("no_token")
            if shower.fault in ("speaks_first", "answers_first") and self.way in ("tls", "tunnel"):
                found.add("tls")
        if self.laws.strict_time:
            found.add("auth")
        if self.lies:
            found.add("anomaly")
        found |= {rule for job in self.jobs for rule in _BOUNDS if rule in job.limits}
        if any(job.abort for job in self.jobs) and self.showers:
            found |= {"abort_failed", "abort_consecutive"}
        return found

    @property
    def lies(self) -> bool:
        """Whether replies break the contract, so that an anomaly is the right answer."""
        law = self.laws.names in ("wrong", "changing") or self.laws.foreign_rows
        return law or any(FAULTS[s.fault].lies for s in self.showers)

    def environment(self) -> dict[str, str]:
        """The configuration, but for what depends on ports and folders."""
        return {
            "CANCEL_WORKER_LOOKUP_WAIT": "150ms",
            "CANCEL_WORKER_RETRY_ATTEMPTS": str(self.attempts),
            "CANCEL_WORKER_RETRY_WAIT_INITIAL": "20ms",
            "CANCEL_WORKER_RETRY_WAIT_MAX": "100ms",
            "CANCEL_WORKER_RETRY_COOLDOWN": "50ms",
            "CANCEL_WORKER_RETRY_RETRY_AFTER_MAX": "10s",
            "CANCEL_WORKER_RETRY_ELAPSED": "5s",
            "CANCEL_WORKER_GATEWAY_TIMEOUT_CONNECT": "400ms",
            "CANCEL_WORKER_GATEWAY_TIMEOUT_REQUEST": "600ms",
            "CANCEL_WORKER_DRAIN": "700ms",
            "CANCEL_WORKER_LIMITS_RATE": self.rate,
            "CANCEL_WORKER_LIMITS_CONCURRENCY": str(self.concurrency),
            "CANCEL_WORKER_GATEWAY_CANCEL_ALL": "by_id" if self.by_id else "direct",
            "CANCEL_WORKER_LOG_LEVEL": "debug" if self.debug else "info",
        }


REQUEST_TIMEOUT = 0.6  # s, as above
LOOKUP_WAIT = 0.15  # s


def kinds(*, later: bool = False) -> list[str]:
    """Every kind of fault that stories draw, in the order they go round."""
    hidden = frozenset() if later else LATER
    return sorted((FAULTS.keys() | TURNS) - hidden)


def draw(seed: int, *, later: bool = False) -> Plot:
    """The story of a seed; `later` lets in what a later version must do right."""
    every = kinds(later=later)
    main = every[seed % len(every)]
    chance = Random(f"{seed} story")
    shape = chance.choices(*_SHAPES)[0]
    way = _way(seed, main)
    devices = chance.choice((2, 4, 8, 8, 15, 25, 40))
    if main in ("many_structs", "drips", "silent_at_accept"):
        devices = min(devices, 8)
    laws = _laws(seed, main)
    by_id = chance.random() < 0.12
    more = Random(f"{seed} more")
    if shape == "crowd":
        devices = more.choice((80, 120, 200)) if main not in _SLOW else 60
    if by_id:
        devices = min(devices, 15)  # a call for each command
    plot = Plot(
        seed=seed,
        main=main,
        shape=shape,
        way=way,
        jobs=(),
        devices=devices,
        odd_keys=chance.random() < 0.3,
        many_cached=(chance.random() < 0.15 and not by_id) or main == "small_pages",
        laws=laws,
        lag=chance.choice((0.0, 0.05, 0.1)),
        showers=_showers(seed, main, way, every),
        signals=_signals(seed, main, shape, devices),
        clears=chance.random() < 0.75,
        by_id=by_id,
        concurrency=chance.choice((1, 2, 4, 8, 16)),
        limit=chance.randint(1, max(1, devices - 1)),
        attempts=chance.choice((2, 3, 4)),
        formats=tuple(f for f in _FORMATS if chance.random() < 0.5),
        fresh=chance.random() < 0.06,
        debug=chance.random() < 0.3,
        rate=more.choice(("none", "none", "100/s", "400/s")),
        text=more.random() < 0.15,
        asks=more.random() < 0.2,
        linked=more.random() < 0.3,
        loss=more.choice(("removed", "renamed", "replaced")),
    )
    return _with_jobs(plot)


_SHARES: dict[Shape, int] = {
    "single": 6,
    "crowd": 3,
    "planned": 2,
    "series": 3,
    "together": 4,
    "twice": 2,
    "older": 4,
    "remaining": 3,
    "limit": 3,
    "retry": 2,
    "verify": 1,
    "moved": 1,
    "restored": 2,
}
_SHAPES: tuple[list[Shape], list[int]] = (list(_SHARES), list(_SHARES.values()))
_BOUNDS = ("deadline", "max_commands")  # limits that are stop rules too
_FORMATS = ("csv", "ndjson", "json", "restore", "remaining")


# ---------------------------------------------------------------- the weather


def _way(seed: int, main: str) -> Way:
    chance = Random(f"{seed} way")
    ways: list[Way] = ["plain", "tls", "tunnel", "forward"]
    drawn: Way = chance.choices(ways, (6, 3, 2, 2))[0]
    needed = FAULTS[main].kinds if main in FAULTS else frozenset()
    if needed == {"tls"}:
        return chance.choice(("tls", "tunnel"))
    if needed & {"tunnel", "forward"}:
        fits = [way for way in ways if way in needed]
        return drawn if drawn in fits else chance.choice(fits)
    return drawn


def _laws(seed: int, main: str) -> Laws:
    chance = Random(f"{seed} laws")
    drawn: dict[str, Any] = {}
    for name, law in _TURNS.items():
        weight = 0.05 if name in ("newcomers", "others_cancel", "rows_asked") else 0.01
        if name == main or chance.random() < weight:
            drawn |= {key: value for key, value in law.items() if key not in drawn}
    return Laws(**(drawn | _TURNS.get(main, {})))


def _showers(seed: int, main: str, way: Way, every: list[str]) -> tuple[Shower, ...]:
    chance = Random(f"{seed} weather")
    names = [main] if main in FAULTS else []
    usual = [name for name in every if name in FAULTS and FAULTS[name].usual]
    names += chance.sample(usual, chance.choice((0, 0, 1, 1, 2, 4)))
    showers = [_shower(chance, name, way) for name in names if _fits(name, way)]
    if main == "reply_lost" or (main not in FAULTS and chance.random() < 0.1):
        showers = [Shower("reply_lost", ("cancel",), "all", 1.0)]
    return tuple(showers)


def _fits(name: str, way: Way) -> bool:
    drawn = FAULTS[name].kinds
    if drawn == {"tls"}:
        return way in ("tls", "tunnel")
    return way in drawn if drawn & {"tunnel", "forward"} else True


def _shower(chance: Random, name: str, way: Way) -> Shower:
    drawn = sorted(FAULTS[name].kinds)
    if drawn[0] in ("forward", "tunnel"):
        drawn = [way]
    elif len(drawn) > 1 and chance.random() < 0.7:
        drawn = [chance.choice([kind for kind in drawn if kind != "token"])]
    scope: Scope = chance.choices(("each", "device", "burst", "all"), (6, 2, 2, 1))[0]
    struck = set(drawn)
    if struck <= {"accept", "tls", "tunnel", "forward", "token"}:
        scope = chance.choice(("each", "burst"))
    share = chance.choice((0.05, 0.15, 0.3, 0.6))
    if scope == "all" and name in _SLOW:
        scope = "each"
    if name in _SLOW:
        share = min(share, 0.15)
    first, count = chance.randint(0, 8), chance.randint(1, 12)
    if struck == {"token"}:
        first %= 2  # a story asks for few of them
    return Shower(name, tuple(drawn), scope, share, first, count)


#: What takes its time each time it strikes.
_SLOW = frozenset(
    {"drips", "hangs_before", "hangs_after", "half_closed", "cut_body_hangs", "silent_at_accept"}
    | {"length_too_long_hangs", "proxy_hangs", "unavailable_wait", "throttled_wait"}
)


# ---------------------------------------------------------------- what happens to processes


def _signals(seed: int, main: str, shape: Shape, devices: int) -> tuple[Signal | None, ...]:
    chance = Random(f"{seed} signals")
    if shape == "moved":
        return ()
    if main in ("throttled_wait", "unavailable_wait") and chance.random() < 0.5:
        return (Signal("KILL", "cancel", chance.randint(1, devices), 0.1),)  # in the wait
    if shape != "crowd" and chance.random() < 0.35:
        return ()
    return tuple(
        _signal(chance, devices) if chance.random() < 0.7 else None
        for _ in range(chance.choice((1, 1, 2, 3)))
    )


def _signal(chance: Random, devices: int) -> Signal:
    kind: Any = chance.choices(("KILL", "TERM", "INT", "INT2"), (6, 2, 1, 1))[0]
    after: Any = chance.choices(
        ("", "token", "cancel", "search", "settled", "finished"), (2, 1, 7, 3, 1, 1)
    )[0]
    most = {"cancel": devices, "search": 8}.get(after, 1)
    delay = 0.4 * chance.random() if after == "" else chance.choice((0.0, 0.005, 0.05))
    return Signal(kind, after, chance.randint(1, most), round(delay * chance.random(), 4))


# ---------------------------------------------------------------- devices and jobs


def devices(plot: Plot, now: float) -> list[Device]:
    """The devices of a story and what is cached for them at the moment `now`."""
    chance = Random(f"{plot.seed} devices")
    ahead = max(0.0, plot.laws.create_shift, plot.laws.create_shift - (plot.laws.date_shift or 0))
    made = []
    for number in range(plot.devices + 3):
        odd = chance.choice(_ODD) if plot.odd_keys and chance.random() < 0.5 else ""
        product = chance.choice(("bXuuAiku", "kQ3vTz0p"))
        if odd and chance.random() < 0.2:
            product += odd
        count = chance.choice((0, 0, 1, 1, 2, 3, 5, 12))
        if plot.many_cached and chance.random() < 0.3:
            count = chance.choice((50, 50, 49))
        past = chance.choice((0, 0, 0, 1, 3))
        if plot.many_cached and chance.random() < 0.3:
            past = chance.choice((60, 100, 130))
        made.append(
            Device(
                number,
                product,
                f"dev_{plot.seed}_{number}{odd}",
                f"as{plot.seed}x{number}{odd if chance.random() < 0.5 else ''}",
                exists=chance.random() < 0.96,
                commands=[
                    _command(chance, _id(plot.seed, number, at), now, at < count, ahead)
                    for at in range(count + past)
                ],
            )
        )
    return made


def _command(chance: Random, commandId: str, now: float, cached: bool, ahead: float) -> Command:
    age = chance.choice((90.0, 600.0, 3600.0, 86_400.0, 172_000.0)) * (0.3 + 0.69 * chance.random())
    if abs(age - ahead) < 60.0:  # its createTime would be about now, which nobody can tell
        age += 180.0
    states = [(now - age, CREATED)]
    if not cached:
        over = chance.choice((CANCELLED, CANCELLED, EXPIRED, SUCCEEDED))
        states.append((now - age * 0.5, over))
    return Command(commandId, now - age, 172_800, {"note": INPUT}, states)


def _id(seed: int, device: int, at: int) -> str:
    return str(2_000_000_000_000_000_000 + seed % 10**8 * 10**8 + device * 1000 + at)


def _with_jobs(plot: Plot) -> Plot:
    chance = Random(f"{plot.seed} jobs")
    count = {"series": chance.choice((2, 3)), "together": 2, "older": 2}.get(plot.shape, 1)
    made = devices(plot, 0.0)[: plot.devices]
    jobs = tuple(_job(chance, plot, f"story-{'abc'[at]}", made) for at in range(count))
    return Plot(**{**{f: getattr(plot, f) for f in plot.__struct_fields__}, "jobs": jobs})


def _limits(seed: int, name: str) -> str:
    chance = Random(f"{seed} {name} limits")
    drawn = chance.random()
    if drawn < 0.04:
        return f"{{deadline: {chance.choice((200, 500))}ms}}"
    if drawn < 0.07:
        return f"{{max_commands: {chance.randint(1, 20)}}}"
    return ""


def _job(chance: Random, plot: Plot, name: str, made: list[Device]) -> Job:
    listed = chance.random() < 0.3
    form: Any = chance.choices(("yaml", "grouped", "csv", "ndjson", "two"), (4, 2, 3, 3, 2))[0]
    if form == "grouped" and listed:
        form = "yaml"
    some = [d for d in made if chance.random() < (0.8 if len(plot.jobs) else 0.85)] or made[:1]
    chance.shuffle(some)
    rows = []
    for device in some:
        names: list[Name] = [chance.choice(("pair", "pair", "asset"))]
        if form == "grouped":
            names = ["pair"]
        elif chance.random() < 0.05:
            names = ["asset", "pair"]  # two targets
        ids: tuple[str, ...] = ()
        if listed:
            known = [c.commandId for c in device.commands]
            ids = tuple(chance.sample(known, min(len(known), chance.randint(1, 4))))
            if not ids or chance.random() < 0.1:
                ids += (str(3 * 10**18 + plot.seed % 10**8 * 10**4 + device.number),)
        rows += [Row(device.number, each, ids) for each in names]
    return Job(
        name=name,
        listed=listed,
        form=form,
        rows=tuple(rows),
        verify=chance.choice(("", "", "none", "touched", "all")),
        abort=chance.random() < 0.2,
        limits=_limits(plot.seed, name),
    )
