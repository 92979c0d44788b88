"""What must hold of every world once it is over, numbered as in docs/faults.md."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from math import floor
from typing import TYPE_CHECKING

from tests.simulation.truth import CANCELLED, Key
from tests.simulation.verdicts import Read, expected_exit, read
from worker.cli.series import summary_of
from worker.report.text import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.simulation.ledgers import Ledger
    from tests.simulation.process import Start
    from tests.simulation.world import World
    from worker.model import OutcomeKind

_UNCERTAIN = {"unknown", "cancelled_incomplete", "anomalous"}
_NOTHING = {"nothing_cached", "nothing_matched", "too_late"}
_DONE = {*_NOTHING, "cancelled"}
_NOT_EXECUTED = {"failed", "rejected", "not_found", "not_attempted"}
_OPEN = {"not_attempted", "unknown", "cancelled_incomplete"}
_CANARIES = (b"sk-canary", b"tok-canary")


def open_before(
    ledger: Ledger, start: Start, kinds: Sequence[OutcomeKind]
) -> tuple[frozenset[int], frozenset[int]]:
    """Ordinals that a new process has no business with, and those that it is for.

    Where it is for some of them only: what may have been sent goes first, then what was claimed,
    then the rest of the plan.
    """
    run, targets = start.run % 100, len(start.listing.rows)
    again = _OPEN | {kind.value for kind in kinds}
    found = read(ledger, run, targets)
    outcomes, unsure = found.outcomes, set(found.in_doubt)
    last = ledger.raw.execute(
        'SELECT ordinal, kind FROM outcome WHERE run = ? ORDER BY "pass"', (run,)
    ).fetchall()
    for ordinal, kind in dict(last).items():
        if kind == "deferred":  # a resume that was to send it again ended before it could
            outcomes[ordinal] = "not_attempted"
    final = dict(row for row in last if row[1] != "deferred")
    unsure |= {n for n, kind in final.items() if kind in ("unknown", "cancelled_incomplete")}
    [(claimed,)] = ledger.raw.execute(
        "SELECT max(hi) FROM claim WHERE run = ? AND members IS NULL", (run,)
    )
    left = {ordinal for ordinal, kind in outcomes.items() if kind in again}
    turns = sorted(
        left, key=lambda n: (n not in unsure, n > (-1 if claimed is None else claimed), n)
    )
    return frozenset(range(targets)) - left, frozenset(turns[: start.limit])


def check(world: World) -> None:
    """All invariants, after the last process; what is wrong is noted in the world."""
    for start in world.starts:
        _stopped_in_time(world, start)
        _bounded(world, start)
        _paced(world, start)
        _canaries(world, start)
        _logged(world, start)
        _worked_off(world, start)
    for ledger in {id(ledger): ledger for ledger in world.ledgers}.values():
        _found_by_one_run(world, ledger)
    for start in _last_of_each_run(world):
        found = recorded(world, start)
        _truthful(world, start, found)
        _left_behind(world, start, found)
        _left_without_reason(world, start)
        _looked_up(world, start, found)
        _verified(world, start, found)
        if world.setup.thorough:
            _as_reported(world, start, found)
    for start in world.starts:
        if start.ending is not None and start.tally is not None:
            expected = expected_exit(world.setup, start, start.tally)
            if start.code not in (expected, 6 if world.setup.fail_at else expected):
                world.wrong(8, f"start {start.number} exits {start.code}, expected {expected}")


def after_crash(world: World, start: Start) -> None:
    """The state that a crash leaves names everything that may have happened."""
    _truthful(world, start, recorded(world, start))
    _logged(world, start)


def recorded(world: World, start: Start) -> Read:
    """What the tables say now of the run of a start."""
    return read(world.ledgers[start.worker], start.run % 100, len(start.listing.rows))


def _last_of_each_run(world: World) -> list[Start]:
    last = {start.run: start for start in world.starts}
    return list(last.values())


# ---------------------------------------------------------------- 2 to 5, 7: the record is true


def _truthful(world: World, start: Start, found: Read) -> None:
    everywhere = _ids_in(world.ledgers[start.worker])
    for key, ordinal in start.listing.ordinals.items():
        outcome = found.outcomes[ordinal]
        taken = world.gateway.taken.get((start.run, key), set())
        mine = found.recorded.get(ordinal, {})
        said = f"target {ordinal} {key} is {outcome}"
        if outcome not in _UNCERTAIN and (lost := taken - everywhere):
            world.wrong(2, f"{said}, {sorted(lost)} are nowhere on record")
        _invented(world, key, mine, taken, outcome, said)
        others = _of_twin(world, start, key, found)
        if outcome == "cancelled":
            if not mine.keys() | others or not taken <= mine.keys() | others:
                world.wrong(4, f"{said}, recorded {sorted(mine)}, taken {sorted(taken)}")
            told = all(evidence == "response" for evidence in mine.values())
            if told and mine.keys() - taken:
                world.wrong(4, f"{said}, recorded more than was taken")
        elif outcome in _NOTHING and taken - others:
            world.wrong(4, f"{said}, taken {sorted(taken)}")
        elif outcome in _NOT_EXECUTED and taken - others:
            world.wrong(5, f"{said}, taken {sorted(taken)}")


def _invented(
    world: World, key: Key, mine: dict[str, str], taken: set[str], outcome: str, said: str
) -> None:
    thing = world.gateway.by_key[key]
    for commandId, evidence in mine.items():
        if outcome == "anomalous":
            continue
        if evidence == "response" and commandId not in taken:
            world.wrong(3, f"{said}, {commandId} is on record and was not cancelled by this run")
        if evidence == "search":
            command = thing.find(commandId)
            if command is None or command.state != CANCELLED:
                world.wrong(3, f"{said}, {commandId} is on record and is not cancelled")


def _left_behind(world: World, start: Start, found: Read) -> None:
    """4: nothing older than the run's last word to a device is cached where all was to go."""
    setup = world.setup
    for key, ordinal in start.listing.ordinals.items():
        if found.outcomes[ordinal] not in _DONE:
            continue
        mine = [e for e in world.gateway.exchanges if e.run == start.run and e.key == key]
        calls = [e.begun for e in mine if e.kind == "cancel" and e.proof in ("OK", "AM")]
        moment = min(e.begun for e in mine) if setup.by_id or not calls else max(calls)
        listed = start.listing.rows[ordinal][3]
        for command in world.gateway.by_key[key].cached():
            if listed is not None and command.commandId not in listed.split():
                continue
            if command.created < moment - setup.lag:
                said = f"target {ordinal} {key} is {found.outcomes[ordinal]}"
                world.wrong(4, f"{said}, {command.commandId} was cached before and still is")


