"""The installed command as a container would run it: PID 1, uid 10001, read-only root.

There is no container engine here, so a root of our own is put together in fresh namespaces: the
system's folders, Python, the virtual environment and this tree, all bound read-only, and one
folder that may be written to. Capabilities are dropped and no new privileges can be had.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest

from worker.ledger.store import Store
from worker.model import OutcomeKind

ROOT = Path(__file__).parents[2]
UID = 10001
STATE = "/var/lib/cancel-worker"
COMMAND = Path(sys.prefix) / "bin/cancel-worker"
TOOLS = ("unshare", "setpriv", "mount", "chroot")
# $1 the new root, $2 the folder that may be written to, $3 … what else is bound, then -- COMMAND
INSIDE = f"""
set -euo pipefail
root=$1 state=$2; shift 2
bind() {{ mkdir -p "$root$1"; mount --bind "$1" "$root$1"; mount -o remount,bind,ro "$root$1"; }}
mount --make-rprivate /
mount -t tmpfs -o mode=0755 none "$root"
for folder in /bin /sbin /lib /lib64 /usr /etc; do [ ! -d "$folder" ] || bind "$folder"; done
while [ "$1" != -- ]; do bind "$1"; shift; done; shift
mkdir -p "$root/proc" "$root/dev" "$root{STATE}"
mount -t proc none "$root/proc"
touch "$root/dev/null"; mount --bind /dev/null "$root/dev/null"
mount --bind "$state" "$root{STATE}"
mount -o remount,ro "$root"
exec chroot "$root" setpriv --reuid {UID} --regid {UID} --clear-groups --no-new-privs \
  --bounding-set=-all --inh-caps=-all -- "$@"
"""
JOB = """name: long
orgId: o1
scope: all_cached
devices:
  - {{productKey: bXuuAiku, deviceKeys: [{keys}]}}
limits: {{rate: 20/s, concurrency: 4}}
"""


@pytest.fixture(autouse=True)
def _tools() -> None:
    """Root, the tools and the installed command; in CI their lack is a failure."""
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        lacking.append("root")
    if not COMMAND.exists():
        lacking.append("an installed cancel-worker")
    if lacking and os.environ.get("CI"):
        pytest.fail(f"CI lacks {', '.join(lacking)}")
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The one folder that may be written to."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    os.chown(folder, UID, UID)
    return folder


@contextmanager
def container(tmp_path: Path, state: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """The command in its own root; killed at the end if it still runs."""
    root = tmp_path / "root"
    root.mkdir()
    bound = [sys.base_prefix, sys.prefix, str(ROOT)]
    inside = [str(root), str(state), *bound, "--", *command]
    environment = {
        "PATH": f"{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "STATE_DIRECTORY": STATE,
        "SQLITE_TMPDIR": STATE,
        "TMPDIR": STATE,
    }
    new_root = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
    process = subprocess.Popen(
        [*new_root, "bash", "-c", INSIDE, "inside", *inside],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def outcomes(ledger: Path) -> int:
    """How many outcomes are durable; 0 while there is no ledger yet."""
    try:
        with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM outcome").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def first_process(unshare: int) -> int:
    """The process that is PID 1 inside, as it is numbered outside."""
    return int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text())


def test_root_is_read_only_and_powers_are_gone(tmp_path: Path, state: Path) -> None:
    """What the other tests stand on: nothing but the one folder can be written, by nobody."""
    script = (
        "echo $$ $(id -u); awk '$4 !~ /^ro/ { print $2 }' /proc/self/mounts; "
        "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status | tr -s '\\t' ' '"
    )
    with container(tmp_path, state, "sh", "-c", script) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == [
        f"1 {UID}",
        "/proc",
        "/dev/null",
        STATE,
        "CapEff: 0000000000000000",
        "CapBnd: 0000000000000000",
        "NoNewPrivs: 1",
    ]


def test_rehearsal_succeeds(tmp_path: Path, state: Path) -> None:
    """A rehearsal needs no place to write but the state folder, and ends with 0."""
    job = str(ROOT / "jobs/example.yaml")
    with container(tmp_path, state, str(COMMAND), "run", job, "--rehearse") as process:
        out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert out.splitlines()[0] == "REHEARSAL DONE"


async def test_sigterm_leaves_a_complete_ledger(tmp_path: Path, state: Path) -> None:
    """SIGTERM to PID 1 in mid-job: exit code 143, and every target has its outcome."""
    keys = ", ".join(f"meter_{number:03}" for number in range(600))
    (state / "long.yaml").write_text(JOB.format(keys=keys))
    command = [str(COMMAND), "run", f"{STATE}/long.yaml", "--rehearse"]
    ledger = state / "ledger.db"
    with container(
        tmp_path, state, *command, "--ledger", f"sqlite:///{STATE}/ledger.db"
    ) as process:
        with anyio.fail_after(60):
            while outcomes(ledger) < 5:
                assert process.poll() is None, process.communicate()[1]
                await anyio.sleep(0.05)
        os.kill(first_process(process.pid), signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    store = Store.open(f"sqlite:///{ledger}")
    try:
        (record,) = store.runs()
        counts = store.counts(record.run_id)
        in_doubt = store.in_doubt(record.run_id)
    finally:
        store.close()
    assert record.end is not None
    assert (record.state, record.end.exit_code, in_doubt) == ("stopped", 143, [])
    assert sum(counts.values()) == 600
    assert counts[OutcomeKind.NOT_ATTEMPTED] > 0
    assert "STOPPED BY SIGTERM" in out
