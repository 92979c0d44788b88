"""requests in 32 threads, a session each."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import requests

from bench.peers.frame import measure, task, whole

_TASK = task()
_LOCAL = threading.local()


def _one(url: str) -> bool:
    if not hasattr(_LOCAL, "session"):
        _LOCAL.session = requests.Session()
        _LOCAL.session.verify = _TASK.ca_file or True
    return whole(_LOCAL.session.post(url).content)


def _send() -> int:
    with ThreadPoolExecutor(32) as pool:
        return sum(pool.map(_one, _TASK.urls()))


measure(_send)
