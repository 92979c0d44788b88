"""What must hold after every start of a story: the truth against ledger, log, reports and codes.

Every finding is (number of the invariant in docs/faults.md or 0, a sentence).
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from tests.system.stories import record
from tests.system.stories.files import Wanted, read_remaining
from tests.system.stories.fleet import CANCELLED, Spelling
from tests.system.stories.gateway import INPUT, SECRET, TOKEN, Call
from tests.system.stories.plot import Plot
from tests.system.stories.record import OPEN, UNSURE, Run, Target
from tests.system.stories.sockets import PROXY_PASSWORD
from tests.system.stories.theatre import Start, Theatre

_NOTHING = frozenset({"nothing_cached", "nothing_matched", "too_late"})
_UNDONE = frozenset({"failed", "rejected", "not_found", "not_attempted"})
_UNCERTAIN = ("unknown", "cancelled_incomplete", "anomalous")
_NOT_DONE = ("failed", "rejected", "not_found", "too_late")
_UNPRINTED = "the summary was not printed"
_NOT_FOR_SAFETY = frozenset({"signal", "window", "deadline", "record", "limit"})
_WORST = (2, 6, 5, 1, 130, 143, 7, 9, 8, 4, 3, 0)
_REFUSED = (2, 7, 9, 130, 143)  # before a run began
_REMAIN = UNSURE | {"failed", "not_attempted"}
_SOON = 0.5  # s in which what was under way may still arrive
_STALL = 0.25  # s that this process was kept from its work: then a timeout explains itself
_WINDOW = 0.05  # s of sending that may be in doubt besides 2 x concurrency
_RUN_ID = re.compile(r"^run +([0-9]{8}T[0-9]{6}Z-[a-z0-9]{6}) \(", re.MULTILINE)
_INVENTED = "8"  # first digit of ids that a lying gateway makes up


class Tally(Struct):
    """What a story counts."""

    starts: int = 0
    resumes: int = 0
    kills: Counter[str] = field(default_factory=Counter)  # by what was going on
    signals: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    executed: int = 0  # ids that cancels of the worker really took
    claims: int = 0  # false ones
    lost: int = 0  # ids silently lost
    strays: int = 0
    torn: int = 0  # log lines that a kill broke
    in_doubt: int = 0  # most at a kill, besides what is recorded as ambiguous
    fullest: float = 0.0  # … as a share of what may be


class Judge:
    """Compares, and keeps what was found."""

    def __init__(self, plot: Plot, theatre: Theatre) -> None:
        self.wrong: list[tuple[int, str]] = []
        self.tally = Tally()
        self.wanted: dict[str, Wanted] = {}  # by job
        self._plot = plot
        self._theatre = theatre
        self._said: set[str] = set()
        self._now: list[Start] = []  # the starts that are judged
        self._before: dict[str, dict[Spelling, str]] = {}  # run -> how targets stood
        self._complete: set[str] = set()

    def say(self, invariant: int, said: str) -> None:
        if said in self._said:
            return
        self._said.add(said)
        self.wrong.append((invariant, said))

    # ------------------------------------------------------------ moments

    def runs(self) -> list[Run]:
        return record.read(self._theatre.ledger)

    def complete(self, run: Run) -> bool:
        """Whether a resume has nothing to do any more."""
        return run.finished and not self._open(run)

    def _open(self, run: Run) -> list[Target]:
        return [t for t in run.targets if t.outcome in OPEN]

    def before(self) -> None:
        """How everything stands before a start."""
        runs = self.runs()
        self._complete = {run.run_id for run in runs if self.complete(run)}
        self._before = {run.run_id: {t.spelling: t.outcome for t in run.targets} for run in runs}

    def after(self, starts: Iterable[Start]) -> list[Run]:
        """These starts are over, and nothing of them is under way."""
        runs = self.runs()
        starts = list(starts)
        for start in starts:
            start.runs = tuple(_runs_of(start, runs, starts))
        self._now = starts
        self._one_at_a_time(starts)
        for start in starts:
            self._count(start, runs)
            self._strays(start, runs)
            self._settled_is_settled(start, runs)
            self._in_time(start)
            self._said_at_the_end(start, runs)
            if start.killed:
                self._at_a_kill(start, runs)
            else:
                self._reports(start, runs)
        self._truth(runs)
        self._plans(runs)
        self._log(runs)
        self._secrets()
        for said in (*self._theatre.gateway.wrong, *self._theatre.wrong):
            self.say(1, said)
        return runs

    def after_the_loss(self, start: Start) -> None:
        """The ledger's file was lost: 6 and every id on paper, or lost after the last commit."""
        self._count(start, [])
        self.tally.requests = len(self._theatre.gateway.calls)
        self._strays(start, [])
        self._secrets()
        if start.signalled is None:
            return
        if "Traceback" in start.errors:
            self.say(0, f"the ledger was {self._plot.loss}: {start.errors[-300:]}")
        if start.code != 6:
            said = (start.output + start.errors)[-300:]
            self.say(8, f"the ledger was {self._plot.loss}, and it exited {start.code}: {said}")
        taken = {i for c in self._theatre.gateway.calls for i in c.taken}
        kept = start.errors.encode()
        for path in self._theatre.folder.iterdir():
            if path.is_file() and path != self._theatre.log:
                kept += path.read_bytes()
        unsure = b"unknown" in kept or b"cancelled_incomplete" in kept
        if (missing := [i for i in taken if i.encode() not in kept]) and not unsure:
            self.tally.lost += len(missing)
            self.say(2, f"the ledger was {self._plot.loss}, {sorted(missing)[:4]} are nowhere")

    def reported(self, start: Start, kind: str, run: Run) -> None:
        """`report` says the same as a report file."""
        if start.code:
            self.say(8, f"report exited {start.code}: {start.errors[-200:]}")
            return
        path = self._theatre.folder / f"asked.{kind}"
        path.write_text(start.output, encoding="utf-8")
        self._report(path, run)

    def listed(self, start: Start, runs: list[Run]) -> None:
        """`runs` lists each of them."""
        try:
            said = {each["run_id"] for each in json.loads(start.output)}
        except (ValueError, TypeError, KeyError):
            self.say(8, f"runs printed {start.output[:200]}")
            return
        if said != {run.run_id for run in runs}:
            self.say(7, f"runs lists {sorted(said)}")

    def at_the_end(self, runs: list[Run]) -> None:
        """No more starts."""
        tally = self.tally
        for run in runs:
            tally.outcomes.update(run.tally)
        tally.requests = len(self._theatre.gateway.calls)
        tally.executed = len({i for c in self._theatre.gateway.calls for i in c.taken})
        tally.faults = Counter(self._theatre.weather.struck)

    def converged(self, runs: list[Run]) -> None:
        """After resumes in fine weather nothing is open, and every id is on record."""
        if any(run.end.get("stop") for run in runs):
            return  # no end of a list; what stopped it was judged
        for run in runs:
            if run.started_ms is None:
                continue
            find = self._theatre.fleet.find  # a search for no device is refused
            left = [_name(t) for t in self._open(run) if find(t.spelling) is not None]
            if left:
                self.say(12, f"{run.job}: resumed in fine weather, still open: {left[:5]}")
        recorded = {i for run in runs for t in run.targets for i in t.cancelled}
        odd = {t.spelling for run in runs for t in run.targets if t.outcome == "anomalous"}
        calls = (c for c in self._theatre.gateway.calls if c.spelling not in odd)
        if missing := {i for c in calls for i in c.taken} - recorded:
            self.tally.lost += len(missing)
            self.say(2, f"at the end {sorted(missing)[:5]} are nowhere on record")

    # ------------------------------------------------------------ 1: no stray

    def _strays(self, start: Start, runs: list[Run]) -> None:
        for call in self._calls(start.number):
            if call.kind == "other" or call.start is None:
                continue
            if call.kind in ("cancel", "search") and not self._is_wanted(call, start):
                self._stray(call, start)
        limited = self._plot.shape == "limit" and not start.resumed  # which goes on with the rest
        for run in runs if limited else ():
            limit = self._plot.limit
            beyond = {t.spelling for t in run.targets if t.ordinal >= limit}
            for call in self._calls_of(run, runs):
                mine = call.start == start.number and call.kind == "cancel"
                if mine and call.spelling in beyond:
                    self.say(1, f"{run.job}: beyond --limit {limit}: {call.head}")

    def _stray(self, call: Call, start: Start) -> None:
        device = self._theatre.fleet.find(call.spelling) if call.spelling else None
        rows = {name for job in start.jobs for name in self.wanted[job].rows}
        if device is not None and {device.by_asset, device.by_pair} & rows - {call.spelling}:
            self.say(1, f"start {start.number}: not as the job spells it: {call.head}")
            return
        self.tally.strays += 1
        self.say(1, f"start {start.number}: no job names this: {call.head}")

    def _one_at_a_time(self, starts: list[Start]) -> None:
        """Two processes of one job never send at the same time."""
        if self._plot.shape != "twice" or len(starts) < 2:
            return
        first, second = ([c.at for c in self._calls(start.number)] for start in starts)
        if first and second and max(first[0], second[0]) < min(first[-1], second[-1]):
            self.say(1, "two processes of one job were at work at the same time")

    def _is_wanted(self, call: Call, start: Start) -> bool:
        assert call.spelling is not None
        for job in start.jobs:
            wanted = self.wanted[job]
            if call.spelling not in wanted.rows:
                continue
            if call.kind == "search":
                return True
            if wanted.listed:
                if call.commandId in wanted.rows[call.spelling]:
                    return True
            elif self._plot.by_id:
                if call.commandId is not None and self._owns(call.spelling, call.commandId):
                    return True
            elif call.commandId is None:
                return True
        return False

    def _owns(self, spelling: Spelling, commandId: str) -> bool:
        owner = self._theatre.fleet.owner(commandId)
        return owner is not None and spelling in (owner.by_asset, owner.by_pair)

    # ------------------------------------------------------------ 2 to 5: the record is true

    def _truth(self, runs: list[Run]) -> None:
        everywhere = {i for run in runs for t in run.targets for i in t.cancelled}
        known = {run.run_id for run in runs}
        for run in runs:
            taken: dict[Spelling, set[str]] = defaultdict(set)
            first: dict[Spelling, float] = {}
            for call in self._calls_of(run, runs):
                if call.spelling is not None:
                    taken[call.spelling] |= call.taken
                    first.setdefault(call.spelling, call.at)
            for target in run.targets:
                self._true(run, target, taken, everywhere, first.get(target.spelling))
        for start in self._theatre.starts:
            executed = {i for c in self._calls(start.number) for i in c.taken}
            if executed - everywhere and not known.intersection(start.runs):
                self.tally.lost += 1
                self.say(2, f"start {start.number} cancelled, and no run is on record")

    def _true(
        self,
        run: Run,
        target: Target,
        all_taken: dict[Spelling, set[str]],
        everywhere: set[str],
        first: float | None,
    ) -> None:
        taken = all_taken.get(target.spelling, set())
        twins = self._of_twins(run, target)
        mine = set(target.cancelled)
        outcome = target.outcome
        said = f"{run.job}: {_name(target)} is {outcome}"
        if outcome not in UNSURE and (lost := taken - everywhere):
            self.tally.lost += len(lost)
            self.say(2, f"{said}, and {sorted(lost)[:4]} are nowhere on record")
        if outcome != "anomalous":
            self._invented(target, taken, said)
        if outcome == "cancelled":
            if not mine | twins:
                self._false(4, f"{said}, and nothing is recorded")
            if not taken <= mine | twins:
                missing = sorted(taken - mine - twins)[:4]
                self._false(4, f"{said}, without {missing} that it cancelled")
        elif outcome in _NOTHING and taken - twins:
            self._false(4, f"{said}, and it cancelled {sorted(taken - twins)[:4]}")
        elif outcome in _UNDONE and taken - twins:
            self._false(5, f"{said}, and it cancelled {sorted(taken - twins)[:4]}")
        if outcome not in UNSURE:
            for commandId, result in target.others.items():
                if commandId in taken - twins:
                    self._false(5, f"{said}, {commandId} is {result}, and it was cancelled")
        self._left(run, target, first, said)

    def _left(self, run: Run, target: Target, first: float | None, said: str) -> None:
        """A good end says that nothing older than its first request is cached any more."""
        device = self._theatre.fleet.find(target.spelling)
        if device is None or target.outcome not in _NOTHING | {"cancelled"} or first is None:
            return
        moment = first - self._plot.lag - 0.05
        left = [c.commandId for c in self._theatre.fleet.cached(device) if c.cached_at < moment]
        if target.ids is not None:
            left = [i for i in left if i in target.ids]
        if left:
            self._false(4, f"{said}, and {left[:4]} are still cached")

    def _invented(self, target: Target, taken: set[str], said: str) -> None:
        for commandId, evidence in target.cancelled.items():
            if commandId.startswith(_INVENTED) and self._plot.lies:
                continue
            if evidence == "response" and commandId not in taken:
                self._false(3, f"{said}, {commandId} is on record and this did not cancel it")
            elif evidence == "search":
                if not self._owns(target.spelling, commandId):
                    self._false(3, f"{said}, {commandId} is on record and is another device's")
                elif self._state(commandId) != CANCELLED:
                    self._false(3, f"{said}, {commandId} is on record and is not cancelled")
            if target.ids is not None and commandId not in target.ids:
                self._false(3, f"{said}, {commandId} is on record and was not listed")

    def _false(self, invariant: int, said: str) -> None:
        if said not in self._said:
            self.tally.claims += 1
        self.say(invariant, said)

    def _state(self, commandId: str) -> int | None:
        owner = self._theatre.fleet.owner(commandId)
        found = [c for c in owner.commands if c.commandId == commandId] if owner else []
        return found[0].now if found else None

    def _of_twins(self, run: Run, target: Target) -> set[str]:
        """Ids on record for the same device as the job spells it otherwise."""
        device = self._theatre.fleet.find(target.spelling)
        if device is None:
            return set()
        names = {device.by_asset, device.by_pair} - {target.spelling}
        return {i for t in run.targets if t.spelling in names for i in t.cancelled}

    # ------------------------------------------------------------ 7: each target once

    def _plans(self, runs: list[Run]) -> None:
        for run in runs:
            wanted = self.wanted[run.job].rows
            planned = {t.spelling: t.ids or () for t in run.targets}
            if planned != wanted or len(planned) != len(run.targets):
                self.say(7, f"{run.job}: the plan is not the job")
            counts = run.end.get("outcomes")
            if counts and Counter(counts) != run.tally:
                self.say(7, f"{run.job}: counted {counts}, where the tables say {run.tally}")

    def _reports(self, start: Start, runs: list[Run]) -> None:
        """What files and stdout say of a run is what its ledger holds."""
        if start.signal is not None and start.signal.kind == "INT2":
            return
        for run in runs:
            if run.run_id in start.runs and run.finished and run.end.get("reports"):
                for path in run.end["reports"]:
                    self._report(Path(path), run)
        for document in start.documents:
            found = [run for run in runs if run.run_id == document.get("run_id")]
            for run in found:
                counts = {k: v for k, v in document.get("outcomes", {}).items() if v}
                if run is found[-1] and "outcomes" in document and counts != dict(run.tally):
                    self.say(7, f"{run.job}: printed {counts}, where the ledger has {run.tally}")

    def _report(self, path: Path, run: Run) -> None:
        if not path.exists():
            self.say(7, f"{run.job}: no report {path.name}, and the ledger says there is")
            return
        kind = path.suffix[1:]
        if kind == "remaining":
            self._remaining(path, run)
        if kind == "remaining" or path.name.endswith(".devices.ndjson"):
            return
        if kind == "restore":
            lines = path.read_text(encoding="utf-8").splitlines()
            said = {json.loads(line)["commandId"] for line in lines}
            if said != {i for t in run.targets for i in t.cancelled}:
                self.say(7, f"{run.job}: the restore report has other commands than the ledger")
            return
        rows = list(_rows(path, kind))
        if len(rows) != len(run.targets):
            self.say(7, f"{run.job}: {len(rows)} rows in {path.name}, of {len(run.targets)}")
            return
        for row, target in zip(rows, run.targets, strict=True):
            ids = row["commandIds"]
            ids = ids.split() if isinstance(ids, str) else ids
            same = target.outcome == "anomalous" or set(ids) == set(target.cancelled)
            if row["outcome"] != target.outcome or not same:
                self.say(7, f"{run.job}: {path.name} says {row['outcome']} of {_name(target)}")
            if not _named(row, target.spelling):
                self.say(7, f"{run.job}: {path.name} names {_name(target)} otherwise")

    def _remaining(self, path: Path, run: Run) -> None:
        remaining = read_remaining(path)
        left = {t.spelling: t for t in run.targets if t.outcome in _REMAIN}
        for spelling, ids in remaining.rows.items():
            if spelling not in left:
                self.tally.strays += 1
                self.say(1, f"{run.job}: the remaining job names {spelling}, which is not left")
            elif left[spelling].ids is not None and set(ids) - set(left[spelling].ids or ()):
                self.say(1, f"{run.job}: the remaining job has ids of its own for {spelling}")
        for spelling, target in left.items():
            if target.ids is None and spelling not in remaining.rows:
                self.say(7, f"{run.job}: {_name(target)} is {target.outcome} and does not remain")

    # ------------------------------------------------------------ 8: exit codes, stops, words

    def _said_at_the_end(self, start: Start, runs: list[Run]) -> None:
        if "Traceback" in start.errors + start.output:
            self.say(0, f"start {start.number}: a traceback: {start.errors[-300:]}")
        if start.killed:
            return
        hurried = start.signal is not None and start.signal.kind == "INT2"
        for run_id in start.runs:
            if left := [p.name for p in self._theatre.folder.rglob(f"*{run_id}*.part")]:
                self.say(0, f"start {start.number} left {left}")
        if start.code < 0:
            if start.output + start.errors or any(self._calls(start.number)):
                self.say(8, f"start {start.number} was ended by signal {-start.code}")
            return  # before its first word: that is nobody's but the system's
        asked = "json" in start.arguments
        if asked and not start.documents and not hurried and start.code not in _REFUSED:
            said = (start.output + start.errors)[-200:]
            self.say(8, f"start {start.number} printed no document ({start.code}): {said}")
        if start.code == 9 and self._plot.shape == "twice":
            if any(self._calls(start.number)):
                self.say(1, f"start {start.number} had no lock and sent requests")
            return
        if any(each.ended > start.ended and each.runs == start.runs for each in self._now):
            return  # another process of the same run ended later, and the ledger tells of that
        codes = [self._code(start, run) for run in runs if run.run_id in start.runs]
        if start.arguments[0] not in ("run", "resume"):
            return
        expected = [code for code in codes if code is not None]
        if not expected:
            self._ended_without_a_run(start)
        elif start.code != (worst := _worst(expected)) and not self._excused(start, worst):
            said = (start.output + start.errors)[-300:]
            self.say(8, f"start {start.number} exited {start.code}, not {worst}: {said}")

    def _code(self, start: Start, run: Run) -> int | None:
        """What the run's last start should have exited with; None: it did not begin."""
        if run.started_ms is None or not run.finished:
            return None
        if run.started_ms < (start.began - 1) * 1000 and run.run_id not in self._complete:
            return None
        stop: dict[str, Any] = run.end.get("stop") or {}
        rule = stop.get("rule")
        self.tally.stops[rule or "none"] += 1
        stalled = rule == "no_token" and self._theatre.stalled > _STALL
        if rule is not None and rule not in self._plot.stops and not stalled:
            self.say(8, f"{run.job}: stopped for {rule}, which nothing explains: {stop['message']}")
        if run.end.get("exit_code") == 7:
            return 7 if not self._sent(start) else -1
        tally = run.tally
        if rule is not None and rule not in _NOT_FOR_SAFETY:
            return 5
        limited = self._plot.shape == "limit" and not start.resumed
        most = self._plot.limit if limited else len(run.targets)
        left = [t for t in run.targets[:most] if t.outcome == "not_attempted"]
        if left and rule is None:
            return 1
        if rule == "signal":
            return 128 + int(stop["count"])
        if rule == "deadline" and left:
            return 8
        verified = run.end.get("verified")
        if any(tally[kind] for kind in _UNCERTAIN):
            return 4
        if verified is not None and verified["still_cached"]:
            return 4
        verify = self._verify_of(run.job)
        unverified = verified is None or verified["unsearched"]
        if unverified and verify in ("touched", "all") and rule is None:
            return 4
        return 3 if any(tally[kind] for kind in _NOT_DONE) else 0

    def _excused(self, start: Start, expected: int) -> bool:
        """A signal ends what did not begin, and a series after a run; two leave a report out."""
        if start.signal is None or start.signalled is None:
            return False
        if start.signal.kind == "INT2" and start.code == 1:
            return "was not written: stopped by" in start.errors or _UNPRINTED in start.errors
        said = start.output + start.errors
        unsent = "nothing was sent" in said and not any(self._calls(start.number))
        return start.code in (130, 143) and (len(start.jobs) > 1 or unsent)

    def _ended_without_a_run(self, start: Start) -> None:
        if start.code in (130, 143) and start.signalled is not None:
            return
        if start.code == 7 and not self._sent(start):
            return
        said = (start.output + start.errors)[-300:]
        self.say(8, f"start {start.number} exited {start.code} without a run that ended: {said}")

    def _verify_of(self, job: str) -> str:
        found = [each.verify for each in self._plot.jobs if job.startswith(each.name)]
        return found[0] if found else ""

    def _sent(self, start: Start) -> bool:
        return any(call.kind == "cancel" for call in self._calls(start.number))

    # ------------------------------------------------------------ 10: time

    def _in_time(self, start: Start) -> None:
        soon = _SOON + self._theatre.stalled  # what was signed before it could know
        for call in self._calls(start.number):
            if call.kind not in ("cancel", "search"):
                continue
            for asked, since, until in self._theatre.gateway.pauses:
                another = asked != start.number and start.began < since  # which it knows nothing of
                early = since + soon < min(call.stamp, call.at) < until - 0.05
                if early and not another:
                    late = until - call.at
                    self.say(10, f"sent {late:.2f} s before a Retry-After was over: {call.head}")
            if start.signal and start.signalled and call.stamp > start.signalled + soon:
                self.say(10, f"sent after a {start.signal.kind}: {call.head}")

    # ------------------------------------------------------------ 12: resume

    def _settled_is_settled(self, start: Start, runs: list[Run]) -> None:
        for run in runs:
            before = self._before.get(run.run_id, {})
            if run.run_id not in start.runs or not before:
                continue
            for call in self._calls_of(run, runs):
                stood = before.get(call.spelling) if call.spelling else None
                if call.start != start.number or call.kind != "cancel" or stood is None:
                    continue
                if stood not in OPEN and stood not in start.retried:
                    self.say(12, f"{run.job}: {stood} before, and called again: {call.head}")

    def _at_a_kill(self, start: Start, runs: list[Run]) -> None:
        """Not more in doubt than may be."""
        sent = [c.at for c in self._calls(start.number) if c.kind == "cancel"]
        ahead = max((sum(at <= t < at + _WINDOW for t in sent) for at in sent), default=0)
        bound = 2 * self._plot.concurrency + ahead
        for run in runs:
            if run.run_id not in start.runs:
                continue
            before = self._before.get(run.run_id, {})
            plain = [
                t
                for t in run.targets
                if t.in_doubt
                and not t.marked
                and before.get(t.spelling) not in OPEN - {"not_attempted"}
            ]
            self.tally.in_doubt = max(self.tally.in_doubt, len(plain))
            self.tally.fullest = max(self.tally.fullest, len(plain) / bound)
            if len(plain) > bound:
                self.say(12, f"{run.job}: {len(plain)} targets in doubt, where {bound} may be")

    # ------------------------------------------------------------ log, secrets

    def _log(self, runs: list[Run]) -> None:
        path = self._theatre.log
        lines = path.read_bytes().splitlines() if path.exists() else []
        recorded = {i for run in runs for t in run.targets for i in t.cancelled}
        logged = set()
        self.tally.torn = 0
        for line in lines:
            try:
                said = json.loads(line)
            except ValueError:
                self.tally.torn += 1
                continue
            if said["event"] == "command.cancelled":
                logged.add(said["commandId"])
            if said["event"] == "internal.error":
                self.say(0, f"an internal error: {said}")
        killed = any(
            s.killed or (s.signal and s.signal.kind == "INT2") for s in self._theatre.starts
        )
        if logged - recorded and self._plot.shape != "restored":
            self.say(3, f"in the log and not in the ledger: {sorted(logged - recorded)[:4]}")
        if not killed and recorded - logged:
            self.say(7, f"in the ledger and not in the log: {sorted(recorded - logged)[:4]}")
        if not killed and self.tally.torn:
            self.say(0, "the log has lines that are not JSON")

    def _secrets(self) -> None:
        canaries = [SECRET.encode(), TOKEN.encode(), PROXY_PASSWORD.encode()]
        for path in self._theatre.folder.rglob("*"):
            if not path.is_file():
                continue
            text = path.read_bytes()
            for canary in canaries:
                if canary in text:
                    self.say(13, f"{canary.decode()} is in {path.name}")
            told = path.name == "log.ndjson" or path.name.startswith("std")
            if told and INPUT.encode() in text:
                self.say(13, f"the input of a command is in {path.name}")

    # ------------------------------------------------------------ whose a call is

    def _calls(self, start: int) -> Iterator[Call]:
        return (call for call in self._theatre.gateway.calls if call.start == start)

    def _calls_of(self, run: Run, runs: list[Run]) -> Iterator[Call]:
        """The calls of a run; of a series the run that was at work then."""
        for start in self._theatre.starts:
            if run.run_id not in start.runs:
                continue
            if len(start.runs) == 1:
                yield from self._calls(start.number)
                continue
            others = [r for r in runs if r.run_id in start.runs and r.began_ms is not None]
            for call in self._calls(start.number):
                begun = [r for r in others if (r.began_ms or 0) <= call.at * 1000 + 2]
                if max(begun, key=lambda r: r.began_ms or 0, default=None) is run:
                    yield call

    def _count(self, start: Start, runs: list[Run]) -> None:
        self.tally.starts += 1
        self.tally.resumes += int(start.resumed)
        self.tally.codes["killed" if start.killed else str(start.code)] += 1
        if start.signalled is not None and start.signal is not None:
            self.tally.signals[start.signal.kind] += 1
        if start.killed:
            self.tally.kills[_phase(start, runs, list(self._calls(start.number)))] += 1


