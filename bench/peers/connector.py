"""A bare loop at aiohttp's connector level: its pool and its parser, our bytes, nothing else."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from yarl import URL

from bench.peers.frame import measure, task, whole

_TASK = task()


async def _send() -> int:
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context(cafile=_TASK.ca_file) if _TASK.ca_file else True
    connector = aiohttp.TCPConnector(limit=_TASK.connections, ssl=context)
    base = URL(_TASK.base)
    place = ClientRequest("POST", base, loop=loop, ssl=context)
    host = f"{base.host}:{base.port}"
    left = iter(_TASK.targets())
    answered = 0

    async def lane() -> None:
        nonlocal answered
        for target in left:
            connection = await connector.connect(place, [], aiohttp.ClientTimeout())
            protocol = connection.protocol
            assert protocol is not None
            assert protocol.transport is not None
            protocol.set_response_params(read_until_eof=True, auto_decompress=False)
            head = f"POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"
            protocol.transport.write(head.encode())
            _, payload = await protocol.read()
            body = await payload.read()
            answered += whole(body)
            connection.release()

    async with asyncio.TaskGroup() as group:
        for _ in range(_TASK.connections):
            group.create_task(lane())
    await connector.close()
    return answered


measure(lambda: asyncio.run(_send()))
