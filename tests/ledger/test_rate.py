"""The estimate behind how much may be claimed ahead."""

from __future__ import annotations

from tests.gateway.fake_clock import FakeClock
from worker.ledger.rate import SettleRate


def test_rate() -> None:
    """Half of each new window of 0.2 s or more; groups within a window are added up."""
    clock = FakeClock()
    rate = SettleRate(clock)
    seen = []
    for ms, settled in ((10, 500), (191, 505), (201, 0), (100, 50), (301, 50), (10_000, 0)):
        clock.pass_ms(ms)
        rate.settled(settled)
        seen.append(round(rate.per_second))
    assert seen == [0, 2500, 1250, 1250, 750, 375]
