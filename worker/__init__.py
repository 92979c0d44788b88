"""cancel-worker: withdraw the commands that wait for offline devices on EnOS, and prove it."""

__version__ = "0.1.0"
