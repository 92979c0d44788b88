"""The command line: the only place that wires the parts together.

`app` has the commands and their options, `planning` turns jobs into frozen runs, `engine` works
one off, `series` does what surrounds it (confirm, lock, report, exit code), `rehearsal` swaps the
gateway for the simulator, `showing` reads the ledger.
"""

from worker.cli.app import main

__all__ = ["main"]
