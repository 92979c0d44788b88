"""Starts the real command fast: the imports are done once, and each start is a fork of that.

`python -m tests.system.stories.nursery` reads a JSON request a line and answers with a JSON line.
A child is a process of its own with its own environment, folder, files and exit code; only what
a kill within the first half second would hit - the imports - is gone. It is reaped when it is
waited for and not before, so that a kill by its number can never hit another process.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, cast

from worker.cli import main as command_line

_SIGNALS = {signal.SIGINT, signal.SIGTERM}
_READY = "ready\n"
ROOT = Path(__file__).parents[3]


class Nursery:
    """The forking process, seen from outside."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.stories.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        assert self._process.stdout is not None
        assert self._process.stdout.readline() == _READY

    def __enter__(self) -> Nursery:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        output: Path,
        errors: Path,
    ) -> int:
        """Start the command with its stdout and stderr in these files; its process number."""
        return cast(
            "int",
            self._ask(
                start=list(arguments),
                environment=dict(environment),
                folder=str(folder),
                output=str(output),
                errors=str(errors),
            ),
        )

    def poll(self, process: int) -> int | None:
        """The exit code (a signal's is negative), or None while it runs; asked once after it."""
        return cast("int | None", self._ask(poll=process))

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _serve() -> None:
    gc.freeze()
    sys.stdout.write(_READY)
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        answer = _poll(request["poll"]) if "poll" in request else _start(request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _poll(process: int) -> int | None:
    found, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _start(request: dict[str, Any]) -> int:
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the child is the command
    process = os.fork()
    if process == 0:
        _become(request)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return process


def _become(request: dict[str, Any]) -> NoReturn:
    """In the child: be the command and nothing else."""
    code = 1
    try:
        output, errors = (
            os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for name in ("output", "errors")
        )
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (errors, 2)):
            os.dup2(source, target)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the process lasts
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["cancel-worker", *request["start"]]
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as worker.__main__ does
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        command_line()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the child must never go on as the nursery
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
