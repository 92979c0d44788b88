"""One target, its fates and what it came to: the words of the tests of the executor."""

from __future__ import annotations

from tests.run.fake_gateway import (
    Fate,
)
from tests.run.rig import Rig, device, listed, whole
from worker.ledger.entry import ClaimedTarget
from worker.model import Outcome, OutcomeKind, Refused
from worker.run.retry import RetryRules

K = OutcomeKind
D = device()
DENIED = Fate(executed=False, said=Refused(403, 99403, "forbidden"))
way = "awaited"  # how a target's course begins
SPENT = RetryRules(budget=0.0, budget_reserve=0)


async def ended(rig: Rig, *fates: Fate, ids: tuple[str, ...] = ()) -> Outcome:
    """What a target came to under these fates: cancel-all, or a call for each of the ids."""
    rig.gateway.cancels[D] = list(fates)
    target = listed(*ids) if ids else whole()
    outcome = await (rig.launched(target) if way == "launched" else rig.run(target))
    assert outcome is not None
    return outcome


def told(outcome: Outcome) -> tuple[OutcomeKind, str | None, list[str], str | None]:
    """Kind, cause, cancelled ids, evidence."""
    ids = sorted(c.command.commandId for c in outcome.commands if c.result == "cancelled")
    return outcome.kind, outcome.cause, ids, outcome.evidence


def results(outcome: Outcome) -> list[tuple[str, str]]:
    return [(c.command.commandId, c.result) for c in outcome.commands]


def seeded(*ids: str, **options: object) -> Rig:
    rig = Rig(**options)  # type: ignore[arg-type]
    rig.gateway.seed(D, *ids)
    return rig


def doubtful(rig: Rig) -> None:
    """An earlier run left every device in doubt."""

    def since(claimed: ClaimedTarget) -> tuple[int, int]:
        now = rig.gateway.gateway_ms()
        return now - 60_000, now

    rig.runner._doubts = since
