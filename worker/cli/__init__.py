"""The command line: the only place that wires the parts together.

`app` has the commands and their options; `sending`, `resuming`, `searching` and `looking` are the
commands; `planning` turns jobs into frozen runs, `engine` works one off, `series` does what
surrounds it (begin, end, report, exit code), `signals` owns SIGINT, SIGTERM and SIGHUP,
`rehearsal` swaps the gateway for the simulator.
"""

from worker.cli.app import main

__all__ = ["main"]