def _phase(start: Start, runs: list[Run], calls: list[Call]) -> str:
    if start.resumed:
        return "in a resume"
    if not any(run.run_id in start.runs for run in runs):
        return "before the plan stood"
    kinds = {call.kind for call in calls}
    if not kinds & {"cancel", "search"}:
        return "planned, nothing sent"
    return "looking up" if calls[-1].kind == "search" else "sending"


def _runs_of(start: Start, runs: list[Run], starts: list[Start]) -> Iterator[str]:
    """Those that this start made, or was told to resume."""
    named = {*start.arguments, *_RUN_ID.findall(start.errors + start.output)}
    others = {i for each in starts if each is not start for i in _RUN_ID.findall(each.errors)}
    for run in runs:
        mine = start.began * 1000 - 5 <= run.planned_ms <= start.ended * 1000
        mine = mine and run.job in start.jobs and run.run_id not in others
        if run.run_id in named or (mine and not start.resumed):
            yield run.run_id


def _rows(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    if kind == "csv":
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)
    elif kind == "ndjson":
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())
    else:
        yield from json.loads(path.read_text(encoding="utf-8"))["rows"]


def _named(row: dict[str, Any], spelling: Spelling) -> bool:
    """Whether the row has the identity that the job gave, and no other."""
    return all((row[name] or "") == value for name, value in spelling._asdict().items())


def _name(target: Target) -> str:
    return f"target {target.ordinal} {'/'.join(filter(None, target.spelling))}"


def _worst(codes: list[int]) -> int:
    return next((code for code in _WORST if code in codes), max(codes, default=0))
