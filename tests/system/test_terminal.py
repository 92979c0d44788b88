"""What a terminal receives when a gateway writes whatever it likes (row 103)."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.system.stage import ACCESS, COMMAND, ORG, SECRET

# Colours, and how rich draws its bar anew; a hostile text of this file never uses these.
_OURS = re.compile(r"\x1b\[[0-9;]*m|\r?\x1b\[2K|\x1b\[1A|\x1b\[\?25[lh]|\r\n|\r(?=\x1b|[━╸╺ ])")
_RAW = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)
_HOSTILE = (
    "\x1b[2J\x1b]0;title\x07",
    "\nDONE\n",
    "\r\nexit code 0",
    "\x9b31m\x85",
    "\u202eevil\u2066\u2028",
    "\x00\x08\x7f\t",
    "=cmd|'/C calc'!A1",
    "@SUM(1)",
    "\u200b\ufeff",
    "设备",
)


def _text(chance: random.Random) -> str:
    """Some hostile text, different for every use."""
    any_text = "".join(chr(chance.choice((chance.randrange(0x500), chance.randrange(0xD800)))))
    return "".join(chance.choices(_HOSTILE, k=3)) + any_text


class _Gateway(ThreadingHTTPServer):
    """Answers by the number in the deviceKey; every text of it is hostile."""

    daemon_threads = True

    def __init__(self, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.chance = random.Random(seed)
        self.lock = threading.Lock()

    def text(self) -> str:
        with self.lock:
            return _text(self.chance)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Gateway

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        if "token" in self.path:
            return self._say(
                {"status": 0, "msg": "OK", "data": {"accessToken": "t", "expire": 9e3}}
            )
        text = self.server.text
        named = {"msg": text(), "requestId": text(), "submsg": text()}
        number = int(query.get("deviceKey", "0"))
        command = {name: query[name] for name in ("orgId", "productKey", "deviceKey")}
        command |= {"tslIdentifier": text(), "inputData": text()}
        if query["action"] == "search":
            return self._say({"code": 99403, **named}, 403)
        if number % 4 == 1:
            return self._say({"code": 99400, **named})
        if number % 4 == 2:
            return self._say({"code": 77777, **named}, 500)
        if number == 99:  # anomalous: the run stops and says why
            return self._say({"code": 0, **named, "data": [{**command, "commandId": text()}]})
        ids = [f"{number:04}{at}" for at in range(3)]
        return self._say({"code": 0, **named, "data": [{**command, "commandId": i} for i in ids]})

    def _say(self, document: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def _serving(seed: int) -> Iterator[str]:
    server = _Gateway(seed)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _in_terminal(folder: Path, url: str, *words: str) -> tuple[int, str]:
    """Run the command with a terminal at all three ends; its exit code, what was received."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "CANCEL_WORKER_GATEWAY_URL": url,
        "CANCEL_WORKER_GATEWAY_ACCESS_KEY": ACCESS,
        "CANCEL_WORKER_GATEWAY_SECRET_KEY": SECRET,
        "CANCEL_WORKER_LEDGER_URL": f"sqlite:///{folder}/ledger.db",
        "CANCEL_WORKER_LOOKUP_WAIT": "10ms",
        "CANCEL_WORKER_RETRY_PASSES": "0",
        "CANCEL_WORKER_RETRY_WAIT_INITIAL": "10ms",
        "CANCEL_WORKER_LIMITS_RATE": "none",
        "CANCEL_WORKER_LOG_LEVEL": "debug",
    }
    with subprocess.Popen(
        [*COMMAND, *words], cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        received = b""
        while True:
            try:
                data = os.read(ours, 65_536)
            except OSError:  # the last one at the other end has gone
                break
            if not data:
                break
            received += data
        os.close(ours)
    return process.returncode, received.decode("utf-8", "surrogateescape")


def _raw(received: str) -> list[str]:
    """What is left that steers a terminal, with what stands around it."""
    rest = _OURS.sub("\n", received)
    return [rest[max(0, found.start() - 40) : found.end() + 20] for found in _RAW.finditer(rest)]


def test_nothing_that_a_gateway_writes_steers_a_terminal(tmp_path: Path) -> None:
    """Row 103: log, bar, summary, every report, find, runs, verify and JSON, all on a terminal."""
    jobs = {"plain": range(24), "broken": [3, 99, 7]}
    for name, numbers in jobs.items():
        devices = "".join(f'  - {{productKey: p, deviceKey: "{n}"}}\n' for n in numbers)
        (tmp_path / f"{name}.yaml").write_text(
            f"name: {name}\norgId: {ORG}\nscope: all_cached\nabort: off\ndevices:\n{devices}"
        )
    received: list[str] = []
    with _serving(seed=7) as url:
        for words in (
            "run plain.yaml --yes --concurrency 1",
            "report last",
            "report last -f csv",
            "report last -f ndjson",
            "report last -f json",
            "report last -f restore",
            "report last -f remaining",
            "find deviceKey=1",
            "find commandId=00030 -o json",
            "runs",
            "verify last -o json",
            "run plain.yaml --yes -o json --log-format json",
            "run broken.yaml --yes --concurrency 1",
            "report last -f csv",
            "plan plain.yaml --preview",
        ):
            code, text = _in_terminal(tmp_path, url, *words.split())
            assert code in {0, 4, 5, 7}, text  # 7: a preview whose searches are refused
            received.append(text)
            assert (words, _raw(text)) == (words, [])
            assert not {"DONE", "exit code 0"} & {line.rstrip() for line in text.split("\n")}
    assert all(received)
    assert "STOPPED FOR SAFETY: anomaly" in "".join(received)
    assert "\\x1b[2J" in "".join(received)
