"""The command line as a whole."""

from __future__ import annotations

import signal
import subprocess
import sys

_BUGGY = r"""
import sys
from worker.cli import history, main
def broken(*_, **__):
    raise RuntimeError("canary \x1b[2J")
history.runs = broken
sys.argv = ["cancel-worker", "runs"]
main()
"""


def test_a_bug_is_named_by_its_class_and_place_never_by_its_text() -> None:
    """The text of an exception may hold a secret, or what a gateway wrote."""
    done = subprocess.run(
        [sys.executable, "-c", _BUGGY], capture_output=True, text=True, check=False
    )
    first, *places = done.stderr.splitlines()
    assert first == "internal error: RuntimeError; please report it with these lines"
    assert places[-1] == "  <string>:5 in broken"
    assert "canary" not in done.stderr
    assert (done.returncode, done.stdout) == (1, "")


_LOADING = """
import signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "worker.cli":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
from worker.__main__ import main
main()
"""


def test_an_interrupt_while_the_program_loads_has_no_traceback() -> None:
    """Loading takes half a second, in which nothing needs an end of its own."""
    done = subprocess.run([sys.executable, "-c", _LOADING], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
