"""The gateway on HTTP: requests in, answers out, and answers that get lost on the way.

It knows sockets and nothing of commands; what is answered is `service.py`'s.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from email.utils import formatdate

from aiohttp import web

from worker.simulator.answers import Answer
from worker.simulator.requests import Ask, read_call
from worker.simulator.service import Service
from worker.simulator.world import World


def create_app(world: World) -> web.Application:
    """The gateway of this world as an application; one route, since the service has its own."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", _Face(world).handle)
    return app


class _Face:
    def __init__(self, world: World) -> None:
        self._world = world
        self._service = Service(world)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        body = await request.read()
        call = read_call(Ask(request.method, path, query, request.headers, body))
        transport = request.transport
        ticket = self._world.book.arrive(
            call.kind,
            self._service.key_of(call),
            lambda: transport is not None and not transport.is_closing(),
        )
        try:
            answer = self._service.answer(call)
            if answer.wait:
                await self._world.clock.sleep(answer.wait)
            return await self._send(request, answer)
        finally:
            self._world.book.leave(ticket)

    async def _send(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        date = formatdate(self._world.now_ms() // 1000, usegmt=True)
        headers = {**answer.headers, "Date": date, "Server": "simulator"}
        if answer.loss == "reset":
            _reset(request, hard=answer.hard)
        if answer.loss != "cut":
            return web.Response(status=answer.status or 503, body=answer.body, headers=headers)
        length = {"Content-Length": str(len(answer.body))}
        response = web.StreamResponse(status=answer.status, headers={**headers, **length})
        with suppress(ConnectionError):  # the caller left first
            await response.prepare(request)
            await response.write(answer.body[: int(len(answer.body) * answer.cut)])
        if request.transport is not None:
            request.transport.close()
        return response


def _reset(request: web.Request, *, hard: bool) -> None:
    """Close without an answer: by FIN, or by RST as a crashed peer does."""
    if request.transport is None:  # the caller left first
        return
    if hard:
        linger = struct.pack("ii", 1, 0)
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    request.transport.abort()
