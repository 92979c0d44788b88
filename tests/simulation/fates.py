"""What may become of a request: the faults of the matrix that a gateway or a network can show.

A fate is data: what happens before anything is written, what status and body come, how the reply
ends, whether it may have been executed, and which class of evidence a correct worker may see in
it. The class is stated here on its own, as a second opinion to `gateway.evidence`.
"""

from __future__ import annotations

from random import Random

from msgspec import Struct


class Fate(Struct, frozen=True):
    """One kind of misfortune."""

    name: str
    row: int  # of the matrix in docs/faults.md; 0: no fault
    proof: str = "AM"  # NS, RJ, TR, TK, OK, AM
    before: str | None = None  # the fault of a request that never went out
    status: int = 200
    body: str = "answer"
    code: int | None = None
    ending: str = "whole"  # whole, disconnect, hang, truncate, drip
    executes: float = 0.5  # how likely
    wait: str | None = None  # Retry-After: seconds, date, huge, junk
    stops: str | None = None  # the safety rule it must throw
    anomaly: bool = False


OK = Fate("ok", 0, "OK", executes=1.0)

_STATUSES = (408, 499, 500, 502, 504, 520, 521, 522, 524, 526, 527)


def _listed(*fates: Fate) -> dict[str, Fate]:
    return {fate.name: fate for fate in fates}


#: Faults of a cancel or a search alike.
WIRE = _listed(
    Fate("refused", 1, "NS", before="refused", executes=0),
    Fate("dns", 2, "NS", before="dns", executes=0),
    Fate("connect_timeout", 3, "NS", before="connect_timeout", executes=0),
    Fate("disconnect", 5, ending="disconnect"),
    Fate("lost", 41, ending="disconnect", executes=1.0),
    Fate("hang", 7, ending="hang"),
    Fate("drip", 8, ending="drip", executes=0.8),
    Fate("truncate", 10, ending="truncate", executes=0.8),
    Fate("bad_utf8", 13, body="garbage"),
    Fate("html_200", 14, body="html"),
    Fate("html_502", 15, status=502, body="html"),
    Fate("other_2xx", 16, status=204, body="empty"),
    Fate("status_5xx", 24, status=500, body="error"),
    Fate("status_503", 28, status=503, body="error"),
    Fate("code_99500", 24, code=99500, body="error"),
    Fate("code_unknown", 30, code=50_123, body="error"),
    Fate("throttled", 25, "TR", status=429, body="limit", executes=0),
    Fate("throttled_after", 26, "TR", status=429, body="limit", executes=0, wait="seconds"),
    Fate("throttled_date", 26, "TR", status=429, body="limit", executes=0, wait="date"),
    Fate("throttled_junk", 27, "TR", status=429, body="limit", executes=0, wait="junk"),
    Fate("busy_after", 26, status=503, body="error", wait="seconds"),
    Fate("throttled_huge", 27, "TR", status=429, body="limit", executes=0, wait="huge"),
    Fate("slow", 29, "OK", executes=1.0),
)
#: Of a cancel alone.
CANCEL = WIRE | _listed(
    Fate("no_data", 74, body="null"),
    Fate("foreign", 71, "OK", body="foreign", executes=1.0, stops="anomaly", anomaly=True),
    Fate("nameless", 72, "OK", body="nameless", executes=1.0),
    Fate("repeated", 73, "OK", body="repeated", executes=1.0),
    Fate("other_command", 78, "OK", body="other", executes=1.0, stops="anomaly", anomaly=True),
    Fate("bad_id", 80, "OK", body="bad_id", executes=1.0, stops="anomaly", anomaly=True),
    Fate("numeric_id", 80, "OK", body="numeric", executes=1.0),
    Fate("redirect", 17, status=307, body="empty", stops="redirect"),
    Fate("code_1203", 30, "TK", code=1203, body="error", executes=0),
)
#: Of a search alone.
SEARCH = WIRE | _listed(
    Fate("denied", 22, "RJ", status=403, body="limit", executes=0),
    Fate("denied_code", 22, "RJ", code=99403, body="error", executes=0),
)
#: How a device is refused for good.
CURSES = _listed(
    Fate("forbidden", 22, "RJ", status=403, body="limit", executes=0),
    Fate("forbidden_code", 22, "RJ", code=99403, body="error", executes=0),
    Fate("wrong_path", 23, "RJ", status=404, body="html", executes=0),
    Fate("not_found", 23, "RJ", code=99404, body="error", executes=0),
    Fate("not_found_too", 23, "RJ", code=11404, body="error", executes=0),
    Fate("bad_request", 30, "RJ", code=99400, body="error", executes=0),
    Fate("html_403", 15, "RJ", status=403, body="html", executes=0),
    Fate("too_large", 15, "RJ", status=413, body="html", executes=0),
)
EXPIRED = Fate("token_expired", 20, "TK", status=401, body="limit", executes=0)
REVOKED = Fate("token_revoked", 19, "TK", status=401, body="limit", executes=0)
BARRED = Fate("barred", 101, "TK", status=401, body="limit", executes=0)
BARRED_CODE = Fate("barred_code", 101, "TK", code=1203, body="error", executes=0)
SKEWED = Fate("clock_skew", 40, "TK", status=401, body="limit", executes=0)
LIMITED = Fate("rate_limit", 25, "TR", status=429, body="limit", executes=0)
OTHER_SPELLING = Fate("other_spelling", 95, executes=1.0)
TLS = Fate("tls", 38, "NS", before="tls", executes=0, stops="tls")
TOKEN = _listed(
    Fate("refused", 21, "NS", before="refused"),
    Fate("disconnect", 21, ending="disconnect"),
    Fate("hang", 21, ending="hang"),
    Fate("status_5xx", 21, status=503, body="error"),
    Fate("slow", 21, "OK"),
)


class Weather(Struct):
    """How likely each fault is, a request."""

    cancel: dict[str, float] = {}
    search: dict[str, float] = {}
    token: dict[str, float] = {}

    def draw(self, kind: str, chance: Random) -> Fate:
        likely = getattr(self, kind)
        if not likely:
            return OK
        at = chance.random()
        for name, share in likely.items():
            at -= share
            if at < 0:
                fate: Fate = _TABLES[kind][name]
                if name == "status_5xx" and kind != "token":
                    return _with_status(fate, chance.choice(_STATUSES))
                if name == "other_2xx":
                    return _with_status(fate, chance.choice((201, 202, 204, 206)))
                return fate
        return OK


_TABLES = {"cancel": CANCEL, "search": SEARCH, "token": TOKEN}
_MADE: dict[tuple[str, int], Fate] = {}


def _with_status(fate: Fate, status: int) -> Fate:
    made = _MADE.get((fate.name, status))
    if made is None:
        made = Fate(fate.name, fate.row, fate.proof, status=status, body=fate.body)
        _MADE[fate.name, status] = made
    return made
