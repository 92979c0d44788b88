"""Everything a story needs around it: the gateway on its sockets, the way to it, processes."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.system.stories.faults import AtProxy, Exchange
from tests.system.stories.fleet import Fleet
from tests.system.stories.gateway import SECRET, Gateway
from tests.system.stories.nursery import ROOT, Nursery
from tests.system.stories.plot import REQUEST_TIMEOUT, Plot, Signal, devices
from tests.system.stories.sockets import (
    PROXY_PASSWORD,
    PROXY_USER,
    Connection,
    Port,
    Proxies,
    server_tls,
)
from tests.system.stories.weather import Weather

_PATIENCE = 90.0  # s that one start may take
_QUIET = 1.5  # s that connections of a dead process may last
_TICK = 0.002  # s between two looks
_AGAIN = 0.1  # s from one SIGINT to the next


class Start(Struct, eq=False):
    """One process of the worker."""

    number: int
    arguments: tuple[str, ...]
    jobs: tuple[str, ...]  # names of the jobs that it may work on
    signal: Signal | None
    began: float
    ended: float = 0.0
    code: int = 0
    signalled: float | None = None  # when the (first) signal was sent
    killed: bool = False
    output: str = ""
    errors: str = ""
    runs: tuple[str, ...] = ()  # run_ids
    resumed: bool = False
    retried: frozenset[str] = frozenset()  # outcomes that may be called again

    @property
    def documents(self) -> list[dict[str, Any]]:
        """What it printed, a document a run; empty where that is not JSON."""
        found: list[dict[str, Any]] = []
        with suppress(ValueError):
            for line in self.output.splitlines():
                said = json.loads(line)
                found += said.get("runs", [said])
        return found


class Theatre:
    """The stage of one story, for as long as it is open."""

    def __init__(self, plot: Plot, folder: Path, nursery: Nursery) -> None:
        self.plot = plot
        self.folder = folder
        self.ledger = folder / "ledger.db"
        self.log = folder / "log.ndjson"
        self._backup = folder / "backup.db"
        self.wrong: list[str] = []  # what sockets and proxies saw and should not
        self.starts: list[Start] = []
        self.weather = Weather(plot.seed, plot.showers)
        self.fleet = Fleet(devices(plot, time.time()), plot.lag)
        self.gateway = Gateway(plot.seed, self.fleet, plot.laws)
        self._nursery = nursery
        self._proxies = Proxies(self.wrong)
        self._refusing: set[asyncio.Task[None]] = set()
        self._fresh: dict[int, asyncio.subprocess.Process] = {}
        self.stalled = 0.0  # s that this process was kept from its work, at most

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Theatre]:
        """Listen; needs the running loop."""
        ca_file = self.folder / "ca.pem"
        secure = self.plot.way in ("tls", "tunnel")
        tls = server_tls(ca_file) if secure else None
        self._trap = Port(self._trapped, lambda sock: True)
        self._port = Port(self._serve, self._meet, tls)
        self._proxy = Port(self._serve_proxy, lambda sock: True)
        scheme = "https" if secure else "http"
        self.url = f"{scheme}://127.0.0.1:{self._port.number}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "CANCEL_WORKER_GATEWAY_URL": self.url,
            "CANCEL_WORKER_GATEWAY_NAME": "story",
            "CANCEL_WORKER_GATEWAY_SECRET_KEY": SECRET,
            "CANCEL_WORKER_LEDGER_URL": f"sqlite:///{self.ledger}",
            "CANCEL_WORKER_LOG_FILE": str(self.log),
            **self.plot.environment(),
        }
        if secure:
            self.environment["CANCEL_WORKER_GATEWAY_CA_FILE"] = str(ca_file)
        if self.plot.way in ("tunnel", "forward"):
            proxy = f"http://{PROXY_USER}:{PROXY_PASSWORD}@127.0.0.1:{self._proxy.number}"
            self.environment["CANCEL_WORKER_GATEWAY_PROXY"] = proxy
        watch = asyncio.ensure_future(self._watch())
        try:
            yield self
        finally:
            watch.cancel()
            for task in list(self._refusing):
                task.cancel()
            for port in (self._proxy, self._port, self._trap):
                await port.close()

    # ------------------------------------------------------------ processes

    async def start(
        self,
        *arguments: str | Path,
        jobs: Sequence[str],
        end: Signal | None = None,
        retried: frozenset[str] = frozenset(),
        linked: bool = False,
        lost: str | None = None,
    ) -> Start:
        """Run the command to its end, and send it its signal on the way.

        linked: it knows the ledger by another name. lost: what happens to the ledger's file.
        """
        made = Start(
            number=len(self.starts) + 1,
            arguments=tuple(map(str, arguments)),
            jobs=tuple(jobs),
            signal=end,
            began=time.time(),
            resumed=arguments[0] == "resume",
            retried=retried,
        )
        self.starts.append(made)
        output, errors = (self.folder / f"{name}{made.number}" for name in ("stdout", "stderr"))
        process = await self._launch(made, output, errors, linked=linked)
        over = asyncio.ensure_future(_gone(process))
        sender = asyncio.ensure_future(self._signal(made, process)) if end else None
        if lost is not None:
            sender = asyncio.ensure_future(self._lose(made, lost))
        try:
            await asyncio.wait_for(asyncio.shield(over), _PATIENCE)
        except TimeoutError:
            self.wrong.append(f"start {made.number} did not end within {_PATIENCE:g} s")
            os.kill(process, signal.SIGKILL)
            made.killed = True
            await over
        finally:
            if sender is not None:
                sender.cancel()
        made.code = await self._reap(process)
        made.ended = time.time()
        made.output, made.errors = _text(output), _text(errors)
        return made

    async def quiet(self) -> None:
        """Return when nothing of a dead process is under way any more."""
        await _until(lambda: not (self._port.busy or self._proxy.busy), _QUIET)

    async def back_up(self) -> None:
        """Copy the ledger as it is when the first cancel has arrived."""
        await _until(lambda: bool(self.gateway.counts[len(self.starts), "cancel"]))
        with (
            closing(sqlite3.connect(self.ledger)) as ledger,
            closing(sqlite3.connect(self._backup)) as copy,
        ):
            ledger.backup(copy)

    def restore(self) -> bool:
        """Put the copy in the ledger's place; False where none was made."""
        if not self._backup.exists():
            return False
        for side in ("", "-wal", "-shm"):
            self.ledger.with_name(self.ledger.name + side).unlink(missing_ok=True)
        self._backup.rename(self.ledger)
        return True

    async def _launch(self, made: Start, output: Path, errors: Path, *, linked: bool) -> int:
        environment = {
            **self.environment,
            "CANCEL_WORKER_GATEWAY_ACCESS_KEY": f"story-{made.number}",
        }
        if linked:
            other = self.folder / "other.db"
            if not other.is_symlink():
                self.ledger.touch(0o600)
                other.symlink_to(self.ledger)
            environment["CANCEL_WORKER_LEDGER_URL"] = f"sqlite:///{other}"
        if not self.plot.fresh:
            arguments = list(made.arguments)
            return self._nursery.start(arguments, environment, self.folder, output, errors)
        with output.open("wb") as out, errors.open("wb") as err:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "worker",
                *made.arguments,
                env=environment,
                cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self._fresh[process.pid] = process
        return process.pid

    async def _reap(self, process: int) -> int:
        if process in self._fresh:
            return await self._fresh[process].wait()
        code = self._nursery.poll(process)
        assert code is not None  # it is over
        return code

    async def _signal(self, made: Start, process: int) -> None:
        """Wait for the moment, and send."""
        assert made.signal is not None
        logged = self.log.stat().st_size if self.log.exists() else 0
        await _until(lambda: self._due(made, logged))
        await asyncio.sleep(made.signal.delay)
        kind = made.signal.kind
        number = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}.get(kind, signal.SIGINT)
        made.signalled = time.time()
        made.killed = kind == "KILL"
        with suppress(ProcessLookupError):
            os.kill(process, number)
            if kind == "INT2":
                await asyncio.sleep(_AGAIN)
                os.kill(process, number)

    async def _lose(self, made: Start, how: str) -> None:
        """Once something was sent, the ledger is no longer where it was."""
        await _until(lambda: self.gateway.counts[made.number, "cancel"] >= 1)
        made.signalled = time.time()
        if how == "removed":
            for path in self.folder.glob("ledger.db*"):
                path.unlink()
        else:
            for path in self.folder.glob("ledger.db*"):
                path.rename(path.with_name(f"moved-{path.name}"))
        if how == "replaced":
            self.ledger.write_bytes(b"")

    def _due(self, made: Start, logged: int) -> bool:
        assert made.signal is not None
        match made.signal.after:
            case "":
                return True
            case "settled":
                return self._logged(logged, b'"event":"command.cancelled"')
            case "finished":
                return self._logged(logged, b'"event":"run.finished"')
        return self.gateway.counts[made.number, made.signal.after] >= made.signal.count

    def _logged(self, after: int, what: bytes) -> bool:
        if not self.log.exists() or self.log.stat().st_size <= after:
            return False
        with self.log.open("rb") as file:
            file.seek(after)
            return what in file.read()

    async def _watch(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.02)
            self.stalled = max(self.stalled, time.monotonic() - before - 0.02)

    # ------------------------------------------------------------ the sockets

    def _meet(self, sock: socket.socket) -> bool:
        fault = self.weather.strikes("accept")
        if fault is None and self.plot.way in ("tls", "tunnel"):
            fault = self.weather.strikes("tls")
        return fault is None or bool(fault.play(sock))

    async def _serve(self, connection: Connection) -> None:
        while True:
            request = await connection.read()
            call = self.gateway.arrive(request, longest=REQUEST_TIMEOUT)
            about = str(call.spelling or "")
            fault = self.weather.strikes(call.kind, about, call.nth)
            chance = self.weather.chance(call.kind, about, call.nth)
            exchange = Exchange(
                self.gateway, connection, request, call, chance, f"http://{self._trap_host()}"
            )
            exchange.refuse = self._refuse
            if fault is not None:
                call.fault = fault.name
                go_on = await fault.play(exchange)
            else:
                go_on = await exchange.answer()
            if not go_on or request.headers.get("connection") == "close":
                return

    async def _serve_proxy(self, connection: Connection) -> None:
        way = self.plot.way
        fault = self.weather.strikes(way)
        if fault is not None:
            await fault.play(AtProxy(connection, self.weather.chance(way, "", 0)))
        elif way == "tunnel":
            await self._proxies.tunnel(connection, self._port.number)
        else:
            await self._proxies.forward(connection, self._port.number)

    async def _trapped(self, connection: Connection) -> None:
        self.wrong.append("a redirect was followed")
        await connection.until_closed()

    def _trap_host(self) -> str:
        return f"127.0.0.1:{self._trap.number}"

    def _refuse(self, seconds: float) -> None:
        if not self._refusing:
            task = asyncio.ensure_future(self._port.refuse(seconds))
            self._refusing.add(task)
            task.add_done_callback(self._refusing.discard)


def _text(path: Path) -> str:
    """What is in a file; nothing where the process died before it made one."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


async def _until(true: Callable[[], bool], seconds: float = math.inf) -> None:
    """Return when it is true, or after so long: what other processes do tells nobody."""
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(_TICK)


async def _gone(process: int) -> None:
    """Return when a process has ended, whoever its parent is."""
    loop = asyncio.get_running_loop()
    handle = os.pidfd_open(process)
    over = asyncio.Event()
    loop.add_reader(handle, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
