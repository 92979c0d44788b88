"""What a command says and asks before it sends anything."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import datetime, time, timedelta

from worker.cli import desk
from worker.cli.series import Office, Order
from worker.cli.signals import Signals
from worker.cli.watch import clocks_in_words
from worker.clock import Clock, rfc3339
from worker.errors import NotNowError, RefusedError, UsageError
from worker.job.plan import out_of_reach
from worker.job.units import format_duration
from worker.ledger.lock import is_locked
from worker.run.rest import rest_of

_HOUR = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")
_DAYS_FROM = 48  # hours
_AHEAD = timedelta(hours=12)  # in which a HH:MM has to come


def say_where(office: Office, order: Order) -> None:
    """Which configuration, ledger, gateway and organization a command that sends will use."""
    record, limits = order.record, order.terms.limits
    rate = "no rate limit" if limits.rate is None else f"{limits.rate:g}/s"
    office.say(f"configuration  {office.settings.source}")
    office.say(f"ledger         {office.ledger_name}")
    office.say(f"gateway        {record.gateway}")
    office.say(f"orgId          {record.orgId}")
    office.say(f"run            {record.run_id} ({record.job})")
    office.say(f"pace           {limits.concurrency} requests at once, {rate}")
    if (why := out_of_reach(limits.rate, limits.concurrency)) is not None:
        office.say(f"               {why}")
    for line in _ends(order, office.clock):
        office.say(f"ends           {line}")
    if record.rehearsal is None and (until_ms := _rests_until(office)) is not None:
        office.say(
            f"pause          until {rfc3339(until_ms)}: the gateway asked an earlier run to wait "
            "(Retry-After); nothing is sent before"
        )
    if (apart := clocks_in_words(record.clock_apart_ms)) is not None:
        office.say(f"note: {apart}")


def _ends(order: Order, clock: Clock) -> Iterator[str]:
    """When a run ends at the latest."""
    if order.until_ms is not None:
        yield f"{_shown(_local(order.until_ms))} (--until)"
    deadline = order.terms.limits.deadline
    if deadline is not None:
        at_latest = _shown(_local(clock.wall_ms() + round(deadline * 1000)))
        after = format_duration(deadline)
        yield f"{after} after its start, begun now {at_latest} (limits.deadline)"


def resting(office: Office) -> float:
    """Seconds for which the gateway asked an earlier run to wait, from now."""
    if office.settings.gateway is None or (until_ms := _rests_until(office)) is None:
        return 0.0
    return max(0.0, (until_ms - office.clock.wall_ms()) / 1000)


def _rests_until(office: Office) -> int | None:
    settings = office.settings
    kept = office.store.pause(settings.require_gateway().url)
    longest = settings.retry.retry_after_max
    return None if kept is None else rest_of(kept, office.clock.wall_ms(), longest)


def say_unfinished(office: Office, job: str) -> None:
    """An earlier run of the job that has no end is named: its devices may be in doubt."""
    earlier = office.store.unfinished(job)
    if earlier is not None and not is_locked(office.ledger_url, job):
        office.say(
            f"note: run {earlier.run_id} of this job was interrupted; "
            f"`cancel-worker resume {earlier.run_id}` finishes it. Devices that it left in doubt "
            "are looked up before they are called again"
        )


def confirm(what: str, signals: Signals, *, yes: bool) -> None:
    """Ask on a terminal; RefusedError without one, or when the answer is not yes.

    SignalError when a signal comes instead of an answer.
    """
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise RefusedError(
            f"not confirmed: {what}. There is no terminal to ask on: give --yes in scripts"
        )
    with signals.asking():
        answer = desk.ask(f"{what}? [y/N]")
    if answer.strip().lower() not in ("y", "yes"):
        raise RefusedError("not confirmed: nothing was sent")


def until(text: str | None, clock: Clock) -> int | None:
    """`--until`, Unix ms: RFC 3339, or HH:MM in the host's time zone, when it comes within 12 h.

    NotNowError when it has passed, with the moment that was understood.
    """
    if text is None:
        return None
    now = _local(clock.wall_ms())
    if found := _HOUR.fullmatch(text):
        moment = _next(int(found[1]), int(found[2]), now, text)
    else:
        moment = _given(text)
        if moment <= now:
            raise NotNowError(f"--until {text} passed {_ago(now - moment)}: it is {_shown(now)}")
    return round(moment.timestamp() * 1000)


def _next(hour: int, minute: int, now: datetime, text: str) -> datetime:
    """The next time the host's clock shows this, within 12 hours."""
    shown = [
        moment
        for days in range(-1, 3)
        for fold in (0, 1)  # a time that is twice on one day
        if (moment := _on(now, days, hour, minute, fold)).strftime("%H:%M") == text
    ]
    coming = min(moment for moment in shown if moment > now)
    if coming - now <= _AHEAD:
        return coming
    passed = max(moment for moment in shown if moment <= now)
    raise NotNowError(
        f"--until {text} passed {_ago(now - passed)}, at {_shown(passed)}; it comes again in more "
        f"than 12 h: if that is meant, give the date: --until {coming.isoformat()}"
    )


def _on(now: datetime, days: int, hour: int, minute: int, fold: int) -> datetime:
    """So many days from now at this hour; where a clock skips it, some other hour."""
    day = (now.replace(tzinfo=None) + timedelta(days=days)).date()
    return datetime.combine(day, time(hour, minute, fold=fold)).astimezone()


def _given(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError(
            f"--until {text}: write a moment with its offset such as 2026-11-22T04:00:00Z, or HH:MM"
        )
    return moment


def _local(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000).astimezone()


def _shown(moment: datetime) -> str:
    """With offset and name of its time zone, so that a wrong one is seen."""
    local = moment.astimezone()
    return f"{local.isoformat(timespec='seconds')} {local.tzname()}".rstrip()


def _ago(passed: timedelta) -> str:
    minutes = int(passed.total_seconds() // 60)
    hours = minutes // 60
    if hours > _DAYS_FROM:
        return f"{hours // 24} days ago"
    return f"{hours} h {minutes % 60} min ago" if hours else f"{minutes} min ago"