def _left_without_reason(world: World, start: Start) -> None:
    """4: by id, all of a device is cancelled where nothing went wrong and nobody interfered."""
    if not world.setup.by_id or world.setup.others:
        return
    for outcome in start.settled:
        key = start.listing.keys[outcome.target.ordinal]
        mine = (e for e in world.gateway.exchanges if e.key == key)
        if outcome.cause == "still_cached" and all(e.proof == "OK" for e in mine):
            world.wrong(4, f"target {key} is {outcome.kind} though nothing went wrong")


def _of_twin(world: World, start: Start, key: Key, found: Read) -> set[str]:
    """Ids on record for the same device as the job spells it otherwise."""
    thing = world.gateway.by_key[key]
    other = thing.by_asset if key == thing.by_keys else thing.by_keys
    ordinal = start.listing.ordinals.get(other)
    return set() if ordinal is None else set(found.recorded.get(ordinal, {}))


def _ids_in(ledger: Ledger) -> set[str]:
    rows = ledger.raw.execute("SELECT commandId FROM command WHERE result = 'cancelled'")
    return {row[0] for row in rows}


def _looked_up(world: World, start: Start, found: Read) -> None:
    """What was in doubt is settled by a look-up after the last attempt, or not at all."""
    witness = world.witness
    sent = {(e.run, e.key): e.begun for e in world.gateway.exchanges if e.kind == "cancel"}
    settled = {outcome.target.ordinal for outcome in start.settled}
    for key, ordinal in start.listing.ordinals.items():
        doubts = dict(witness.doubtful.get((start.run, key), {}))
        for commandId in found.recorded.get(ordinal, {}):
            doubts.pop(commandId, None)  # a call by id that is on record has nothing to look for
        outcome = found.outcomes[ordinal]
        last_sent = sent.get((start.run, key), -1.0)
        if ordinal not in settled and doubts and last_sent < min(doubts.values()):
            continue  # in doubt from another run, or claimed and not sent: this start says nothing
        if doubts and outcome not in _UNCERTAIN:
            last = max(doubts.values())
            looked = witness.looked_up.get((start.run, key), -1.0)
            if looked < last + world.setup.lookup.wait * 0.99:
                said = f"target {ordinal} {key} is {outcome}, in doubt at {last:.3f} and not"
                world.wrong(4, f"{said} looked up since ({looked:.3f})")


