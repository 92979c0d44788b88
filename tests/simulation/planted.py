"""Bugs that must be caught: each a small change to a copy of the worker.

The simulated worlds catch them, or tests, where worlds are blind by their nature: they have no
lock and no command line. A bug is a name, a file, the text to find and the text to put in its
place; a text that is no longer there fails its test, so that the list follows the code.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import Struct

ROOT = Path(__file__).parents[2]


class Bug(Struct, frozen=True):
    """One change for the worse."""

    name: str
    file: str  # below worker/
    old: str
    new: str
    transport: str = "fake"
    first: int = 0  # seed to begin with
    tests: str | None = None  # what pytest selects below tests/, instead of worlds


class Caught(Struct, frozen=True):
    """How a bug was found out; worlds is None when it was not, 0 when a test did."""

    worlds: int | None
    said: str


def catch(bug: Bug, folder: Path, most: int = 2_000) -> Caught:
    """Run worlds, or tests, on a copy of the worker with this bug, up to the first violation."""
    _copy("worker", folder)
    place = folder / "worker" / bug.file
    text = place.read_text()
    if text.count(bug.old) != 1:
        raise LookupError(f"{bug.name}: {text.count(bug.old)} places in worker/{bug.file}")
    place.write_text(text.replace(bug.old, bug.new))
    if bug.tests is not None:
        return _by_tests(bug.tests, folder)
    command = ["-m", "tests.simulation", "--catch", "--worlds", str(most)]
    command += ["--first", str(bug.first), "--transport", bug.transport]
    ran = _python(folder, *command)
    found = re.match(r"caught after ([0-9]+): (.*)", ran.stdout)
    if found is None:
        return Caught(None, ran.stdout + ran.stderr[-2_000:])
    return Caught(int(found[1]), found[2])


def _by_tests(selection: str, folder: Path) -> Caught:
    """Run these tests of a copy beside the worker's: what they start is the worker with the bug."""
    _copy("tests", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    ran = _python(folder, "-m", "pytest", "-q", "-x", f"tests/{selection}")
    failed = re.search(r"^FAILED (.*)", ran.stdout, re.MULTILINE)
    if ran.returncode != pytest.ExitCode.TESTS_FAILED or failed is None:
        return Caught(None, ran.stdout[-2_000:] + ran.stderr[-2_000:])
    return Caught(0, failed[1])


def _copy(room: str, folder: Path) -> None:
    shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("*.pyc"))


def _python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join((str(folder), str(ROOT)))
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


