"""pycurl's multi interface: libcurl with nothing around it."""

from __future__ import annotations

from io import BytesIO

import pycurl

from bench.peers.frame import measure, task, whole

_TASK = task()


def _handle() -> pycurl.Curl:
    handle = pycurl.Curl()
    handle.setopt(pycurl.POST, 1)
    handle.setopt(pycurl.POSTFIELDS, "")
    if _TASK.ca_file:
        handle.setopt(pycurl.CAINFO, _TASK.ca_file)
    return handle


def _send() -> int:
    multi = pycurl.CurlMulti()
    left = iter(_TASK.urls())
    bodies: dict[pycurl.Curl, BytesIO] = {}
    answered = 0

    def begin(handle: pycurl.Curl) -> None:
        url = next(left, None)
        if url is None:
            bodies.pop(handle, None)
            return
        bodies[handle] = BytesIO()
        handle.setopt(pycurl.URL, url)
        handle.setopt(pycurl.WRITEDATA, bodies[handle])
        multi.add_handle(handle)

    for _ in range(_TASK.connections):
        begin(_handle())
    while bodies:
        while multi.perform()[0] == pycurl.E_CALL_MULTI_PERFORM:
            pass
        _, done, failed = multi.info_read()
        for handle, *_ in failed:
            multi.remove_handle(handle)
            begin(handle)
        for handle in done:
            answered += whole(bodies[handle].getvalue())
            multi.remove_handle(handle)
            begin(handle)
        if not done and not failed:
            multi.select(1.0)
    return answered


measure(_send)