def _found_by_one_run(world: World, ledger: Ledger) -> None:
    """3: what another run is known to have cancelled, or found first, is not found once more.

    Moments on record can be compared as long as nobody sets the clock.
    """
    claimed = {
        (run, ordinal): claimed_ms
        for run, lo, hi, claimed_ms in ledger.raw.execute(
            "SELECT run, lo, hi, claimed_ms FROM claim WHERE members IS NULL"
        )
        for ordinal in range(lo, hi + 1)
    }
    rows = ledger.raw.execute(
        "SELECT commandId, run, ordinal, evidence, recorded_ms FROM command "
        "WHERE result = 'cancelled'"
    ).fetchall()
    by_id: dict[str, list[tuple[int, int, str, int]]] = defaultdict(list)
    for commandId, *row in rows:
        by_id[commandId].append((row[0], row[1], row[2], row[3]))
    for commandId, holders in by_id.items():
        for run, ordinal, evidence, at in holders if len(holders) > 1 else ():
            first = claimed[run, ordinal]
            before = [
                other
                for other, _, proof, other_at in holders
                if other != run and other_at < (at - 5_000 if proof == "response" else first)
            ]
            if evidence == "search" and before and not (world.setup.jumps or world.setup.clock_set):
                said = f"{commandId} of target {ordinal} of run {run} was found"
                world.wrong(3, f"{said}, but was on record from run {before[0]}")


def _logged(world: World, start: Start) -> None:
    """2: the log never names a cancelled command that is not on record; else it names each."""
    rows = world.ledgers[start.worker].raw.execute(
        "SELECT commandId FROM command WHERE run = ? AND result = 'cancelled'", (start.run % 100,)
    )
    kept = {row[0] for row in rows}
    if invented := _told(start) - kept:
        world.wrong(2, f"the log of start {start.number} names {invented}, the ledger does not")
    mine = [each for each in world.starts if each.run == start.run]
    sound = not any(each.crashed or each.code == 6 for each in mine)
    if sound and kept - set().union(*map(_told, mine)):
        world.wrong(7, f"the logs of run {start.run_id} do not name all of its commands")


def _told(start: Start) -> set[str]:
    lines = (line for line in start.lines if b'"command.cancelled"' in line)
    return {json.loads(line)["commandId"] for line in lines}


def _worked_off(world: World, start: Start) -> None:
    """7: a start that nothing ended early settled all that it was for, and nothing else ever."""
    ending = start.ending
    if ending is None:
        return
    settled = {outcome.target.ordinal for outcome in start.settled}
    if settled - start.asked:
        world.wrong(1, f"start {start.number} settled {settled - start.asked}, not asked for")
    if ending.stop is None and ending.durable and start.asked - settled:
        world.wrong(7, f"start {start.number} ended by itself without {start.asked - settled}")


def _verified(world: World, start: Start, found: Read) -> None:
    """7: a verification says of each target that it is for whether it was searched, and why not.

    A reply that names another device makes a target anomalous and leaves it out.
    """
    findings = start.ending.findings if start.ending is not None else None
    if findings is None or (findings.stop is not None and findings.stop.rule == "anomaly"):
        return
    if (findings.why is None) != (findings.unsearched == 0):
        world.wrong(7, f"{findings.unsearched} targets not searched, because: {findings.why}")
    touched = {"cancelled", "cancelled_incomplete", "unknown"}
    everyone = world.setup.verify == "all"
    asked = [o for o in found.outcomes.values() if o in touched or everyone]
    asked = [outcome for outcome in asked if outcome != "not_attempted"]
    if findings.targets + findings.unsearched != len(asked):
        said = f"start {start.number} searched {findings.targets} targets again"
        world.wrong(7, f"{said}, {findings.unsearched} in vain, of {len(asked)}")


