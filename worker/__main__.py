"""`python -m worker` is `cancel-worker`."""

from worker.cli import main

if __name__ == "__main__":
    main()
