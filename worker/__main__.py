"""`python -m worker` is `cancel-worker`."""

import signal


def main() -> None:
    """Load the command line and run it."""
    # Loading takes half a second; an interrupt in it ends the process, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from worker.cli import main as command_line  # noqa: PLC0415 - after the line above

    command_line()


if __name__ == "__main__":
    main()