BUGS = (
    Bug(
        "a device is spelled as a reply named it",
        "cli/engine.py",
        """    device: Device = AssetId(row.assetId or "")
    if row.productKey and row.deviceKey:
        device = DeviceKey(row.productKey, row.deviceKey)
""",
        """    device: Device = AssetId(row.assetId or "")
    named = row.told if row.told.productKey else row
    if named.productKey and named.deviceKey:
        device = DeviceKey(named.productKey, named.deviceKey)
""",
    ),
    Bug(
        "a target may be named in two ways",
        "run/case.py",
        "            self.names_differ = True\n",
        "            pass\n",
    ),
    Bug(
        "rows in the other spelling are taken for the device's",
        "gateway/command.py",
        "    return Whose.UNNAMED if names == (None, None, None) else Whose.OTHER_SPELLING\n",
        "    return Whose.UNNAMED\n",
    ),
    Bug(
        "ages are compared though the clocks differ",
        "model.py",
        "        agree = self.apart_ms <= AGREE_MS\n",
        "        agree = True\n",
        first=380,
    ),
    Bug(
        "a search reaches back 48 h whatever the clocks say",
        "run/reconcile.py",
        "    return sent_ms - LOOK_BACK_MS - first_sent.apart_ms\n",
        "    return sent_ms - LOOK_BACK_MS\n",
    ),
    Bug(
        "claimed after sending",
        "ledger/settle.py",
        "        row = (head.number, lo, claim.pass_no, hi, None, now_ms)",
        "        row = (head.number, lo, claim.pass_no, hi - 1, None, now_ms)",
    ),
    Bug(
        "settled without a claim",
        "ledger/settle.py",
        """            connection.exec_driver_sql(self._sql["claim"].sql, row)
            return self""",
        "            return self",
    ),
    Bug(
        "no taint",
        "run/executor.py",
        "            call.tainted = True\n",
        "            call.tainted = False\n",
    ),
    Bug(
        "ambiguous is retried without a look-up",
        "run/executor.py",
        "            if call.in_doubt and isinstance(call.last, Answered | Ambiguous):",
        "            if call.in_doubt and isinstance(call.last, Answered):",
    ),
    Bug(
        "503 read as refused",
        "gateway/evidence.py",
        "{400, 401, 403, 404, 405, 407, 411, 413, 414, 415, 421, 429, 431}",
        "{400, 401, 403, 404, 405, 407, 411, 413, 414, 415, 421, 429, 431, 503}",
    ),
    Bug(
        "Retry-After is ignored",
        "run/wire.py",
        "        self._pace.pause(seconds)\n",
        "",
    ),
    Bug(
        "cancel-all where a command id is missing",
        "gateway/spelling.py",
        '        pairs.append(("commandId", call.commandId))',
        "        pass",
    ),
    Bug(
        "exit 0 when a signal stopped the run",
        "report/verdict.py",
        'found.append((_SIGNAL + signal, f"signal {signal}"))',
        "pass",
    ),
    Bug(
        "the sent flag is dropped",
        "gateway/evidence.py",
        "    if not reply.sent and reply.status is None:",
        "    if reply.status is None:",
    ),
    Bug(
        "look-up in the wrong order",
        "run/reconcile.py",
        "_CACHED, _CANCELLED = 1, 2  # states of a command",
        "_CACHED, _CANCELLED = 2, 1  # states of a command",
    ),
    Bug(
        "not executed is concluded from the first try",
        "run/reconcile.py",
        "                if seen.finding is Finding.DONE:",
        "                if seen.finding is not Finding.PARTLY:",
    ),
    Bug(
        "ids that are on record elsewhere are taken for new",
        "run/reconcile.py",
        "if c.commandId not in recorded | elsewhere)",
        "if c.commandId not in recorded)",
    ),
    Bug(
        "the retry budget is ignored",
        "run/retry.py",
        "        return delay if budget.take() else None",
        "        return delay",
    ),
    Bug(
        "a Retry-After is not kept for the next process",
        "run/wire.py",
        "            self._watcher.asked_for(seconds)\n",
        "            pass\n",
        first=500,
    ),
    Bug(
        "nobody waits out what an earlier process was asked for",
        "run/session.py",
        """                await self._rest.wait_out(self._rules.retry.retry_after_max)
                await self._permission(probe)
""",
        "                await self._permission(probe)\n",
    ),
    Bug(
        "a rest is waited for however long it is",
        "run/rest.py",
        "            left = min(left, ends - self._clock.monotonic())\n",
        "",
        first=500,
    ),
    Bug(
        "a token that is turned down never stops a run",
        "run/auth.py",
        "        if count < enough:\n",
        "        if True:\n",
    ),
    Bug(
        "a late success of an old token takes the new one's away",
        "gateway/client.py",
        """            token.has_worked = True
            return read
        return self._judge""",
        """            self.last = getattr(self, "last", token)
            self.last.has_worked = False
            self.last = token
            token.has_worked = True
            return read
        return self._judge""",
        first=900,
    ),
    Bug(
        "every 401 of a call is free",
        "run/executor.py",
        "            if turned_down(evidence) and not call.turned_down:",
        "            while turned_down(evidence):",
    ),
    Bug(
        "every 401 fetches a token",
        "gateway/token.py",
        "        if again and token.has_worked:\n",
        "        if False:\n",
    ),
    Bug(
        "a 401 for an old token throws the new one away",
        "gateway/token.py",
        "        if token is not self._token:\n",
        "        if False:\n",
    ),
    Bug(
        "one device that is turned down stops a run that works",
        "run/auth.py",
        "_ENOUGH = 5  # targets",
        "_ENOUGH = 1",
    ),
    Bug(
        "a search that is turned down counts like a cancel",
        "run/auth.py",
        "        if not refused.fresh_tokens or device is None:\n",
        "        if not refused.fresh_tokens:\n",
    ),
    Bug(
        "attempts have no end",
        "run/retry.py",
        "        return attempt >= self.rules.attempts\n",
        "        return False\n",
    ),
    Bug(
        "in doubt, and blindly sent on resume",
        "run/session.py",
        "        return (min(known), now_ms) if known else None",
        "        return None",
    ),
    Bug(
        "the outcome is durable before its commands",
        "run/record.py",
        "        self.writer.put(Entry(case.target.ordinal, case.pass_no, fresh, verdict))",
        """        if isinstance(verdict, Outcome):
            from msgspec.structs import replace as _replace
            verdict = _replace(verdict, commands=())
        self.writer.put(Entry(case.target.ordinal, case.pass_no, (), verdict))
        late, self.late = getattr(self, "late", None), None
        if late is not None:
            self.writer.put(late)
        self.late = Entry(case.target.ordinal, case.pass_no, fresh, None)""",
    ),
    Bug(
        "the deadline is read from the wall clock",
        "cli/engine.py",
        "        bounds = Bounds(clock, deadline=deadline, until_ms=work.until_ms)\n",
        "        ends = clock.wall_ms() + int((limits.deadline or 0) * 1000)\n"
        "        bounds = Bounds(clock, until_ms=ends if limits.deadline else work.until_ms)\n",
        first=800,
    ),
    Bug(
        "what became of a command before counts as cancelled",
        "run/runner.py",
        '            if result.result == "cancelled":',
        "            if True:",
    ),
    Bug(
        "a doubt that nobody fetched is given back",
        "ledger/writer.py",
        "        if self._list is not None and not self._list.in_doubt:",
        "        if True:",
        tests="ledger/test_writer.py",  # worlds need thousands to see it
    ),
    Bug(
        "what is being connected for goes out after the stop",
        "gateway/direct.py",
        "        if self._dials or self._queue:  # soon",
        "        if False:  # soon",
        transport="aiohttp",
    ),
    Bug(
        "an answer about another device is taken as any other",
        "run/outcome.py",
        "    if answered.anomaly is not None or answered.warnings or not",
        "    if not",
        first=1_500,
    ),
    Bug(
        "a launched call that came to nothing is settled as it is",
        "run/executor.py",
        "        return call.standing is not Standing.OPEN\n",
        "        return True\n",
    ),
    Bug(
        "nobody waits for launched calls when the run stops",
        "run/runner.py",
        "        while self._in_air:\n",
        "        while False:\n",
    ),
    Bug(
        "no gate before the first success",
        "run/runner.py",
        "            self._agenda.open_limit = max(_FEW, self._concurrency)",
        "            pass",
    ),
    Bug(
        "a reply is believed whoever it is about",
        "gateway/evidence.py",
        """        return causes.OTHER_DEVICE
    if said.malformed:
        return causes.MALFORMED_ID
    if said.too_many""",
        """        return None
    if said.malformed:
        return causes.MALFORMED_ID
    if said.too_many""",
    ),
    Bug(
        "data: null is an empty list",
        "gateway/evidence.py",
        '    data = envelope.get("data")\n',
        '    data = envelope.get("data") or []\n',
    ),
    Bug(
        "two spellings of a device are verified at once",
        "run/verify.py",
        "        devices = _by_device(todo)\n",
        "        devices = [[each] for each in todo]\n",
        first=400,
    ),
    Bug(
        "what is in flight gets no end when the run stops",
        "run/session.py",
        "        switch.on_throw(self._drain)\n",
        "",
    ),
    Bug(
        "a resume forgets --limit and calls the whole list",
        "cli/resuming.py",
        "    room = record.targets if limit is None else limit\n",
        "    room = record.targets\n",
    ),
    Bug(
        "the command resume forgets its --limit",
        "cli/resuming.py",
        "            legs = what_is_left(office.store, record, terms.limit,",
        "            legs = what_is_left(office.store, record, None,",
        tests="system/test_jobs.py::test_a_list_in_parts",
    ),
    Bug(
        "a resume goes no further than the limit of the run",
        "cli/resuming.py",
        "        legs.append(Leg(1, limit=unclaimed.stop))",
        "        legs.append(Leg(1, limit=terms_of(record).limit or unclaimed.stop))",
    ),
    Bug(
        "a series prefers 3 to 4",
        "cli/series.py",
        "_WORST = (2, 6, 5, 1, 130, 143, 7, 9, 8, 4, 3, 0)",
        "_WORST = (2, 6, 5, 1, 130, 143, 7, 9, 8, 3, 4, 0)",
    ),
    Bug(
        "a verification skips its last batch",
        "cli/engine.py",
        "        while batch := await self._writer.ask(lambda: list(islice(targets, self._batch)))"
        ":\n            yield batch\n",
        """        some = lambda: list(islice(targets, self._batch))
        batch = await self._writer.ask(some)
        while batch and (later := await self._writer.ask(some)):
            yield batch
            batch = later
""",
    ),
    Bug(
        "a resume takes no lock",
        "cli/resuming.py",
        "        with job_lock(office.ledger_url, record.job, record.run_id):",
        "        if True:",
        tests="system/test_ends.py::test_a_run_that_is_on_is_not_resumed",
    ),
    Bug(
        "a log line before its commit",
        "run/record.py",
        "        self.writer.put(Entry(outcome.target.ordinal, pass_no, commands, outcome))",
        """        self._observer.recorded(outcome.target, commands, outcome)
        self.writer.put(Entry(outcome.target.ordinal, pass_no, commands, outcome))""",
    ),
    Bug(
        "a plus counts as plain in a key",
        "gateway/signing.py",
        'is_plain = re.compile(r"[0-9A-Za-z._-]+")',
        'is_plain = re.compile(r"[0-9A-Za-z._+-]+")',
    ),
    Bug(
        "a percent sign counts as plain in a key",
        "gateway/signing.py",
        'is_plain = re.compile(r"[0-9A-Za-z._-]+")',
        'is_plain = re.compile(r"[0-9A-Za-z._%-]+")',
    ),
    Bug(
        "a look-up ignores page 2 of what is cancelled",
        "run/reconcile.py",
        "            if not page.commands or read >= page.total or",
        "            if state == _CANCELLED or not page.commands or read >= page.total or",
    ),
    Bug(
        "page 2 of what is cached is ignored",
        "run/reconcile.py",
        "            if not page.commands or read >= page.total or",
        "            if state == _CACHED or not page.commands or read >= page.total or",
        first=500,
    ),
    Bug(
        "what another run found is never this run's",
        "ledger/across.py",
        "                elsewhere = row.recorded_ms < claimed_ms <= in_order_ms",
        "                elsewhere = True",
    ),
    Bug(
        "what another run found before is this run's all the same",
        "ledger/across.py",
        "                elsewhere = row.recorded_ms < claimed_ms <= in_order_ms",
        "                elsewhere = False",
    ),
    Bug(
        "a clock that was set back tells which run was first",
        "ledger/across.py",
        "                elsewhere = row.recorded_ms < claimed_ms <= in_order_ms",
        "                elsewhere = row.recorded_ms < claimed_ms",
        first=3_100,
    ),
    Bug(
        "a device in doubt is known by one name only",
        "ledger/across.py",
        "    for device, other in _other_spellings(connection, head, list(found)):",
        "    for device, other in ():",
    ),
)
