"""The configuration: file, environment and flags, merged into the settings of each part.

`options` says what there is, `kinds` how each value is written, `sources` reads, `limits` and
`settings` hold what comes of it, `file` finds the file, `keys` opens the secret ones. No part
imports config: each gets its own values in its constructor.
"""

from worker.config.limits import Limits, resolve_limits
from worker.config.options import config_schema
from worker.config.settings import Gateway, Ledger, Settings, load_settings

__all__ = [
    "Gateway",
    "Ledger",
    "Limits",
    "Settings",
    "config_schema",
    "load_settings",
    "resolve_limits",
]
