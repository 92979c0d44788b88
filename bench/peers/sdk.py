"""The vendor's SDK in 32 threads. Importing it switches TLS verification off for the process."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from poseidon import poseidon

from bench.peers.frame import measure, task, whole

_TASK = task()
_KEY, _SECRET = "11111111-2222-3333-4444-555555555555", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"


def _one(url: str) -> bool:
    reply = poseidon.urlopen(_KEY, _SECRET, url, method="POST")
    return whole(json.dumps(reply, separators=(",", ":")).encode())


def _send() -> int:
    with ThreadPoolExecutor(32) as pool:
        return sum(pool.map(_one, _TASK.urls()))


measure(_send)
