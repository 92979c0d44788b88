"""What a single reply must lead to, by the class of evidence that the matrix gives its fault.

A target that was called once, in a world without a crash, has no history that could excuse its
outcome. The class is the gateway's word (`fates`), not the worker's.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tests.simulation.names import DIFFER

if TYPE_CHECKING:
    from tests.simulation.truth import Exchange, Key
    from tests.simulation.world import World

_OPEN = {"unknown", "cancelled_incomplete"}


def outcomes(world: World) -> dict[int, int]:
    """Check every target that was called once; how many that were, by the row of its fault."""
    checked: dict[int, int] = defaultdict(int)
    if len(world.starts) != 1 or world.twins(world.starts[0].listing):
        return checked
    keys = world.starts[0].listing.keys
    by_key: dict[Key, list[Exchange]] = defaultdict(list)
    for exchange in world.gateway.exchanges:
        by_key[exchange.key].append(exchange)
    for outcome in world.starts[0].settled:
        exchanges = by_key[keys[outcome.target.ordinal]]
        cancels = [e for e in exchanges if e.kind == "cancel"]
        calls = [e for e in cancels if e.proof != "TK"]
        if len(cancels) > len(calls) + 1:
            continue  # each 401 but the first is an attempt, too
        if len(calls) != 1 or calls[0].commandId is not None or not calls[0].row:
            continue
        call, kind = calls[0], outcome.kind.value
        if call.thing is not None and call.thing.bug:
            continue
        checked[call.row] += 1
        allowed = _allowed(call, looked_up=any(_answers(e, call) for e in exchanges))
        if world.setup.names == DIFFER:
            allowed |= {"anomalous"}
        if kind not in allowed:
            said = f"row {call.row} ({call.fault}, {call.proof}) made target"
            world.wrong(4, f"{said} {outcome.target.ordinal} {kind}, not {sorted(allowed)}")
    return checked


def _answers(search: Exchange, call: Exchange) -> bool:
    late = call.ended is not None and search.begun >= call.ended
    return search.kind == "search" and search.proof == "OK" and late


def _allowed(call: Exchange, *, looked_up: bool) -> set[str]:
    if call.anomaly and call.fault != "other_command":  # which a cancel of all cannot tell
        return {"anomalous"}
    match call.proof:
        case "OK":
            return {"cancelled" if call.delivered else "nothing_cached"}
        case "RJ":
            return {"rejected", "not_found"}
        case "TR" | "NS":
            return {"failed"}
        case _ if looked_up:
            return _OPEN | {"cancelled", "nothing_cached", "failed"}
        case _:
            return _OPEN
