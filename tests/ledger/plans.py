"""Small plans and records, so that a test says only what it is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from worker.ledger.entry import Claim, ClaimedTarget, Deferral, DoubtMark, Entry, Granted, NewRun
from worker.ledger.store import Store
from worker.model import (
    AllCached,
    AssetId,
    Command,
    CommandResult,
    Device,
    DeviceKey,
    Identity,
    Outcome,
    OutcomeKind,
    Rehearsal,
    Target,
)

Staged = tuple[int, int, int, str | None, str | None, str | None, str | None]


def staged(name: str, line: int = 1, source: int = 0, ids: str | None = None) -> Staged:
    """A row for a device of product `p`; a name such as `@a1` is an assetId."""
    if name.startswith("@"):
        return (source, line, 5, None, None, name[1:], ids)
    return (source, line, 5, "p", name, None, ids)


def new_run(
    run_id: str = "r1",
    job: str = "nightly",
    *,
    scope: str = "all_cached",
    orgId: str = "o1",
    rehearsal: bool = False,
    planned_ms: int = 1000,
    gateway: str = "prod https://gw",
) -> NewRun:
    return NewRun(
        run_id=run_id,
        job=job,
        reason="CHG-1",
        actor="me@host",
        orgId=orgId,
        gateway=gateway,
        scope=scope,
        version="0.1",
        planned_ms=planned_ms,
        settings=b'{"rate":1}',
        rehearsal=Rehearsal("calm", 7) if rehearsal else None,
    )


def plan(store: Store, names: Sequence[str], run_id: str = "r1", **more: Any) -> str:
    """Freeze a plan of these devices and start it."""
    with store.draft() as draft:
        draft.add([staged(name, line) for line, name in enumerate(names, 1)])
        store.freeze(draft, new_run(run_id, **more), ["a.yaml"])
    store.start(run_id, 2000)
    return run_id


def devices(count: int) -> list[str]:
    return [f"d{number}" for number in range(count)]


def claim(
    store: Store,
    count: int = 0,
    *,
    run_id: str = "r1",
    pass_no: int = 1,
    members: tuple[int, ...] | None = None,
    limit: int | None = None,
    now_ms: int = 5000,
) -> list[ClaimedTarget]:
    asked = Claim(pass_no, count=count, members=members, limit=limit)
    return store.commit(run_id, [], asked, now_ms=now_ms).targets


def record(store: Store, *entries: Entry, run_id: str = "r1", now_ms: int = 6000) -> Granted:
    return store.commit(run_id, entries, now_ms=now_ms)


def told(commandId: str, result: str = "cancelled", **said: Any) -> CommandResult:
    """What a reply said of one command."""
    command = Command(commandId, **said)
    return CommandResult(command, result, "response", "req-1", 1)  # type: ignore[arg-type]


def outcome(
    ordinal: int,
    kind: str = "nothing_cached",
    *ids: str,
    pass_no: int = 1,
    device: Device | None = None,
    identity: Identity | None = None,
    **said: Any,
) -> Entry:
    """A settled target."""
    target = Target(ordinal, device or DeviceKey("p", f"d{ordinal}"), "o1", AllCached(), "a:1")
    verdict = Outcome(
        target=target,
        kind=OutcomeKind(kind),
        commands=tuple(told(commandId) for commandId in ids),
        told=identity or Identity(),
        attempts=1,
        evidence="response",
        http_status=200,
        code=0,
        requestId="req-1",
        duration_ms=12,
    )
    if said:
        verdict = replace(verdict, **said)
    return Entry(ordinal, pass_no, (), verdict)


def mark(ordinal: int, pass_no: int = 1, first: int = 5100, last: int = 5200) -> Entry:
    return Entry(ordinal, pass_no, (), DoubtMark(first, last, 1, "disconnected"))


def put_off(ordinal: int, pass_no: int = 1) -> Entry:
    return Entry(ordinal, pass_no, (), Deferral("throttled", 4))


def counted(store: Store, run_id: str = "r1") -> dict[str, int]:
    """The counts that are not zero."""
    return {kind.value: number for kind, number in store.counts(run_id).items() if number}


def asset(name: str) -> AssetId:
    return AssetId(name)
