"""A server that answers every call after a fixed delay: `python -m bench.late PORT MS`.

`--first` prints the monotonic moment of the first call to the connect service; `--tls FOLDER`
speaks TLS with the server.pem and server.key that stand there.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import time
from pathlib import Path

_TOKEN = (
    b'{"status":0,"msg":"SUCCESS","business":"","data":{"accessToken":"bench-token","expire":7200}}'
)
_EMPTY = b'{"code":0,"msg":"OK","submsg":null,"requestId":"7d86a1b2c3d4","data":[]}'


class _Late(asyncio.Protocol):
    """Speaks just enough HTTP for one request at a time on a kept connection."""

    def __init__(self, delay: float, first: list[str]) -> None:
        self._delay = delay
        self._first = first
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, end, rest = self._seen.partition(b"\r\n\r\n")
        if not end:
            return
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        if len(rest) < length:
            return
        self._seen = rest[length:]
        token = b"token-service" in head.split(b"\r\n", 1)[0]
        if not token and self._first:
            print(time.monotonic(), flush=True)
            self._first.clear()
        body = _TOKEN if token else _EMPTY
        said = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        asyncio.get_running_loop().call_later(self._delay, self._say, said % len(body) + body)

    def _say(self, said: bytes) -> None:
        assert isinstance(self._transport, asyncio.Transport)
        if not self._transport.is_closing():
            self._transport.write(said)


async def _serve(port: int, delay: float, first: list[str], tls: Path | None) -> None:
    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls / "server.pem", tls / "server.key")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Late(delay, first), "127.0.0.1", port, backlog=4096, ssl=context
    )
    await server.serve_forever()


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.late", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("ms", type=int)
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--tls", type=Path)
    asked = parser.parse_args()
    first = ["to come"] if asked.first else []
    asyncio.run(_serve(asked.port, asked.ms / 1000, first, asked.tls))


if __name__ == "__main__":
    _main()
