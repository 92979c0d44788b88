"""Which rows of the fault matrix a world showed, and whether each had the outcome it must have.

A row is counted when its fault happened and, for those that say more than the invariants do, when
what it requires held. A simulator that injects nothing passes everything: the campaign therefore
fails when a row is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation import invariants, required

if TYPE_CHECKING:
    from tests.simulation.process import Start
    from tests.simulation.world import World

#: Every row of docs/faults.md that names the simulated world.
ROWS = (
    *(1, 2, 3, 5, 7, 8, 9, 10, 13, 14, 15, 16, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30),
    *(38, 40, 41, 45, 52, 53, 55, 56, 66, 71, 72, 73, 74, 75, 76, 77, 78, 79, 81, 83, 86),
    *(94, 95, 96, 99, 101, 105, 107, 109),
)
#: Only the real client meets these: bytes in pieces.
REAL_CLIENT_ONLY = frozenset({9})
#: Only the fast network can show these: no TLS in memory, no bug can be put into a socket.
FAKE_ONLY = frozenset({38, 55})


def needed(transport: str) -> set[int]:
    """The rows that a campaign over this network must show."""
    return set(ROWS) - (REAL_CLIENT_ONLY if transport == "fake" else FAKE_ONLY)


def count(world: World) -> Counter[int]:
    """The rows of this world; what a row requires and did not get is noted as wrong."""
    rows = Counter({row: times for row, times in world.witness.rows.items() if row in ROWS})
    for row, happened in _SITUATIONS.items():
        if times := happened(world):
            rows[row] += times
    required.outcomes(world)
    for row, check in _REQUIRED.items():
        if rows[row]:
            check(world)
    return rows


# ---------------------------------------------------------------- rows that are situations


def _slices(world: World) -> int:
    return sum(e.proof == "OK" for e in world.gateway.exchanges) * (world.transport == "aiohttp")


def _storm(world: World) -> int:
    outage = world.setup.outage
    return int(
        outage is not None and outage[2].startswith("status") and world.setup.kind == "storm"
    )


def _skewed(world: World) -> int:
    return sum(e.fault == "clock_skew" for e in world.gateway.exchanges)


def _all_lost(world: World) -> int:
    return int(world.setup.kind == "lost" and any(e.executed for e in world.gateway.exchanges))


def _crashes(world: World) -> int:
    return sum(start.crashed for start in world.starts)


def _clock_set(world: World) -> int:
    return sum(said[1] == "clock set" for said in world.trace)


def _slept(world: World) -> int:
    return sum(said[1] == "asleep" and said[2] > 60 for said in world.trace)


def _answered_and_lost(world: World) -> int:
    """A crash between a reply and its record."""
    lost = 0
    told: set[int] = set()
    for said in world.trace:
        if said[1] == "reply" and said[-1]:
            told.add(said[2])
        elif said[1] == "durable":
            told.clear()  # in order, so that what was told before is durable too
        elif said[1] == "CRASH":
            lost += bool(told)
            told.clear()
    return lost


def _two_spellings(world: World) -> int:
    return int(any(world.twins(start.listing) for start in world.starts))


def _cached_meanwhile(world: World) -> int:
    return sum(said[1] == "cached" for said in world.trace)


def _two_workers(world: World) -> int:
    return int(world.setup.kind == "two")


def _leaks_possible(world: World) -> int:
    """Faults whose exceptions carry headers; the canaries are looked for in every world."""
    return sum(bool(e.row) and e.kind != "token" for e in world.gateway.exchanges)


def _named(world: World) -> int:
    """Rows that name the device in the spelling that was not asked for."""
    return sum(bool(e.named and e.rows) and e.proof == "OK" for e in world.gateway.exchanges)


def _clocks_apart(world: World) -> int:
    """Look-ups while clocks differ."""
    setup = world.setup
    apart = setup.date_off or setup.created_off or setup.wall_off
    return sum(world.witness.look_ups.values()) if apart else 0


def _found_twice(world: World) -> int:
    """Commands on record in two runs: one of them at least found them by a search."""
    query = (
        "SELECT count(*) FROM (SELECT 1 FROM command WHERE result = 'cancelled' "
        "GROUP BY commandId HAVING count(DISTINCT run) > 1)"
    )
    return int(world.ledgers[0].raw.execute(query).fetchone()[0])


def _respelled(world: World) -> int:
    return sum(start.respelled for start in world.starts)


def parts(world: World) -> Counter[str]:
    """What of row 109 a world showed."""
    setup = world.setup
    sent = [e for e in world.gateway.exchanges if e.kind != "token" and e.proof == "OK"]
    ended = _ended(world)
    found = [start.ending.findings for start in ended if start.ending is not None]
    resumed = [s for n, s in enumerate(world.starts) if s.run in {p.run for p in world.starts[:n]}]
    return Counter(
        {
            "keys": len(sent) if setup.odd else 0,
            "pages": sum(e.page > 1 for e in sent),
            "batches": sum(f is not None and f.targets > setup.batch for f in found),
            "limits": sum(start.limit is not None and bool(start.settled) for start in resumed),
            "jobs": len(ended) if setup.several == "series" else 0,
        }
    )


def _of_every_kind(world: World) -> int:
    return parts(world).total()


_SITUATIONS: dict[int, Callable[[World], int]] = {
    9: _slices,
    28: _storm,
    40: _skewed,
    41: _all_lost,
    45: _crashes,
    52: _clock_set,
    53: _slept,
    56: _answered_and_lost,
    66: _two_spellings,
    81: _cached_meanwhile,
    83: _two_workers,
    86: _leaks_possible,
    94: _named,
    96: _clocks_apart,
    99: _found_twice,
    105: _respelled,
    109: _of_every_kind,
}


# ---------------------------------------------------------------- what a row requires besides


def _ended(world: World) -> list[Start]:
    return [start for start in world.starts if start.ending is not None]


def _never_failed(world: World) -> None:
    """41: what was executed and lost is never called failed."""
    if world.setup.kind != "lost":
        return
    for start in world.starts:
        for outcome in start.settled:
            key = start.listing.keys[outcome.target.ordinal]
            if outcome.kind == "failed" and world.gateway.taken.get((start.run, key)):
                world.wrong(5, f"row 41: target {outcome.target.ordinal} failed, but was executed")


def _stays_small(world: World) -> None:
    """28: a storm from the start is stopped before the whole fleet is touched."""
    setup = world.setup
    outage = setup.outage
    total = outage and outage[0] == 0.0 and outage[1] > 1e8 and outage[3]
    if not total or setup.abort is None or setup.retry.budget > 0.1:
        return
    few = max(20, setup.concurrency)
    for start in world.starts:
        most = 4 * max(few, setup.abort.consecutive) + setup.retry.budget_reserve
        calls = world.witness.calls[start.number]
        aborted = start.stop is not None and start.stop.rule.startswith("abort")
        if aborted and calls > 3 * most:
            world.wrong(9, f"row 28: {calls} calls in a storm")


def _one_refresh(world: World) -> None:
    """20: however many wait, one asks for a token at a time."""
    busy: dict[int, float] = {}
    for exchange in world.gateway.exchanges:
        if exchange.kind == "token":
            if exchange.begun < busy.get(exchange.worker, -1.0) - 1e-6:
                world.wrong(9, f"row 20: token request {exchange.number} is the second at once")
            busy[exchange.worker] = exchange.ended if exchange.ended is not None else 1e12


def _forbidden(world: World) -> None:
    """22 and 23: so many of a kind in settle order, and the run stops."""
    for start in _ended(world):
        forbidden = wrong_path = 0
        for outcome in start.settled:
            kind, cause = outcome.kind.value, outcome.cause
            if kind in ("failed", "unknown", "not_attempted"):
                continue
            denied = outcome.http_status == 403 or outcome.code == 99403
            forbidden = forbidden + 1 if kind == "rejected" and denied else 0
            wrong_path = wrong_path + 1 if kind == "rejected" and cause == "wrong_path" else 0
            if (forbidden >= 20 or wrong_path >= 5) and start.stop is None:
                world.wrong(10, f"start {start.number} went on after {forbidden or wrong_path}")
                return


def _first_all_unknown(world: World) -> None:
    """23: the first 20 settled do not exist, and more is left."""
    for start in _ended(world):
        first = start.settled[:20]
        gone = len(first) == 20 and all(o.kind.value == "not_found" for o in first)
        begun = max(20, world.setup.concurrency)  # may be open then: what waits holds no worker
        if gone and len(start.settled) > 20 + begun and start.stop is None:
            world.wrong(10, f"start {start.number} went on after 20 devices that do not exist")


def _nothing_without_token(world: World) -> None:
    """21: no token ever, so nothing is sent and the run stops."""
    if world.setup.weather.token and not world.witness.begun:
        for start in _ended(world):
            if start.stop is None and start.tally and start.tally["not_attempted"]:
                world.wrong(10, f"start {start.number} has no token and did not stop")


def _bug_is_counted(world: World) -> None:
    """55: one target, not the run."""
    for start in _ended(world):
        bugs = [o for o in start.settled if o.cause == "internal_error"]
        if bugs and start.ending is not None and not start.ending.internal_errors:
            world.wrong(8, f"start {start.number} had a bug and did not count it")
        if any(o.kind.value == "failed" for o in bugs):
            world.wrong(5, f"start {start.number}: a bug after sending is not a failure")


def _anomalous(world: World) -> None:
    """71, 78: the target of a broken contract is called so."""
    for exchange in world.gateway.exchanges:
        if exchange.anomaly and exchange.fate is not None and exchange.proof == "OK":
            if exchange.fault == "other_command" and exchange.commandId is None:
                continue
            settled = [
                outcome.kind.value
                for start in world.starts
                if start.run == exchange.run
                for outcome in start.settled
                if outcome.target.ordinal == start.listing.ordinals[exchange.key]
            ]
            if settled and "anomalous" not in settled:
                world.wrong(4, f"target {exchange.key} broke the contract and is {settled}")


def _differently_named(world: World) -> None:
    """94: two replies of one process that name a target in two ways make it anomalous."""
    for start in world.starts:
        if start.ending is None or not start.ending.durable:
            continue
        later = [s for s in world.starts[start.number + 1 :] if s.run == start.run]
        ends = later[0].began if later else 1e12
        told: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        for exchange in world.gateway.exchanges:
            mine = exchange.run == start.run and start.began <= exchange.begun < ends
            if mine and exchange.named and exchange.rows and exchange.proof == "OK":
                told.setdefault(exchange.key, set()).add(exchange.named)
        found, listing = invariants.recorded(world, start), start.listing
        for key, names in told.items():
            outcome = found.outcomes[listing.ordinals[key]]
            if len(names) > 1 and (start.stop is None or (not later and outcome != "anomalous")):
                said = f"target {listing.ordinals[key]} {key} was named in {len(names)} ways"
                world.wrong(4, f"row 94: {said} and is {outcome}")


_REQUIRED: dict[int, Callable[[World], None]] = {
    20: _one_refresh,
    21: _nothing_without_token,
    22: _forbidden,
    23: _first_all_unknown,
    28: _stays_small,
    41: _never_failed,
    55: _bug_is_counted,
    71: _anomalous,
    78: _anomalous,
    94: _differently_named,
}
