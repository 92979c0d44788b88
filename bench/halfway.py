"""A run of which half is done, as a crash would leave it: what a resume starts from."""

from __future__ import annotations

from bench.peers.worker import plan
from worker.cli.terms import Terms
from worker.clock import SystemClock
from worker.config import Limits
from worker.ledger.entry import Claim, Entry
from worker.ledger.store import Store
from worker.model import Outcome, OutcomeKind
from worker.run.safety import AbortRules

_GROUP = 5_000


def half_done(ledger: str, devices: int) -> None:
    """Plan so many devices and settle the first half of them."""
    clock = SystemClock()
    store = Store.open(ledger)
    terms = Terms(
        limits=Limits(concurrency=64, rate=None, max_devices=devices),
        verify="none",
        verify_written=False,
        abort=AbortRules(),
        sources=(),
    )
    record = plan(store, devices, terms, clock)
    store.start(record.run_id, clock.wall_ms())
    for _ in range(devices // 2 // _GROUP):
        claim = Claim(pass_no=1, count=_GROUP)
        claimed = store.commit(record.run_id, [], claim, now_ms=clock.wall_ms()).targets
        outcomes = [Outcome(each.target, OutcomeKind.NOTHING_CACHED) for each in claimed]
        entries = [Entry(each.target.ordinal, 1, (), each) for each in outcomes]
        store.commit(record.run_id, entries, now_ms=clock.wall_ms())
    store.close()
