"""Canaries: secret key, token and proxy password stand in nothing that a run leaves behind."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.stage import SECRET, Stage, devices, stage

_PASSWORD = "canary-proxy-password"
_DEBUG = {"PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1", "CANCEL_WORKER_LOG_LEVEL": "debug"}
_SOON = {"CANCEL_WORKER_RETRY_ATTEMPTS": "2", "CANCEL_WORKER_RETRY_ELAPSED": "2s"}


def _check(gateway: Stage, *ends: subprocess.CompletedProcess[str]) -> None:
    """Every stream and every file of the folder: ledger, its journal, log, reports."""
    told = [text.encode() for done in ends for text in (done.stdout, done.stderr)]
    files = [path for path in gateway.folder.rglob("*") if path.is_file()]
    told += [path.read_bytes() for path in files]
    canaries = [SECRET, _PASSWORD, *gateway.world.tokens._tokens]
    leaked = {canary for canary in canaries for text in told if canary.encode() in text}
    assert leaked == set()


@pytest.mark.parametrize("profile", ["flaky", "expiring", "lossy"])
def test_in_bad_weather(tmp_path: Path, profile: str) -> None:
    """Tokens that are withdrawn, broken replies: run, resume, verify, reports of every format."""
    with stage(tmp_path, profile, busy=0.6) as gateway:
        job = gateway.job("canary", devices(40), abort="off")
        formats = ("csv", "ndjson", "json", "restore", "remaining")
        reports = [part for f in formats for part in ("--report", f"{f}={tmp_path}/all.{f}")]
        ends = [gateway.command("run", job, "--yes", *reports, **_DEBUG)]
        ends += [
            gateway.command("resume", "last", "--yes", **_DEBUG),
            gateway.command("verify", "last", **_DEBUG),
            gateway.command("report", "last", "-o", "json"),
            gateway.command("runs", "-o", "json"),
        ]
        assert gateway.world.tokens._tokens  # or there was nothing to find
        _check(gateway, *ends)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "proxy"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "proxy"),
        (b"", "proxy"),
    ],
    ids=["407", "502", "closed"],
)
def test_at_a_proxy_that_refuses(tmp_path: Path, answer: bytes, cause: str) -> None:
    """The proxy's password comes from the environment and goes to the proxy alone."""
    with stage(tmp_path) as gateway, _listening(answer) as (port, heard):
        job = gateway.job("proxied", devices(3))
        environment = {
            "CANCEL_WORKER_GATEWAY_URL": "https://gateway.invalid",
            "CANCEL_WORKER_GATEWAY_PROXY": f"http://somebody:{_PASSWORD}@127.0.0.1:{port}",
        }
        done = gateway.command("run", job, "--yes", **environment, **_DEBUG, **_SOON)
        assert done.returncode == 5, done.stderr
        assert [each.split(b"\r\n")[0] for each in heard[:1]] == [
            b"CONNECT gateway.invalid:443 HTTP/1.1"
        ]
        _check(gateway, done)


def test_at_a_gateway_whose_tls_is_broken(tmp_path: Path) -> None:
    """Bytes that are no handshake: stopped, nothing sent, nothing told."""
    with stage(tmp_path) as gateway, _listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (port, _):
        job = gateway.job("broken", devices(3))
        url = {"CANCEL_WORKER_GATEWAY_URL": f"https://127.0.0.1:{port}"}
        done = gateway.command("run", job, "--yes", **url, **_DEBUG, **_SOON)
        assert done.returncode == 5, done.stderr
        _check(gateway, done)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CANCEL_WORKER_GATEWAY_URL", f"https://somebody:{_PASSWORD}@apim.example.com"),
        ("CANCEL_WORKER_GATEWAY_URL", "http://apim.example.com"),
        ("CANCEL_WORKER_GATEWAY_PROXY", f"socks5://somebody:{_PASSWORD}@127.0.0.1:1"),
        ("CANCEL_WORKER_GATEWAY_PROXY", f"http://somebody:{_PASSWORD}@[::1"),
        ("CANCEL_WORKER_LEDGER_URL", f"postgresql://somebody:{_PASSWORD}@127.0.0.1/l"),
        ("CANCEL_WORKER_LEDGER_URL", f"sqlite://somebody:{_PASSWORD}@host/x.db"),
    ],
)
def test_in_a_refused_configuration(tmp_path: Path, name: str, value: str) -> None:
    """Row 90: user-info, plain http and unknown kinds are refused (2) without being quoted."""
    with stage(tmp_path) as gateway:
        job = gateway.job("refused", devices(1))
        done = gateway.command("run", job, "--yes", **{name: value})
        assert done.returncode == 2, done.stderr
        assert gateway.world.truth().requests == {}
        _check(gateway, done)


@pytest.mark.parametrize(
    "line", ["secret_key: x", "gateway: {url: 'https://a.example.com'}", "url: https://a.b"]
)
def test_a_job_has_no_place_for_secrets_or_endpoints(tmp_path: Path, line: str) -> None:
    """Rows 89, 90: a job that names a gateway or a key is refused before anything is sent."""
    with stage(tmp_path) as gateway:
        job = gateway.job("named", devices(1))
        job.write_text(f"{job.read_text()}{line}\n")
        done = gateway.command("run", job, "--yes")
        assert done.returncode == 2
        assert gateway.world.truth().requests == {}


def test_no_flag_takes_a_secret(tmp_path: Path) -> None:
    """Row 89: an argument list is everybody's to read."""
    with stage(tmp_path) as gateway:
        for command in ("run", "resume", "verify", "plan"):
            words = gateway.command(command, "--help", COLUMNS="200").stdout.lower()
            assert not [w for w in ("secret", "password", "token", "--key") if w in words]


def test_the_simulator_names_only_its_own_keys(tmp_path: Path) -> None:
    """`simulate` and a rehearsal have keys of their own; the configured ones are not read."""
    with stage(tmp_path) as gateway:
        job = gateway.job("rehearsed", devices(5))
        done = gateway.command("run", job, "--rehearse", "--faults", "flaky", **_DEBUG)
        assert done.returncode in (0, 3, 4, 5), done.stderr
        assert gateway.world.truth().requests == {}
        process = gateway.start("simulate")
        assert process.stdout is not None
        first = process.stdout.readline()
        process.terminate()
        rest, errors = process.communicate(timeout=30)
        assert first.startswith("url")
        told = subprocess.CompletedProcess([], 0, first + rest, errors)
        _check(gateway, done, told)


def test_a_canary_that_got_out_is_found(tmp_path: Path) -> None:
    """The search itself: one byte string in one file of one run is enough."""
    with stage(tmp_path) as gateway:
        quiet = subprocess.CompletedProcess([], 0, "", "")
        _check(gateway, quiet)
        with pytest.raises(AssertionError):
            _check(gateway, subprocess.CompletedProcess([], 0, "", f"Error('{_PASSWORD}')"))
        (tmp_path / "all.csv").write_text(f"a,{SECRET}\n")
        with pytest.raises(AssertionError):
            _check(gateway, quiet)


@contextmanager
def _listening(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A port that hears one request a connection, answers and closes."""
    heard: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                heard.append(connection.recv(65536))
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], heard
        finally:
            server.shutdown(socket.SHUT_RDWR)
    thread.join(10)
