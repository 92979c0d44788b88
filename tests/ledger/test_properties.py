"""Invariant 7 for any history: each target has one outcome, told the same by every question."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.ledger.plans import claim, counted, devices, mark, outcome, plan, put_off, record, told
from worker.ledger.entry import Entry
from worker.ledger.store import Store
from worker.model import OutcomeKind

FINALS = [kind.value for kind in OutcomeKind if kind is not OutcomeKind.NOT_ATTEMPTED]
TARGETS = 14


class Model:
    """One target's history as a person would keep it."""

    def __init__(self) -> None:
        self.claimed = 0  # last pass that claimed it
        self.records: dict[int, str] = {}  # pass -> kind
        self.touched = False  # a cancelled command is recorded

    @property
    def in_doubt(self) -> bool:
        return self.claimed > max(self.records, default=0)

    @property
    def deferred(self) -> bool:
        return bool(self.records) and not self.in_doubt and self._last == "deferred"

    @property
    def _last(self) -> str:
        return self.records[max(self.records)]

    @property
    def final(self) -> str | None:
        finals = [p for p, kind in self.records.items() if kind != "deferred"]
        return self.records[max(finals)] if finals else None

    @property
    def outcome(self) -> str:
        if self.in_doubt:
            return "cancelled_incomplete" if self.touched else "unknown"
        if self.touched and self.final in ("failed", "rejected", "not_found"):
            return "cancelled_incomplete"  # cancelled since, or before: less than that is not true
        if self.final:
            return self.final
        return "cancelled_incomplete" if self.touched else "not_attempted"


def step(store: Store, models: list[Model], chance: random.Random, pass_no: int) -> int:
    """One random commit, and the same in the model; the pass from now on."""
    kind = chance.random()
    if kind < 0.25:
        for claimed in claim(store, chance.randint(1, 4), pass_no=pass_no):
            models[claimed.target.ordinal].claimed = pass_no
        return pass_no
    known = [n for n, model in enumerate(models) if 0 < model.claimed < pass_no]
    if kind < 0.45 and known:
        members = tuple(chance.sample(known, chance.randint(1, len(known))))
        for claimed in claim(store, pass_no=pass_no, members=members):
            models[claimed.target.ordinal].claimed = pass_no
        return pass_no
    if kind < 0.55:
        return pass_no + 1
    entries: list[Entry] = []
    for ordinal, model in enumerate(models):
        if not model.claimed or chance.random() < 0.5:
            continue
        at = chance.choice([model.claimed, pass_no])
        if chance.random() < 0.3:
            entries.append(Entry(ordinal, at, (told(f"c{ordinal}"),), None))
            model.touched = True
        if chance.random() < 0.3:
            entries.append(mark(ordinal, at))
        if at not in model.records and at >= max(model.records, default=0):
            model.records[at] = chance.choice(["deferred", *FINALS])
            entry = (
                outcome(ordinal, model.records[at], pass_no=at)
                if (model.records[at] != "deferred")
                else put_off(ordinal, at)
            )
            entries.append(entry)
    record(store, *entries)
    return pass_no


@pytest.mark.parametrize("seed", range(60))
def test_every_history(temporary: Store, seed: int) -> None:
    """After any sequence of commits all questions agree with the model, and the sum is total."""
    chance = random.Random(seed)
    plan(temporary, devices(TARGETS))
    models = [Model() for _ in range(TARGETS)]
    pass_no = 1
    for _ in range(chance.randint(3, 25)):
        pass_no = step(temporary, models, chance, pass_no)
        numbered = list(enumerate(models))
        expected = [model.outcome for model in models]
        assert counted(temporary) == Counter(expected)
        assert [row.outcome.value for row in temporary.rows("r1")] == expected
        doubts = [doubt.ordinal for doubt in temporary.in_doubt("r1")]
        assert doubts == [n for n, model in numbered if model.in_doubt]
        deferred = list(temporary.deferred("r1"))
        assert deferred == [n for n, model in numbered if model.deferred]
        kinds = [OutcomeKind.UNKNOWN, OutcomeKind.FAILED, OutcomeKind.CANCELLED]
        found = list(temporary.ordinals_with_outcome("r1", kinds))
        settled = [n for n, m in numbered if not m.in_doubt and m.final in kinds]
        assert found == settled
        unclaimed = [n for n, model in numbered if not model.claimed]
        assert list(temporary.unclaimed("r1")) == unclaimed
