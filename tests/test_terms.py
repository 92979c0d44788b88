"""What a run was agreed on comes back from the ledger word for word, or not at all."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from tests.ledger import history
from worker.cli.terms import Terms, terms_of
from worker.config import Limits
from worker.errors import UsageError
from worker.job.schema import Source
from worker.model import RunRecord
from worker.run.safety import AbortRules

AGREED = Terms(
    limits=Limits(max_commands=100, deadline=2700.0),
    verify="touched",
    verify_written=True,
    abort=AbortRules(),
    sources=(
        Source("jobs/nightly.yaml", "ab" * 32, 5),
        Source("jobs/fleet.csv", "cd" * 32, 3),
    ),
    settings={"limits.rate": "50/s", "ledger.keep_input": True},
)


def planned(settings: object) -> RunRecord:
    return RunRecord(
        run_id="r1",
        job="nightly",
        reason=None,
        actor="me@host",
        orgId="o1",
        gateway="gw",
        scope="all_cached",
        digest="",
        version="9.9",
        planned_ms=0,
        targets=1,
        settings=json.dumps(settings).encode(),
    )


def test_as_agreed() -> None:
    """What was encoded is what is read, today's and that of the first schema."""
    assert terms_of(planned(json.loads(AGREED.encode()))) == AGREED
    assert terms_of(planned(history.SETTINGS)) == AGREED


@pytest.mark.parametrize("place", [(), ("limits",), ("abort",), ("sources", 0)])
def test_a_field_of_another_version(place: tuple[Any, ...]) -> None:
    """A run is never worked off without something that it was agreed on."""
    settings: Any = json.loads(AGREED.encode())
    there = settings
    for step in place:
        there = there[step]
    there["window"] = {"opens": "02:00"}
    with pytest.raises(UsageError) as raised:
        terms_of(planned(settings))
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    assert str(raised.value) == (
        "run r1 was planned by cancel-worker 9.9, whose settings this version cannot read "
        f"(Object contains unknown field `window`{f' - at `${where}`' if place else ''}): "
        "use that version, or plan it anew"
    )


def test_every_part_is_strict() -> None:
    """Whatever joins the settings of a run refuses what it does not know."""
    seen: list[inspect.StructType] = []

    def walk(kind: object) -> None:
        if isinstance(kind, inspect.StructType):
            seen.append(kind)
            for field in kind.fields:
                walk(field.type)
        for name in ("types", "item_types"):
            for each in getattr(kind, name, ()):
                walk(each)
        if hasattr(kind, "item_type"):
            walk(kind.item_type)

    walk(inspect.type_info(Terms))
    lax = [kind.cls for kind in seen if not kind.forbid_unknown_fields]
    assert (lax, {kind.cls for kind in seen}) == ([], {Terms, Limits, AbortRules, Source})


def test_a_record_that_is_damaged() -> None:
    """Not JSON at all: refused with the same words."""
    record = msgspec.structs.replace(planned({}), settings=b'{"limits":')
    with pytest.raises(UsageError, match="this version cannot read"):
        terms_of(record)
