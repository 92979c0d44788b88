"""How calls are spelled: the short way for the usual one says what the general way says."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.gateway.signing import encode_query, joined
from worker.gateway.spelling import spell_cancel, spell_search
from worker.model import AssetId, CancelAll, CancelOne, DeviceKey

TEXT = st.text("aZ0._-&=+%/ :é设\0", min_size=1, max_size=8)


@given(orgId=TEXT, product=TEXT, device=TEXT)
@example("o1", "pk1", "mqtt_01")
@example("o1", "pk1", "a&commandId=1")
@example("o 1", "pk1", "mqtt_01")
def test_a_cancel_all_says_its_parameters(orgId: str, product: str, device: str) -> None:
    """Row 68: what is on the wire reads back as the parameters, and these are signed."""
    pairs = [
        ("action", "cancel"), ("orgId", orgId), ("productKey", product), ("deviceKey", device),
    ]  # fmt: skip
    query, parameters, body = spell_cancel(CancelAll(DeviceKey(product, device), orgId))
    assert (query, parameters, body) == (encode_query(pairs), joined(pairs), b"")
    assert parse_qsl(query, keep_blank_values=True, strict_parsing=True) == pairs


def test_other_calls() -> None:
    """By assetId, for one command, and a search with its body."""
    assert spell_cancel(CancelAll(AssetId("a1"), "o1")) == (
        "action=cancel&orgId=o1&assetId=a1", "actioncancelassetIda1orgIdo1", b"",
    )  # fmt: skip
    assert spell_cancel(CancelOne(DeviceKey("p", "d"), "o1", "17")) == (
        "action=cancel&orgId=o1&productKey=p&deviceKey=d&commandId=17",
        "actioncancelcommandId17deviceKeydorgIdo1productKeyp",
        b"",
    )
    assert spell_search(AssetId("a1"), "o1", 2, 3) == (
        "action=search&orgId=o1&assetId=a1",
        "actionsearchassetIda1orgIdo1",
        b'{"expression":"state = 2","pagination":{"pageNo":3,"pageSize":50}}',
    )


@pytest.mark.parametrize(
    "call",
    [
        CancelAll(DeviceKey("p", ""), "o1"),
        CancelAll(DeviceKey("", "d"), "o1"),
        CancelAll(DeviceKey("p", "d"), ""),
        CancelAll(AssetId(""), "o1"),
        CancelOne(DeviceKey("p", "d"), "o1", ""),
    ],
)
def test_a_lost_value_is_refused(call: CancelAll | CancelOne) -> None:
    """No call goes out that means more than was asked."""
    with pytest.raises(ValueError, match="no value"):
        spell_cancel(call)
