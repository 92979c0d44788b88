"""all_cached at a gateway that cancels single commands only."""

from __future__ import annotations

import pytest

from tests.run.fake_gateway import (
    BAD_REQUEST,
    FORBIDDEN,
    NOT_FOUND,
    OK,
    FakeGateway,
    Fate,
    foreign,
    lost,
    unavailable,
    unsent,
)
from tests.run.one_target import DENIED, D, doubtful, ended, results, told
from tests.run.rig import Rig
from tests.simulation.clock import VirtualClock
from worker.model import OutcomeKind
from worker.run.reconcile import LookupRules

K = OutcomeKind


# ---------------------------------------------------------------- all_cached by id


async def test_by_id_searches_and_cancels_oldest_first() -> None:
    """by_id: search, one cancel an id, oldest first, search again until none is left."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "9", "8", "7")
    outcome = await ended(rig)
    assert told(outcome) == (K.CANCELLED, None, ["7", "8", "9"], "response")
    assert [s.commandId for s in rig.gateway.sent("cancel")] == ["9", "8", "7"]
    assert [s.kind for s in rig.gateway.log] == ["search", *["cancel"] * 3, "search"]


async def test_by_id_empty_first_search() -> None:
    """Nothing to cancel: nothing_matched, and no cancel call."""
    rig = Rig(by_id=True)
    assert told(await ended(rig)) == (K.NOTHING_MATCHED, None, [], "search")
    assert len(rig.gateway.log) == 1


async def test_by_id_all_gone_meanwhile() -> None:
    """Found by search but gone when called: nothing_matched, each id not_cached (row 79)."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "1")
    rig.gateway.devices[D][0].gone_at = 0.06
    outcome = await ended(rig)
    assert outcome.kind is K.NOTHING_MATCHED
    assert results(outcome) == [("1", "not_cached")]


async def test_by_id_leaves_what_came_after_the_first_search() -> None:
    """Nothing younger than the first search is cancelled (row 81); 2 s may be the clocks' (96)."""
    rig = Rig(by_id=True, lookup=LookupRules(wait=5.0))
    rig.gateway.seed(D, "1")
    rig.gateway.cache_later(D, "9", 3.0)
    outcome = await ended(rig)
    assert told(outcome)[::2] == (K.CANCELLED, ["1"])
    assert rig.gateway.cancelled(D) == {"1"}


@pytest.mark.parametrize("skew_ms", [-600_000, 600_000])
async def test_by_id_tells_ages_by_the_gateways_clock(skew_ms: int) -> None:
    """A clock that is off hides no command from the first search."""
    rig = Rig(
        by_id=True, gateway=FakeGateway(clock := VirtualClock(), skew_ms=skew_ms), clock=clock
    )
    rig.gateway.seed(D, "1", age=300.0)
    assert told(await ended(rig))[::2] == (K.CANCELLED, ["1"])


@pytest.mark.parametrize(
    ("cancelled", "kind"), [(True, K.CANCELLED_INCOMPLETE), (False, K.UNKNOWN)]
)
async def test_by_id_something_still_left(cancelled: bool, kind: OutcomeKind) -> None:
    """Still cached at the last of `lookup.tries` more searches: incomplete, or unknown."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, *(["1", "2"] if cancelled else ["2"]))
    rig.gateway.cancels[D] = []
    empty = Fate(executed=False)  # the gateway says [], and goes on showing the command
    rig.gateway.every_cancel = lambda: empty
    fates = [OK] if cancelled else []
    outcome = await ended(rig, *fates)
    assert outcome.kind is kind
    assert outcome.cause == "still_cached"
    assert len(rig.gateway.sent("search")) == 3


async def test_by_id_lost_is_looked_up() -> None:
    """A call by id in doubt is looked up before the next one (row 5)."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "1", "2")
    outcome = await ended(rig, lost())
    assert told(outcome)[::2] == (K.CANCELLED, ["1", "2"])
    assert [s.commandId for s in rig.gateway.sent("cancel")] == ["1", "2"]


@pytest.mark.parametrize(
    ("fate", "kind", "cause"),
    [
        (FORBIDDEN, K.REJECTED, "forbidden"),
        (BAD_REQUEST, K.REJECTED, "bad_request"),
        (NOT_FOUND, K.NOT_FOUND, "not_found"),
        (foreign(), K.ANOMALOUS, "other_device"),
    ],
)
async def test_by_id_refused_settles_as_refused(fate: Fate, kind: OutcomeKind, cause: str) -> None:
    """What refuses a call by id is the target's outcome; searching again would change nothing."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "1")
    outcome = await ended(rig, fate)
    assert (outcome.kind, outcome.cause) == (kind, cause)
    assert len(rig.gateway.sent("search")) == 1


async def test_by_id_search_fails_for_a_while() -> None:
    """The first search is repeated like a call: it executes nothing."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "1")
    rig.gateway.searches[D] = [unsent(), lost(), unavailable()]
    assert told(await ended(rig))[::2] == (K.CANCELLED, ["1"])


@pytest.mark.parametrize(
    ("fate", "cause", "searches"), [(unsent(), "search_failed", 4), (DENIED, "search_denied", 1)]
)
async def test_by_id_without_its_first_search(fate: Fate, cause: str, searches: int) -> None:
    """No search, no call: failed, nothing executed; denied is not asked again."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "1")
    rig.gateway.every_search = lambda: fate
    assert told(await ended(rig)) == (K.FAILED, cause, [], "search")
    assert (len(rig.gateway.sent("search")), rig.gateway.sent("cancel")) == (searches, [])


@pytest.mark.parametrize(("gone", "kind"), [(False, K.CANCELLED_INCOMPLETE), (True, K.UNKNOWN)])
async def test_by_id_without_its_last_search(gone: bool, kind: OutcomeKind) -> None:
    """What was cancelled is certain, that nothing is left is not."""
    rig = Rig(by_id=True)
    rig.gateway.seed(D, "1")
    rig.gateway.devices[D][0].gone_at = 0.06 if gone else None
    rig.gateway.searches[D] = [OK]
    rig.gateway.every_search = unsent
    assert told(await ended(rig))[:2] == (kind, "search_failed")


@pytest.mark.parametrize(
    ("state", "fates", "kind", "cancels"),
    [
        ("cancelled", [], K.CANCELLED, 0),
        ("cached", [], K.CANCELLED, 1),
        ("none", [], K.NOTHING_MATCHED, 0),
        ("cached", [unsent()] * 9, K.UNKNOWN, 0),
    ],
)
async def test_by_id_doubt_of_an_earlier_run(
    state: str, fates: list[Fate], kind: OutcomeKind, cancels: int
) -> None:
    """by_id looks an earlier doubt up as well, before it searches for itself (row 85)."""
    rig = Rig(by_id=True)
    if state != "none":
        rig.gateway.seed(D, "1")
        rig.gateway.devices[D][0].cancelled_at = -5.0 if state == "cancelled" else None
    rig.gateway.searches[D] = fates
    doubtful(rig)
    assert (await ended(rig)).kind is kind
    assert len(rig.gateway.sent("cancel")) == cancels
