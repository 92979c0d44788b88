"""What is left open in a run: targets in doubt, put off, never claimed.

A target is in doubt when it was claimed in a pass and nothing was recorded of it in that pass
or a later one. That is told from claims (one row a batch) against outcomes (by key), so that the
answer for a million targets takes a fraction of a second and no row is ever marked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    bindparam,
    func,
    insert,
    literal_column,
    or_,
    select,
    text,
    tuple_,
)

from worker.ledger.entry import Doubt
from worker.ledger.recall import ORDINALS, RUN, chunks, marks_of
from worker.ledger.tables import DEFERRED, UNUSUAL, USUAL, claim, outcome

SLICE = 5_000  # rows

_pass = claim.c["pass"]
_CLAIM = (claim.c.lo, claim.c.hi, _pass.label("pass_no"), claim.c.members, claim.c.claimed_ms)
_later = outcome.alias("later")
_LAST = 2**62  # behind every ordinal
_RECORDED = (
    select(func.count())
    .where(outcome.c.run == claim.c.run, outcome.c["pass"] == _pass)
    .where(outcome.c.ordinal.between(claim.c.lo, claim.c.hi))
    .scalar_subquery()
)
_SUSPECTS: Select[Any] = (
    select(*_CLAIM)
    .where(claim.c.run == RUN, claim.c.hi >= bindparam("lo"), claim.c.lo <= bindparam("hi"))
    .where(or_(claim.c.members.is_not(None), claim.c.hi - claim.c.lo + 1 > _RECORDED))
    .where(tuple_(claim.c.lo, _pass) > tuple_(bindparam("lo_after"), bindparam("pass_after")))
    .order_by(claim.c.lo, _pass)
    .limit(SLICE)
)
_LAST_RECORD = (
    select(outcome.c.ordinal, func.max(outcome.c["pass"]))
    .where(outcome.c.run == RUN, outcome.c.ordinal.in_(ORDINALS))
    .group_by(outcome.c.ordinal)
)


def in_doubt(
    connection: Connection, run: int, lo: int = 0, hi: int | None = None
) -> dict[int, Doubt]:
    """The targets in doubt from ordinal `lo` to `hi`, by ordinal.

    A healthy run holds no more of them than may be open at once.
    """
    seen: dict[int, tuple[int, int]] = {}  # ordinal -> last pass, first claimed_ms
    for rows in _suspects(connection, {"run": run, "lo": lo, "hi": _LAST if hi is None else hi}):
        for ordinal, pass_no, claimed_ms in _open(connection, run, rows):
            last, first = seen.get(ordinal, (pass_no, claimed_ms))
            seen[ordinal] = (max(last, pass_no), min(first, claimed_ms))
    within = sorted(o for o in seen if lo <= o and (hi is None or o <= hi))
    marks = marks_of(connection, run, within)
    return {o: Doubt(o, *seen[o], marks.get(o)) for o in within}


def assume(
    connection: Connection, run: int, put_off: Sequence[int], unclaimed: range, since_ms: int
) -> None:
    """Put these targets in doubt, as if they had been claimed at that moment."""
    rows: list[dict[str, object]] = []
    if unclaimed:
        lo, hi = unclaimed.start, unclaimed.stop - 1
        rows.append({"lo": lo, "hi": hi, "pass": 1, "members": None})
    if put_off:
        next_pass = last_pass(connection, run) + 1
        joined = " ".join(map(str, sorted(put_off)))
        rows.append({"lo": min(put_off), "hi": max(put_off), "pass": next_pass, "members": joined})
    for row in rows:
        connection.execute(insert(claim), [{"run": run, "claimed_ms": since_ms, **row}])


def deferred(connection: Connection, run: int, after: int) -> list[int]:
    """The next ordinals behind `after` whose last record is a deferral; maybe in doubt since."""
    return _unusual(connection, run, (DEFERRED,), after, _later.c.kind.is_not(None))


def with_outcome(connection: Connection, run: int, kinds: tuple[str, ...], after: int) -> list[int]:
    """The next ordinals behind `after` whose final outcome is of `kinds`; maybe in doubt since."""
    return _unusual(connection, run, kinds, after, _later.c.kind != DEFERRED)


def last_pass(connection: Connection, run: int) -> int:
    """The highest pass that anything was claimed or recorded in; 0 for none."""
    passes = [
        connection.execute(select(func.max(table.c["pass"])).where(table.c.run == run)).scalar()
        for table in (claim, outcome)
    ]
    return max(int(number or 0) for number in passes)


def _suspects(connection: Connection, within: dict[str, int]) -> Iterator[Sequence[Row[Any]]]:
    """Claims that may be open: ranges with fewer records than targets, and every list.

    A list is not counted first: it may reach over the whole plan, with little of it its own.
    """
    after = {"lo_after": -1, "pass_after": -1}
    while True:
        rows = connection.execute(_SUSPECTS, {**within, **after}).all()
        if rows:
            yield rows
        if len(rows) < SLICE:
            return
        after = {"lo_after": rows[-1].lo, "pass_after": rows[-1].pass_no}


def _open(
    connection: Connection, run: int, claims: Sequence[Row[Any]]
) -> Iterator[tuple[int, int, int]]:
    """(ordinal, pass, claimed_ms) of what these claims cover and nothing has settled."""
    covered = [
        (ordinal, row.pass_no, row.claimed_ms)
        for row in claims
        for ordinal in _covered(row.lo, row.hi, row.members)
    ]
    for part in chunks(covered):
        ordinals = [each[0] for each in part]
        found = connection.execute(_LAST_RECORD, {"run": run, "ordinals": ordinals})
        recorded: dict[int, int] = {row[0]: row[1] for row in found}
        yield from (each for each in part if recorded.get(each[0], -1) < each[1])


def _covered(lo: int, hi: int, members: str | None) -> Iterable[int]:
    return map(int, members.split(" ")) if members else range(lo, hi + 1)


def _unusual(
    connection: Connection,
    run: int,
    kinds: tuple[str, ...],
    after: int,
    settles: ColumnElement[bool],
) -> list[int]:
    newer: Select[Any] = (
        select(literal_column("1"))
        .where(_later.c.run == outcome.c.run, _later.c.ordinal == outcome.c.ordinal)
        .where(_later.c["pass"] > outcome.c["pass"], settles)
    )
    query = (
        select(outcome.c.ordinal)
        .where(outcome.c.run == run, outcome.c.ordinal > after, outcome.c.kind.in_(kinds))
        .where(~newer.exists())
        .order_by(outcome.c.ordinal)
        .limit(SLICE)
    )
    if not USUAL.intersection(kinds):
        query = query.where(text(UNUSUAL))  # word for word what the index says of itself
    return list(connection.execute(query).scalars())
