"""A bare loop over `session.post` behind a semaphore, as people write it, and nothing else."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp

from bench.peers.frame import measure, task, whole

_TASK = task()


async def _send() -> int:
    limit = asyncio.Semaphore(_TASK.connections)
    context = ssl.create_default_context(cafile=_TASK.ca_file) if _TASK.ca_file else True
    connector = aiohttp.TCPConnector(limit=_TASK.connections, ssl=context)
    answered = 0
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(url: str) -> None:
            nonlocal answered
            async with limit, session.post(url) as reply:
                body = await reply.read()
            answered += whole(body)

        async with asyncio.TaskGroup() as group:
            for url in _TASK.urls():
                group.create_task(one(url))
    return answered


measure(lambda: asyncio.run(_send()))
