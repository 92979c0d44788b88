"""The compact set: it behaves as a dict of counters would, in a fraction of the memory."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from tests.simulator.support import new_world, target
from worker.simulator.roster import Roster

KEYS = st.integers(1, 40) | st.integers(1, 2**64 - 1)


@given(st.lists(st.tuples(st.sampled_from(["add", "first", "second"]), KEYS), max_size=200))
def test_it_behaves_like_a_dict(steps: list[tuple[str, int]]) -> None:
    """Whatever the order of adding and counting, members and counts agree with a dict."""
    roster, plain = Roster(counters=2), dict[int, list[int]]()
    for step, key in steps:
        if step == "add":
            assert roster.add(key) == (key not in plain)
            plain.setdefault(key, [0, 0])
        else:
            counter = step == "second"
            if key in plain:
                plain[key][counter] += 1
            assert roster.bump(key, counter) == (plain[key][counter] if key in plain else 0)
    assert len(roster) == len(plain)
    for _, key in steps:
        assert (key in roster) == (key in plain)
        assert [roster.count(key, at) for at in (0, 1)] == plain.get(key, [0, 0])


def test_it_grows_and_keeps_its_counts() -> None:
    """Members and counts outlive the growing of the table."""
    roster = Roster(counters=1)
    for key in range(1, 10_001):
        roster.add(key << 20)
        if key % 3 == 0:
            roster.bump(key << 20, 0)
    assert len(roster) == 10_000
    assert all(roster.count(k << 20, 0) == (k % 3 == 0) for k in range(1, 10_001))
    assert roster.size / len(roster) <= 10 * 3


def test_a_counter_stops_at_its_most() -> None:
    """A count never wraps around."""
    roster = Roster(counters=1)
    roster.add(5)
    for _ in range(70_000):
        last = roster.bump(5, 0)
    assert last == 65_535


def test_a_large_fleet_with_nothing_cached_is_small() -> None:
    """200,000 seeded devices take at most 42 bytes each."""
    world = new_world(busy=0.0)
    tracemalloc.start()
    for at in range(200_000):
        world.seed_target(target(at))
    used, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(world.fleet) == 200_000
    assert used / 200_000 < 42
    assert peak / 200_000 < 70
