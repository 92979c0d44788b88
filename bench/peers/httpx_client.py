"""httpx, asynchronous, with a pool as large as the others'."""

from __future__ import annotations

import asyncio
import ssl

import httpx

from bench.peers.frame import measure, task, whole

_TASK = task()


async def _send() -> int:
    limits = httpx.Limits(max_connections=_TASK.connections)
    verify = ssl.create_default_context(cafile=_TASK.ca_file) if _TASK.ca_file else True
    gate = asyncio.Semaphore(_TASK.connections)
    answered = 0
    async with httpx.AsyncClient(limits=limits, verify=verify, timeout=30) as client:

        async def one(url: str) -> None:
            nonlocal answered
            async with gate:
                reply = await client.post(url)
            answered += whole(reply.content)

        async with asyncio.TaskGroup() as group:
            for url in _TASK.urls():
                group.create_task(one(url))
    return answered


measure(lambda: asyncio.run(_send()))
