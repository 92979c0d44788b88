"""The bundled simulator in the gateway's place: no credentials, nothing real is touched.

Every wait is a tenth, so that a rehearsal is over soon; what can go wrong is the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec.structs import replace

from worker.cli.engine import Place, target_of
from worker.clock import Clock
from worker.config import Settings
from worker.errors import UsageError
from worker.gateway.token import Credentials
from worker.gateway.transport import TransportSettings
from worker.ledger.store import Store
from worker.model import Rehearsal, RunRecord, Secret
from worker.run.reconcile import LookupRules
from worker.run.retry import RetryRules
from worker.simulator.compare import compare
from worker.simulator.faults import PROFILES
from worker.simulator.serve import serve
from worker.simulator.world import World

SEED = 1
_SCALE = 0.1
_ACCESS, _SECRET = "rehearsal-access-key", "rehearsal-secret-key"  # of the simulator only


def rehearsal(profile: str | None, seed: int | None) -> Rehearsal:
    """The rehearsal that was asked for; UsageError for a profile that there is not."""
    name = profile or "calm"
    if name not in PROFILES:
        raise UsageError(f"--faults {name}: there are {', '.join(PROFILES)}")
    return Rehearsal(name, SEED if seed is None else seed)


@asynccontextmanager
async def rehearse(
    record: RunRecord, store: Store, settings: Settings, concurrency: int, clock: Clock
) -> AsyncIterator[tuple[World, Place]]:
    """A simulator seeded with the run's own targets, and how to reach it."""
    asked = record.rehearsal or Rehearsal("calm", SEED)
    world = World(
        clock,
        asked.seed,
        profile=PROFILES[asked.profile],
        access_key=_ACCESS,
        secret_key=_SECRET,
        scale=_SCALE,
    )
    for row in store.rows(record.run_id):
        world.seed_target(target_of(row))
    async with serve(world) as url:
        yield world, _place(url, settings, concurrency)


def judge(asked: Rehearsal, world: World, store: Store, run_id: str) -> Rehearsal:
    """Compare the report with what the simulator knows that it did."""
    differences = tuple(compare(world, store.rows(run_id)))
    return replace(asked, truth_matches=not differences, differences=differences)


def _place(url: str, settings: Settings, concurrency: int) -> Place:
    gateway = settings.gateway
    return Place(
        transport=TransportSettings(url=url, connections=concurrency),
        credentials=Credentials(Secret(_ACCESS), Secret(_SECRET)),
        request_timeout=30.0 * _SCALE,
        retry=_quick(settings.retry),
        lookup=LookupRules(settings.lookup.wait * _SCALE, settings.lookup.tries),
        drain=settings.drain * _SCALE,
        by_id=gateway is not None and gateway.options.cancel_all == "by_id",
    )


def _quick(rules: RetryRules) -> RetryRules:
    return replace(
        rules,
        wait_initial=rules.wait_initial * _SCALE,
        wait_max=rules.wait_max * _SCALE,
        elapsed=rules.elapsed * _SCALE,
        ambiguous_window=rules.ambiguous_window * _SCALE,
        retry_after_max=rules.retry_after_max * _SCALE,
        cooldown=rules.cooldown * _SCALE,
    )
