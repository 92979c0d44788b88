"""What two searches prove: the table of `compare`, and a law over all of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.model import AGREE_MS, Command, Moment
from worker.run.reconcile import Finding, Sight, compare

SENT = 1_000  # the last send, gateway's clock


def command(commandId: str, created_ms: int | None = 500) -> Command:
    return Command(commandId, created_ms=created_ms)


def look(
    cached: list[Command],
    cancelled: list[Command],
    *,
    asked: str | None = None,
    recorded: str = "",
    elsewhere: str = "",
) -> tuple[Finding, str]:
    """The finding, and the ids newly found."""
    sight = compare(
        cached,
        cancelled,
        asked=asked,
        recorded=frozenset(recorded),
        elsewhere=frozenset(elsewhere),
        last_sent=Moment(SENT, SENT),
    )
    return sight.finding, "".join(c.commandId for c in sight.found)


A, B = command("a"), command("b")
AT, AGELESS = command("c", SENT + AGREE_MS), command("n", None)
YOUNG = command("y", SENT + AGREE_MS + 1)  # and certainly so


@pytest.mark.parametrize(
    ("cached", "cancelled", "recorded", "elsewhere", "finding", "found"),
    [
        # nothing cached any more
        ([], [], "", "", Finding.DONE, ""),
        ([], [A, B], "", "", Finding.DONE, "ab"),
        ([], [A, B], "a", "", Finding.DONE, "b"),
        ([], [A, B], "", "a", Finding.DONE, "b"),
        ([], [A], "", "a", Finding.DONE, ""),
        ([], [], "a", "", Finding.DONE, ""),
        # still cached, nothing new: not executed
        ([A], [], "", "", Finding.NOT_DONE, ""),
        ([A], [B], "", "b", Finding.NOT_DONE, ""),
        ([AGELESS], [], "", "", Finding.NOT_DONE, ""),
        ([AT], [], "", "", Finding.NOT_DONE, ""),
        # some of each
        ([A], [B], "", "", Finding.PARTLY, "b"),
        ([A], [], "b", "", Finding.PARTLY, ""),
        # what is younger than the last send blocks nothing
        ([YOUNG], [], "", "", Finding.DONE, ""),
        ([YOUNG], [B], "", "", Finding.DONE, "b"),
        ([YOUNG, A], [], "", "", Finding.NOT_DONE, ""),
        # one that moved between the two searches is gone
        ([A], [A], "", "", Finding.DONE, "a"),
        ([A, B], [A], "", "", Finding.PARTLY, "a"),
        # one on record as cancelled is gone, however late the search
        ([A], [], "a", "", Finding.DONE, ""),
    ],
)
def test_cancel_all(
    cached: list[Command],
    cancelled: list[Command],
    recorded: str,
    elsewhere: str,
    finding: Finding,
    found: str,
) -> None:
    """The look-up of a cancel-all (rows 5, 41, 76, 77)."""
    told = look(cached, cancelled, recorded=recorded, elsewhere=elsewhere)
    assert told == (finding, found)


@pytest.mark.parametrize(
    ("cached", "cancelled", "recorded", "elsewhere", "finding", "found"),
    [
        ([B], [], "", "", Finding.DONE, ""),  # another command is not ours to judge
        ([], [B], "", "", Finding.DONE, ""),
        ([B], [A], "", "", Finding.DONE, "a"),
        ([A], [B], "", "", Finding.NOT_DONE, ""),
        ([A], [], "a", "", Finding.DONE, ""),
        ([], [A], "", "a", Finding.DONE, ""),
        ([command("a", SENT + 500)], [], "", "", Finding.NOT_DONE, ""),  # an id has no age
    ],
)
def test_by_id_counts_only_the_id_asked(
    cached: list[Command],
    cancelled: list[Command],
    recorded: str,
    elsewhere: str,
    finding: Finding,
    found: str,
) -> None:
    """For calls by id both searches count only the id asked."""
    told = look(cached, cancelled, asked="a", recorded=recorded, elsewhere=elsewhere)
    assert told == (finding, found)


def test_states_are_those_of_the_later_search() -> None:
    """A command seen in both states is told in the second one."""
    sight = compare(
        [A, B],
        [A],
        asked=None,
        recorded=frozenset(),
        elsewhere=frozenset(),
        last_sent=Moment(SENT, SENT),
    )
    assert sight == Sight(Finding.PARTLY, (A,), {"a": 2, "b": 1})


_IDS = "abcdef"
_SETS = st.frozensets(st.sampled_from(_IDS))


@given(_SETS, _SETS, _SETS, _SETS, _SETS, st.sampled_from([None, *_IDS]))
def test_done_is_never_claimed_while_something_older_is_left(
    cached: frozenset[str],
    cancelled: frozenset[str],
    recorded: frozenset[str],
    elsewhere: frozenset[str],
    young: frozenset[str],
    asked: str | None,
) -> None:
    """DONE exactly when all that is cached, asked for and older is gone; nothing is invented."""
    sight = compare(
        [command(i, SENT + AGREE_MS + 1 if i in young else 500) for i in sorted(cached)],
        [command(i) for i in sorted(cancelled)],
        asked=asked,
        recorded=recorded,
        elsewhere=elsewhere,
        last_sent=Moment(SENT, SENT),
    )
    ours = set(_IDS) if asked is None else {asked}
    older = set(cached) if asked is not None else cached - young
    left = (older & ours) - cancelled - recorded
    found = {c.commandId for c in sight.found}
    assert (sight.finding is Finding.DONE) == (not left)
    assert (sight.finding is Finding.NOT_DONE) == bool(left and not found and not recorded)
    assert found == (cancelled & ours) - recorded - elsewhere
