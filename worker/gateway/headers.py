"""What a reply's headers say of time: how long to wait, and how late it is there. Pure."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from functools import lru_cache

_SECONDS = re.compile(r"[0-9]+")  # ASCII only; int() would read ١٢ and １２ too
_MOST_DIGITS = 9
_IMF_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
    r" ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"


def retry_after(value: str | None, date: str | None) -> float | None:
    """Seconds that a Retry-After header asks for; None when it asks for nothing usable.

    A moment counts from the reply's own Date, so that neither clock matters. More than nine
    digits is `inf`: nobody waits for that, and nobody may ignore it.
    """
    value = (value or "").strip(" \t")
    if _SECONDS.fullmatch(value):
        seconds = math.inf if len(value) > _MOST_DIGITS else float(value)
    else:
        until, now = imf_date_ms(value), imf_date_ms(date)
        seconds = 0.0 if until is None or now is None else (until - now) / 1000
    return seconds if seconds > 0 else None


@lru_cache(maxsize=16)  # a server says the same for a second
def imf_date_ms(value: str | None) -> int | None:
    """Unix milliseconds of an IMF-fixdate (`Sun, 06 Nov 1994 08:49:37 GMT`), else None."""
    match = _IMF_DATE.fullmatch((value or "").strip(" \t"))
    if match is None:
        return None
    day, month, year, hour, minute, second = match.groups()
    try:
        moment = datetime(
            int(year),
            _MONTHS.index(month) // 3 + 1,
            int(day),
            int(hour),
            int(minute),
            int(second),
            tzinfo=UTC,
        )
    except ValueError:  # the 31st of February
        return None
    return int(moment.timestamp()) * 1000
