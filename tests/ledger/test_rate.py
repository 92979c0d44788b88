"""The estimate behind how much may be claimed ahead."""

from __future__ import annotations

from tests.gateway.fake_clock import FakeClock
from worker.ledger.rate import SettleRate


def test_rate() -> None:
    """The first window of 0.1 s or more, half of each new one; groups within one are added up."""
    clock = FakeClock()
    rate = SettleRate(clock)
    seen = []
    for ms, settled in ((10, 500), (191, 505), (201, 0), (50, 25), (51, 26), (10_000, 0)):
        clock.pass_ms(ms)
        rate.settled(settled)
        seen.append(round(rate.per_second))
    assert seen == [0, 5000, 2500, 2500, 1502, 751]
