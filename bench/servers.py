"""The servers that peers are measured against: nginx plain and TLS, and one with a fixed delay.

nginx answers every device at once from one core, three of ten with one cancelled command, in 559
bytes each. It makes the commandId from the deviceKey, so that every id is its device's own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import trustme
from msgspec import Struct

_BODY = 559  # bytes of every reply
_WAIT = 10.0  # seconds for a server to listen

_URLS = {"plain": "http://127.0.0.1:{port}", "TLS": "https://localhost:{port}"}
_EMPTY = '{"code":0,"msg":"OK","submsg":"%s","requestId":"$request_id","data":[]}'
_ONE = (
    '{"code":0,"msg":"OK","submsg":"%s","requestId":"$request_id","data":[{"commandId":'
    '"$arg_deviceKey","orgId":"$arg_orgId","productKey":"$arg_productKey","deviceKey":'
    '"$arg_deviceKey","assetId":"oxWwM9i5","createTime":1560505243577,"createLocalTime":'
    '1560505243577,"commandType":1,"commandName":{"defaultValue":"Int_value","i18nValue":'
    '{"en_US":"Int_value"}},"timeout":1,"pendingTtl":6000,"state":1,"tslIdentifier":'
    '"Int_value","inputData":222}]}'
)
_TOKEN = (
    '{"status":0,"msg":"SUCCESS","business":"","data":{"accessToken":"bench-token","expire":7200}}'
)
_CONF = """
worker_processes 1; daemon off; master_process off; pid nginx.pid; error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; default_type
  application/json; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fast;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  map $arg_deviceKey $has {{ default 0; "~[0-2]$" 1; }}
  server {{
    listen 127.0.0.1:{plain} backlog=4096; listen 127.0.0.1:{tls} ssl backlog=4096;
    ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;
    location /apim-token-service/ {{ return 200 '{token}'; }}
    location /connect-service/ {{
      if ($has) {{ return 200 '{one}'; }}
      return 200 '{empty}';
    }}
  }}
}}
"""


class Servers(Struct, frozen=True):
    """Where they listen."""

    plain: str  # base URL
    tls: str
    ca_file: str
    late: dict[tuple[int, str], str]  # (ms, "plain" or "TLS") -> base URL of who answers so late
    ceiling: float | None  # requests per second that nginx answers, by wrk; None: no wrk here


@contextmanager
def served(core: str | None, delays: tuple[int, ...] = ()) -> Iterator[Servers]:
    """All servers, pinned to `core`, for as long as the block lasts."""
    if shutil.which("nginx") is None:
        raise SystemExit("bench: nginx is needed (Debian: apt-get install nginx-light)")
    with TemporaryDirectory() as folder:
        ca = trustme.CA()
        certificate = ca.issue_cert("127.0.0.1", "localhost")
        certificate.private_key_pem.write_to_path(f"{folder}/server.key")
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(f"{folder}/server.pem", append=True)
        ca.cert_pem.write_to_path(f"{folder}/ca.pem")
        plain, tls = free_port(), free_port()
        conf = Path(folder, "nginx.conf")
        conf.write_text(_conf(folder, plain, tls))
        started = [_start(core, ["nginx", "-p", folder, "-c", str(conf)])]
        late: dict[tuple[int, str], str] = {}
        for delay, way in product(delays, ("plain", "TLS")):
            port = free_port()
            late[delay, way] = _URLS[way].format(port=port)
            command = [sys.executable, "-m", "bench.late", str(port), str(delay)]
            started.append(_start(core, [*command, *(["--tls", folder] if way == "TLS" else [])]))
        try:
            for port in (plain, tls, *(int(url.rpartition(":")[2]) for url in late.values())):
                await_port(port)
            base = _URLS["plain"].format(port=plain)
            over_tls = _URLS["TLS"].format(port=tls)
            yield Servers(base, over_tls, f"{folder}/ca.pem", late, _ceiling(base))
        finally:
            for process in started:
                process.terminate()
                process.wait(10)


def _conf(folder: str, plain: int, tls: int) -> str:
    return _CONF.format(
        folder=folder, plain=plain, tls=tls, token=_TOKEN, one=_padded(_ONE), empty=_padded(_EMPTY)
    )


def _padded(reply: str) -> str:
    """The reply, as long as every other: its submsg is filled up."""
    shown = reply % ""
    for name, length in (("$request_id", 32), ("$arg_deviceKey", 19), ("$arg_orgId", 2)):
        shown = shown.replace(name, "x" * length)
    shown = shown.replace("$arg_productKey", "pk1")
    return reply % ("x" * (_BODY - len(shown)))


def _start(core: str | None, command: list[str]) -> subprocess.Popen[bytes]:
    pinned = ["taskset", "-c", core, *command] if core is not None else command
    return subprocess.Popen(pinned, stdout=subprocess.DEVNULL)


def _ceiling(base: str) -> float | None:
    """What nginx answers at most, measured by wrk from the other core."""
    if shutil.which("wrk") is None:
        return None
    url = f"{base}/connect-service/v2.1/commands?action=cancel&orgId=o1&deviceKey=17"
    done = subprocess.run(
        ["wrk", "-t1", "-c64", "-d3s", url], capture_output=True, text=True, check=True
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("Requests/sec"))
    return float(line.split()[1])


def free_port() -> int:
    """A loopback port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int) -> None:
    """Wait until somebody listens there."""
    until = time.monotonic() + _WAIT
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"bench: nothing listens on port {port} after {_WAIT:.0f} s")


def cores() -> tuple[str | None, str | None]:
    """A core for the servers and one for the client; None where there is only one."""
    there = sorted(os.sched_getaffinity(0))
    return (str(there[-1]), str(there[0])) if len(there) > 1 else (None, None)
