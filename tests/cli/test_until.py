"""`--until`: which moment is meant by the host's clock, and what is said of one that passed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.simulation.clock import VirtualClock
from worker.cli.asking import until
from worker.errors import NotNowError, UsageError


@pytest.fixture(autouse=True)
def _zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")  # Berlin's rules, without a data base
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Fixed(VirtualClock):
    """A wall clock that stands still."""

    def __init__(self, now: str) -> None:
        super().__init__()
        self._now_ms = round(datetime.fromisoformat(now).timestamp() * 1000)

    def wall_ms(self) -> int:
        return self._now_ms


def meant(text: str, now: str) -> str:
    """The moment, in the host's time zone."""
    at_ms = until(text, Fixed(now))
    assert at_ms is not None
    return datetime.fromtimestamp(at_ms / 1000).astimezone().isoformat()


@pytest.mark.parametrize(
    ("text", "now", "moment"),
    [
        ("04:00", "2026-11-22T02:05:00+01:00", "2026-11-22T04:00:00+01:00"),
        ("04:00", "2026-11-21T23:30:00+01:00", "2026-11-22T04:00:00+01:00"),
        ("04:00", "2026-11-21T16:00:00+01:00", "2026-11-22T04:00:00+01:00"),  # 12 h
        ("04:00", "2026-11-22T03:59:59.500+01:00", "2026-11-22T04:00:00+01:00"),
        ("02:30", "2026-10-25T02:10:00+02:00", "2026-10-25T02:30:00+02:00"),  # twice that night
        ("02:30", "2026-10-25T02:45:00+02:00", "2026-10-25T02:30:00+01:00"),  # the second time
        ("02:05", "2026-10-25T02:45:00+02:00", "2026-10-25T02:05:00+01:00"),
        ("2026-11-23T04:00:00Z", "2026-11-22T02:05:00+01:00", "2026-11-23T05:00:00+01:00"),
    ],
)
def test_the_next_time_that_the_clock_shows_it(text: str, now: str, moment: str) -> None:
    """Within 12 hours; a moment with its date is taken as it is."""
    assert meant(text, now) == moment


@pytest.mark.parametrize(
    ("text", "now", "said"),
    [
        (
            "04:00",
            "2026-11-22T04:01:30+01:00",
            (
                "--until 04:00 passed 1 min ago, at 2026-11-22T04:00:00+01:00 CET; it comes again "
                "in more than 12 h: if that is meant, give the date: --until "
                "2026-11-23T04:00:00+01:00"
            ),
        ),
        (
            "04:00",
            "2026-11-22T15:59:00+01:00",
            (
                "--until 04:00 passed 11 h 59 min ago, at 2026-11-22T04:00:00+01:00 CET; it comes "
                "again in more than 12 h: if that is meant, give the date: --until "
                "2026-11-23T04:00:00+01:00"
            ),
        ),
        (
            "02:30",
            "2026-03-28T14:00:00+01:00",  # that night the clock skips it
            (
                "--until 02:30 passed 11 h 30 min ago, at 2026-03-28T02:30:00+01:00 CET; it comes "
                "again in more than 12 h: if that is meant, give the date: --until "
                "2026-03-30T02:30:00+02:00"
            ),
        ),
        (
            "2026-11-22T04:00:00+01:00",
            "2026-11-22T04:10:00+01:00",
            (
                "--until 2026-11-22T04:00:00+01:00 passed 10 min ago: it is "
                "2026-11-22T04:10:00+01:00 CET"
            ),
        ),
        (
            "2020-01-01T00:00:00Z",
            "2026-11-22T04:10:00+01:00",
            (
                "--until 2020-01-01T00:00:00Z passed 2517 days ago: it is "
                "2026-11-22T04:10:00+01:00 CET"
            ),
        ),
    ],
    ids=["a minute", "half a day", "skipped", "dated", "long ago"],
)
def test_what_has_passed_is_not_tomorrow(text: str, now: str, said: str) -> None:
    """Not now (9), with the moment and the time zone that were understood."""
    with pytest.raises(NotNowError) as refused:
        until(text, Fixed(now))
    assert str(refused.value) == said


@pytest.mark.parametrize("text", ["4:00", "24:00", "04:00:00", "2026-11-30 23:59", "soon"])
def test_what_is_no_moment(text: str) -> None:
    """Refused as written wrongly (2), with what to write."""
    with pytest.raises(UsageError, match="write a moment with its offset"):
        until(text, Fixed("2026-11-22T02:05:00+01:00"))
