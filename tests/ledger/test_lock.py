"""Row 82: one run of a job at a time on one ledger, and no stale locks."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from worker.errors import NotNowError, UsageError
from worker.ledger.lock import is_locked, job_lock, locked_by
from worker.ledger.store import Store

HOLDER = """
import sys, time
from worker.ledger.lock import job_lock
with job_lock(sys.argv[1], "nightly", "r-held"):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(url: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()


def test_second_process(url: str) -> None:
    """The second run of a job is told which run holds the lock; another job is free."""
    holder = hold(url)
    with pytest.raises(NotNowError) as raised, job_lock(url, "nightly", "r2"):
        pass
    assert str(raised.value) == (
        "another run of job nightly is at work on this ledger: r-held "
        f"(process {holder.pid}): wait for its end, or stop it"
    )
    assert (locked_by(url, "nightly"), is_locked(url, "nightly")) == ("r-held", True)
    with job_lock(url, "other", "r3"):
        assert locked_by(url, "other") == "r3"
    end(holder)
    with job_lock(url, "nightly", "r2"):
        assert locked_by(url, "nightly") == "r2"
    assert not is_locked(url, "nightly")


def test_killed(url: str) -> None:
    """The lock of a process that was killed is free at once."""
    holder = hold(url)
    holder.send_signal(signal.SIGKILL)
    end(holder)
    with job_lock(url, "nightly", "r2"):
        assert locked_by(url, "nightly") == "r2"


def test_within_one_process(url: str) -> None:
    """A process cannot hold one lock twice either."""
    with (
        job_lock(url, "nightly", "r1"),
        pytest.raises(NotNowError, match="r1"),
        job_lock(url, "nightly", "r2"),
    ):
        pass


def test_free_after_an_error(url: str) -> None:
    """Leaving the block in any way frees the lock."""
    with pytest.raises(ZeroDivisionError), job_lock(url, "nightly", "r1"):
        raise ZeroDivisionError
    assert locked_by(url, "nightly") is None


def test_file(url: str, path: Path) -> None:
    """The lock stands beside the ledger, for its owner alone, and keeps only the last holder."""
    for run_id in ("a-long-run-id", "r2"):
        with job_lock(url, "nightly", run_id):
            pass
    file = path.with_name("ledger.db.nightly.lock")
    assert file.read_text() == f"{os.getpid()} r2\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_holder_just_starting(url: str, path: Path) -> None:
    """Between taking the lock and writing the name, the holder is still a holder."""
    file = os.open(path.with_name("ledger.db.nightly.lock"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(NotNowError, match="just starting"), job_lock(url, "nightly", "r2"):
        pass
    os.close(file)


def test_temporary_ledger() -> None:
    """A ledger without a file has no lock and needs none."""
    with job_lock("sqlite://", "nightly", "r1"), job_lock("sqlite://", "nightly", "r2"):
        assert not is_locked("sqlite://", "nightly")


def test_looking_never_refuses_a_run(url: str) -> None:
    """Somebody who lists runs all the time never makes a run refuse to start."""
    with job_lock(url, "nightly", "r0"):
        pass
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            is_locked(url, "nightly")

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for number in range(300):
            with job_lock(url, "nightly", f"r{number}"):
                pass
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


def test_names(url: str, path: Path) -> None:
    """Each job has its own file beside the ledger; the gate before them is the ledger's."""
    with job_lock(url, "a", "r1"), job_lock(url, "a.lock", "r2"):
        names = sorted(file.name for file in path.parent.iterdir())
    assert names == ["ledger.db.a.lock", "ledger.db.a.lock.lock", "ledger.db.lock"]


def test_no_place(tmp_path: Path) -> None:
    """A lock that cannot be written is a matter of usage, said before anything is sent."""
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UsageError, match=r"lock .*file/l.db.lock: "),
        job_lock(f"sqlite:///{tmp_path}/file/l.db", "j", "r"),
    ):
        pass


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_two_names_of_one_ledger(tmp_path: Path, kind: str) -> None:
    """Row 98: a ledger that is reached by a link has the lock of the real one."""
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / "ledger.db"
    Store.open(f"sqlite:///{real}").close()
    if kind == "file":
        other = tmp_path / "other.db"
        other.symlink_to("real/ledger.db")
    else:
        (tmp_path / "linked").symlink_to("real")
        other = tmp_path / "linked" / "ledger.db"
    with (
        job_lock(f"sqlite:///{real}", "nightly", "r1"),
        pytest.raises(NotNowError, match="r1"),
        job_lock(f"sqlite:///{other}", "nightly", "r2"),
    ):
        pass
    with job_lock(f"sqlite:///{other}", "nightly", "r2"):
        assert locked_by(f"sqlite:///{real}", "nightly") == "r2"
    assert not [file for file in tmp_path.iterdir() if "lock" in file.name]


_LINK = "a symbolic link, which a lock never is: remove it"
_FOREIGN = "not a lock of ours: move it away, or give another ledger.url"


@pytest.mark.parametrize("name", ["ledger.db.nightly.lock", "ledger.db.lock"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "file"])
def test_what_is_not_a_lock(url: str, path: Path, name: str, kind: str) -> None:
    """Row 98: what lies in a lock's place and is not ours is refused by name, and not changed."""
    place, foreign = path.with_name(name), path.with_name("job.yaml")
    foreign.write_text("name: nightly\n")
    if kind == "link":
        place.symlink_to(foreign)
    elif kind == "dangling link":
        place.symlink_to(path.with_name("nothing"))
    elif kind == "hard link":
        place.hardlink_to(foreign)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        foreign = place
        place.write_text("name: nightly\n")
    before = {file.name for file in path.parent.iterdir()}
    with pytest.raises(UsageError) as raised, job_lock(url, "nightly", "r1"):
        pass
    said = _LINK if kind in ("link", "dangling link") else _FOREIGN
    assert str(raised.value) == f"lock {place}: {said}"
    assert foreign.read_text() == "name: nightly\n"
    made = {file.name for file in path.parent.iterdir()} - before
    assert made <= {"ledger.db.lock"}
    assert not is_locked(url, "nightly")
