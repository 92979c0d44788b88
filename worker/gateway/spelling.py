"""How a call is spelled: its query, the same parameters as they are signed, its body. Pure.

Nearly every call is a cancel-all of one of a few products, so that all but the deviceKey is
encoded once; the general way spells the rest, and says the same of those.
Source: the vendor's Command pages.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from worker.gateway.signing import Pairs, encode_query, is_plain, joined
from worker.model import AssetId, CancelAll, CancelCall, CancelOne, Device, DeviceKey

PAGE_SIZE: Final = 50  # rows of a search, as the vendor advises

#: Query, signed parameters, body.
Spelled = tuple[str, str, bytes]


def spell_cancel(call: CancelCall) -> Spelled:
    """A cancel; all of it is in the query. ValueError where a value is empty."""
    device = call.device
    if type(call) is CancelAll and type(device) is DeviceKey:
        deviceKey = device.deviceKey
        stem = _stem(call.orgId, device.productKey)
        if stem is not None and is_plain(deviceKey):
            query, head, tail = stem
            return query + deviceKey, f"{head}{deviceKey}{tail}", b""
    pairs = [("action", "cancel"), ("orgId", call.orgId), *_identity(device)]
    if isinstance(call, CancelOne):
        pairs.append(("commandId", call.commandId))
    return encode_query(pairs), joined(pairs), b""


def spell_search(device: Device, orgId: str, state: int, page: int) -> Spelled:
    """One page (1, 2 …) of a device's commands in a state."""
    pairs = [("action", "search"), ("orgId", orgId), *_identity(device)]
    body = (
        f'{{"expression":"state = {state:d}",'
        f'"pagination":{{"pageNo":{page:d},"pageSize":{PAGE_SIZE}}}}}'
    )
    return encode_query(pairs), joined(pairs), body.encode()


@lru_cache(maxsize=256)
def _stem(orgId: str, productKey: str) -> tuple[str, str, str] | None:
    """A product's cancel-all without the deviceKey: of the query, before and behind it in what
    is signed; None where a value has to be encoded.
    """
    if not (is_plain(orgId) and is_plain(productKey)):
        return None
    query = f"action=cancel&orgId={orgId}&productKey={productKey}&deviceKey="
    return query, "actioncanceldeviceKey", f"orgId{orgId}productKey{productKey}"


def _identity(device: Device) -> Pairs:
    if isinstance(device, AssetId):
        return [("assetId", device.assetId)]
    return [("productKey", device.productKey), ("deviceKey", device.deviceKey)]
