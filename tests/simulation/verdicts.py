"""The report of a run read out of the tables by hand: a second opinion to the ledger's queries.

Also the exit code that follows, derived from the interface's list and not from the code.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from msgspec import Struct

from tests.simulation.ledgers import Ledger

if TYPE_CHECKING:
    from tests.simulation.process import Start
    from tests.simulation.setup import Setup

_UNCERTAIN = ("unknown", "cancelled_incomplete", "anomalous")
_NOT_DONE = ("failed", "rejected", "not_found", "too_late")
_SAFETY = frozenset(
    {"auth", "no_token", "tls", "redirect", "anomaly", "forbidden", "wrong_path", "not_found"}
    | {"cancel_all_refused", "abort_failed", "abort_consecutive", "retry_after", "max_commands"}
)


_FIRST_OF = (6, 5, 1, 130, 143, 7, 9, 8, 4, 3, 0)  # codes of the jobs of one command


class Read(Struct, eq=False):
    """What the tables say of a run."""

    outcomes: dict[int, str]
    in_doubt: set[int]
    recorded: dict[int, dict[str, str]]  # ordinal -> id -> evidence, of cancelled commands
    put_off: set[int]  # to a later pass, and not claimed since

    def tally(self) -> Counter[str]:
        return Counter(self.outcomes.values())


def read(ledger: Ledger, run: int, targets: int) -> Read:
    """Every target's outcome; run is its number in the ledger."""
    raw = ledger.raw
    recorded: dict[int, dict[str, str]] = defaultdict(dict)
    for ordinal, commandId, evidence in raw.execute(
        "SELECT ordinal, commandId, evidence FROM command WHERE run = ? AND result = 'cancelled'",
        (run,),
    ):
        recorded[ordinal][commandId] = evidence
    final: dict[int, str] = {}
    put_off: set[int] = set()
    for ordinal, kind in raw.execute(
        'SELECT ordinal, kind FROM outcome WHERE run = ? ORDER BY ordinal, "pass"', (run,)
    ):
        if kind == "deferred":
            put_off.add(ordinal)
        else:
            put_off.discard(ordinal)
            final[ordinal] = kind
    in_doubt = set(ledger.claimed(run))
    outcomes = {}
    for ordinal in range(targets):
        if ordinal in in_doubt:
            outcomes[ordinal] = "cancelled_incomplete" if recorded.get(ordinal) else "unknown"
        elif ordinal in final:
            later = recorded.get(ordinal) and final[ordinal] in ("failed", "rejected", "not_found")
            outcomes[ordinal] = "cancelled_incomplete" if later else final[ordinal]
        elif recorded.get(ordinal):
            outcomes[ordinal] = "cancelled_incomplete"
        else:
            outcomes[ordinal] = "not_attempted"
    return Read(outcomes, in_doubt, recorded, put_off - in_doubt)


def worst(codes: list[int]) -> int:
    """The code of a command from those of its jobs."""
    return min(codes, key=_FIRST_OF.index)


def expected_exit(setup: Setup, start: Start, tally: Counter[str]) -> int:
    """The code of a start that ended by itself, by the first match of the interface's list."""
    ending = start.ending
    assert ending is not None
    rule = ending.stop.rule if ending.stop else None
    left = start.work_left
    if not ending.durable or rule == "record":
        return 6
    if rule in _SAFETY:
        return 5
    if ending.internal_errors or (left and rule is None):
        return 1
    if rule == "signal" and ending.stop is not None:
        return 128 + ending.stop.count
    if rule in ("window", "deadline") and left:
        return 8
    found = ending.findings.verified() if ending.findings else None
    if any(tally[kind] for kind in _UNCERTAIN):
        return 4
    if found is not None and found.still_cached:
        return 4
    if setup.verify_written and (found is None or found.unsearched):
        return 4
    return 3 if any(tally[kind] for kind in _NOT_DONE) else 0
