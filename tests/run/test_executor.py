"""The course of one target against a gateway that keeps the truth."""

from __future__ import annotations

import pytest

from tests.run.fake_gateway import OK, lost
from tests.run.rig import Rig, device, whole


async def test_answered() -> None:
    """Row 75"""
    rig = Rig()
    rig.gateway.seed(device(), "1", "2")
    outcome = await rig.run(whole())
    assert outcome is not None
    assert outcome.kind == "cancelled"

async def test_lost() -> None:
    rig = Rig()
    rig.gateway.seed(device(), "1", "2")
    rig.gateway.cancels[device()] = [lost(), OK]
    outcome = await rig.run(whole())
    assert outcome is not None
    assert outcome.kind == "cancelled"
    assert outcome.evidence == "search"
