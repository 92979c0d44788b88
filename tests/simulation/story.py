"""A world as people read it: one line an event, requests by number, targets by their place."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from msgspec.structs import asdict

from tests.simulation.campaign import judge
from tests.simulation.world import World


def tell(seed: int, transport: str, *, verbose: bool) -> int:
    """Print the timeline of a seed; 1 when something is wrong in it."""
    world, rows = judge(seed, transport)
    lines = [f"world {seed} ({transport}): {_in_short(world)}"]
    if verbose:
        lines += [f"    {name} = {value}" for name, value in asdict(world.setup).items()]
    lines += [_line(*event) for event in world.trace]
    lines.append(f"matrix rows: {', '.join(f'{row} x{n}' for row, n in sorted(rows.items()))}")
    for start in world.starts:
        tally = {kind: number for kind, number in (start.tally or {}).items() if number}
        ended = "crashed" if start.crashed else f"exit {start.code}"
        lines.append(f"start {start.number} of run {start.run_id}: {ended}, {tally}")
    for invariant, said in world.violations:
        lines.append(f"VIOLATION of invariant {invariant}: {said}")
    lines.append(f"trace {world.hash()}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if world.violations else 0


def _in_short(world: World) -> str:
    setup = world.setup
    how = "by id" if setup.by_id else setup.scope
    return (
        f"{setup.kind}, {len(world.listing.rows)} targets {how}, concurrency {setup.concurrency}, "
        f"weather {setup.weather.cancel or 'calm'}, crashes {list(setup.crashes) or 'none'}"
    )


def _line(at: float, what: str, *said: Any) -> str:
    told = _TOLD.get(what)
    words = told(*said) if told else " ".join(map(str, said))
    return f"{at:12.6f}  {what:10} {words}"


def _request(number: int, kind: str, *rest: Any) -> str:
    if kind == "token":
        return f"#{number} a token"
    *key, commandId, state = rest
    what = f"state {state}" if kind == "search" else f"command {commandId or 'all'}"
    return f"#{number} {kind} {'/'.join(key)} {what}"


def _reply(number: int, status: int, fault: str | None, drawn: str, ids: tuple[str, ...]) -> str:
    got = f"HTTP {status}" if status else "nothing"
    broke = f", {fault}" if fault else ""
    drew = f" (drawn: {drawn})" if drawn != "ok" else ""
    return f"#{number} {got}{broke}{drew}{' ids ' + ' '.join(ids) if ids else ''}"


_TOLD: dict[str, Callable[..., str]] = {
    "request": _request,
    "reply": _reply,
    "executed": lambda number, ids: f"#{number} cancels {' '.join(ids) or 'nothing'}",
    "settled": lambda ordinal, kind, cause: f"target {ordinal}: {kind} {cause or ''}",
    "durable": lambda ordinal, ids, kind: f"target {ordinal}: {kind or 'doubt'} {' '.join(ids)}",
    "arrived": lambda number: f"#{number} at the gateway",
    "retry": lambda ordinal, wait: f"target {ordinal} in {wait} s",
}
