"""The worker with everything on: token, signature, claims, ledger, log, observers, rate, deadline.

The list is planned before; what is timed is the request phase, as for the other peers.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from bench.peers.frame import FIRST, Task, cpu, report
from worker.cli.app import seldom_collect
from worker.cli.engine import Engine, Place, Work
from worker.cli.terms import Terms
from worker.cli.watch import Watch
from worker.clock import SystemClock
from worker.config import Limits
from worker.gateway.token import Credentials
from worker.gateway.transport import TransportSettings
from worker.ledger.entry import NewRun
from worker.ledger.store import Store
from worker.model import OutcomeKind, RunRecord, Secret
from worker.observe.log import open_log
from worker.observe.progress import Progress
from worker.observe.runlog import RunLog
from worker.run.reconcile import LookupRules
from worker.run.retry import RetryRules
from worker.run.session import Leg

_CHUNK = 1_000
_UNREACHED = 1_000_000.0  # a second: the limiter works, and never holds anything back
_DEADLINE = 3_600.0  # s


def run(task: Task, ledger: str, *, rate: float = _UNREACHED) -> dict[str, float]:
    """Plan the devices in `ledger`, then send; figures of the request phase."""
    clock = SystemClock()
    store = Store.open(ledger)
    began = time.perf_counter()
    terms = Terms(
        limits=Limits(
            concurrency=task.connections,
            rate=rate,
            max_devices=task.devices,
            deadline=_DEADLINE,
        ),
        verify="none",
        verify_written=False,
        abort=None,
        sources=(),
    )
    record = plan(store, task.devices, terms, clock)
    planned = time.perf_counter() - began
    place = Place(
        transport=TransportSettings(
            url=task.base, connections=task.connections, ca_file=task.ca_file
        ),
        credentials=Credentials(Secret("bench-access"), Secret("bench-secret")),
        request_timeout=30.0,
        retry=RetryRules(),
        lookup=LookupRules(),
        drain=8.0,
    )
    folder = Path(ledger.removeprefix("sqlite:///")).parent
    log = open_log(file=str(folder / f"{record.run_id}.log"), clock=clock)
    runlog = RunLog(log, clock, record.run_id, record.job, record.orgId)
    watch = Watch(runlog, Progress(task.devices, {}, None, clock))
    engine = Engine(store, clock)
    store.start(record.run_id, clock.wall_ms())
    used, wall = cpu(), time.perf_counter()
    anyio.run(engine.work, Work(record, terms, (Leg(1),)), place, watch)
    used, wall = cpu() - used, time.perf_counter() - wall
    log.close()
    counts = store.counts(record.run_id)
    answered = counts[OutcomeKind.CANCELLED] + counts[OutcomeKind.NOTHING_CACHED]
    store.close()
    return {"answered": answered, "cpu_s": used, "wall_s": wall, "plan_s": planned}


def plan(store: Store, devices: int, terms: Terms, clock: SystemClock) -> RunRecord:
    """Freeze a list of so many devices."""
    with store.draft() as draft:
        for at in range(0, devices, _CHUNK):
            numbers = range(at, min(at + _CHUNK, devices))
            draft.add([(0, n + 1, 1, "pk1", str(FIRST + n), None, None) for n in numbers])
        new = NewRun(
            run_id=clock.new_run_id(),
            job="bench",
            reason=None,
            actor="bench",
            orgId="o1",
            gateway="bench",
            scope="all_cached",
            version="bench",
            planned_ms=clock.wall_ms(),
            settings=terms.encode(),
        )
        store.freeze(draft, new, ["bench.yaml"])
    return store.run(new.run_id)


def main() -> None:
    """BASE DEVICES CONNECTIONS [CA_FILE], as every peer."""
    seldom_collect()
    base, devices, connections, *ca = sys.argv[1:]
    task = Task(base, int(devices), int(connections), ca[0] if ca else None)
    with TemporaryDirectory() as folder:
        found = run(task, f"sqlite:///{folder}/ledger.db")
    answered = int(found.pop("answered"))
    report(answered, found.pop("cpu_s"), found.pop("wall_s"), **found)


if __name__ == "__main__":
    main()