def _as_reported(world: World, start: Start, found: Read) -> None:
    """The project's own queries say the same."""
    store, tally = world.ledgers[start.worker].store, found.tally()
    counts = store.counts(start.run_id)
    if {kind.value: number for kind, number in counts.items() if number} != dict(+tally):
        world.wrong(7, f"counts {counts} are not {tally}")
    rows = list(store.rows(start.run_id))
    if [(row.productKey, row.deviceKey, row.assetId) for row in rows] != [
        planned[:3] for planned in start.listing.rows
    ]:
        world.wrong(7, "row 94: rows spell devices as the job did not")
    if [row.outcome.value for row in rows] != [found.outcomes[n] for n in range(len(rows))]:
        world.wrong(7, "rows and tables differ")
    told = {row.ordinal: set(row.commandIds) for row in rows if row.commandIds}
    if told != {ordinal: set(ids) for ordinal, ids in found.recorded.items()}:
        world.wrong(7, "rows and recorded commands differ")
    said = text(summary_of(store, start.run_id)).encode() + repr(rows).encode()
    if any(canary in said for canary in _CANARIES):
        world.wrong(13, "a secret is in the report")


# ---------------------------------------------------------------- 9, 10, 13


def _stopped_in_time(world: World, start: Start) -> None:
    stopped = start.stopped_loop
    for number, at, rule in world.witness.must_stop:
        ended = number == start.number and not start.crashed and start.code != 6
        if ended and (stopped is None or stopped > at + 1e-6):
            world.wrong(10, f"start {number} did not stop for {rule}")
    auth = start.stop is not None and start.stop.rule == "auth"
    if auth and not world.witness.distrust.explains(start):
        world.wrong(10, f"start {start.number} stopped for auth without a reason")


def _bounded(world: World, start: Start) -> None:
    setup, witness = world.setup, world.witness
    rules = setup.retry
    calls = repeats = 0
    for (number, pass_no, key, commandId), count in witness.attempts.items():
        if number != start.number:
            continue
        calls += 1
        repeats += count - 1
        most = rules.attempts * (setup.lookup.tries + 1 if setup.by_id else 1)
        most += setup.lookup.tries if setup.by_id else 0  # each made anew has a 401 free
        if count > most:
            world.wrong(9, f"{count} attempts for {key} {commandId} in pass {pass_no}")
    # A call that was on its way out when the run stopped has paid its share, and never went out.
    paid = calls + (setup.concurrency if start.stop is not None else 0)
    allowed = rules.budget_reserve + rules.budget * paid + 1e-6
    if repeats > allowed and not setup.by_id:
        world.wrong(9, f"{repeats} repetitions of {calls} calls, {allowed:.1f} are allowed")
    for (number, key), count in witness.look_ups.items():
        if number == start.number:
            ids = 1 if start.listing.scope == "all_cached" and not setup.by_id else 60
            doubts = witness.unsure[number, key] + witness.inherited[key]
            doubts += start.number + start.beside
            most = setup.lookup.tries * (doubts + ids)
            if count > most:
                world.wrong(9, f"{count} look-ups for {key}, {most} are allowed")


def _paced(world: World, start: Start) -> None:
    rate = world.setup.rate
    if rate is None:
        return
    most = floor(1.1 * rate)
    times = world.witness.begun[start.number]
    for first, beyond in zip(times, times[most:], strict=False):
        if beyond - first < 1.0 - 1e-6:
            world.wrong(9, f"more than {most} requests within a second")
            return


def _canaries(world: World, start: Start) -> None:
    written = b"".join(start.lines) + world.ledgers[start.worker].image()
    if any(canary in written for canary in _CANARIES):
        world.wrong(13, "a secret is in the log or the ledger")


def outcomes_by_device(world: World) -> Counter[tuple[Key, str]]:
    """What became of each device, whatever the order of the list."""
    start = world.starts[-1]
    found = recorded(world, start)
    return Counter(
        (key, found.outcomes[ordinal]) for key, ordinal in start.listing.ordinals.items()
    )
