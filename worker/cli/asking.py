"""What a command says and asks before it sends anything."""

from __future__ import annotations

import re
import sys
from datetime import datetime, timedelta

from worker.cli import desk
from worker.cli.series import Office, Order
from worker.cli.signals import Signals
from worker.cli.watch import clocks_in_words
from worker.clock import Clock, rfc3339
from worker.errors import RefusedError, UsageError
from worker.ledger.lock import is_locked
from worker.run.rest import rest_of

_HOUR = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


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
    if record.rehearsal is None and (until_ms := _rests_until(office)) is not None:
        office.say(
            f"pause          until {rfc3339(until_ms)}: the gateway asked an earlier run to wait "
            "(Retry-After); nothing is sent before"
        )
    if (apart := clocks_in_words(record.clock_apart_ms)) is not None:
        office.say(f"note: {apart}")


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
    """`--until`: RFC 3339, or HH:MM in the host's time zone, the next time it comes; Unix ms."""
    if text is None:
        return None
    now = datetime.fromtimestamp(clock.wall_ms() / 1000).astimezone()
    if found := _HOUR.fullmatch(text):
        moment = now.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
        if moment <= now:
            moment = (moment.replace(tzinfo=None) + timedelta(days=1)).astimezone()
        return round(moment.timestamp() * 1000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = now.replace(tzinfo=None)
    if moment.tzinfo is None:
        raise UsageError(
            f"--until {text}: write a moment with its offset such as 2026-11-22T04:00:00Z, or HH:MM"
        )
    if moment <= now:
        raise UsageError(f"--until {text}: that moment has passed")
    return round(moment.timestamp() * 1000)
