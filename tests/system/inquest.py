"""What is compared after a kill and at the end of a story: ledger, log, report, gateway.

Every finding is a sentence in `wrong`; the counts in the tally are what the table is made of.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from msgspec import Struct

from tests.system.plots import Kill, Plot
from tests.system.stage import ORG, Stage
from worker.errors import UsageError
from worker.ledger.store import Store
from worker.model import DeviceKey, OutcomeKind, ReportRow
from worker.simulator.compare import compare

_OPEN = {OutcomeKind.UNKNOWN, OutcomeKind.CANCELLED_INCOMPLETE, OutcomeKind.NOT_ATTEMPTED}
_UNSURE = {OutcomeKind.UNKNOWN, OutcomeKind.CANCELLED_INCOMPLETE, OutcomeKind.ANOMALOUS}
_WINDOW = 0.05  # s of sending that may be in doubt besides 2 x concurrency
_SETTLED = {0, 3, 4}  # exit codes of a run that reached the end of its list


class Tally(Struct):
    """What a story counts."""

    kills: dict[str, int] = {}  # by what was going on
    missed: int = 0  # kills that came after the end
    resumes: int = 0
    executed: int = 0  # ids that the gateway cancelled
    lost: int = 0  # of those neither recorded nor of a device that is named
    invented: int = 0
    log_only: int = 0  # ids in the log that the ledger does not have
    in_doubt: int = 0  # most at one kill, besides targets recorded as ambiguous
    fullest: float = 0.0  # the largest share of the bound that was in doubt
    again: int = 0  # new cancel requests for a device that was settled
    torn: int = 0  # log lines that the kill broke


class Round(NamedTuple):
    """How things stood before a start."""

    run_id: str | None
    doubts: frozenset[int]
    settled: dict[str, tuple[int, int]]  # deviceKey -> cancels and searches seen by the gateway
    calls: int


class Inquest:
    """Compares, and keeps what was found."""

    def __init__(self, plot: Plot, gateway: Stage) -> None:
        self._plot = plot
        self._gateway = gateway
        self._round = self.round()
        self.tally = Tally()
        self.wrong: list[str] = []

    # ------------------------------------------------------------ moments

    def run_id(self) -> str | None:
        """The run of this story, once its plan stands."""
        with self._store() as store:
            found = store.runs() if store else []
        if len(found) > 1:
            self.wrong.append(f"{len(found)} runs stand in the ledger, where one was started")
        return found[0].run_id if found else None

    def round(self) -> Round:
        """How things stand now; `after_kill` and `after_end` compare with it."""
        calls = self._gateway.world.book.requests["cancel"]
        with self._store() as store:
            found = store.runs() if store else []
            if store is None or not found:
                self._round = Round(None, frozenset(), {}, calls)
                return self._round
            run_id = found[0].run_id
            doubts = frozenset(d.ordinal for d in store.in_doubt(run_id))
            done = [row for row in store.rows(run_id) if row.outcome not in _OPEN]
        seen = {row.deviceKey or "": self._asked(row) for row in done}
        self._round = Round(run_id, doubts, seen, calls)
        return self._round

    def after_kill(self, number: int, kill: Kill, before: Round, seconds: float) -> None:
        """The worker is dead, and nothing of it is under way any more."""
        phase = self._phase(number, kill, before)
        self.tally.kills[phase] = self.tally.kills.get(phase, 0) + 1
        rows = self._compare()
        with self._store() as store:
            doubts = store.in_doubt(rows.run_id) if store and rows.run_id else []
        plain = {d.ordinal for d in doubts if d.mark is None} - before.doubts
        sent = self._gateway.world.book.requests["cancel"] - before.calls
        rate = max(self._gateway.world.book.peak, sent / max(seconds, 0.05))
        bound = 2 * self._plot.concurrency + math.ceil(_WINDOW * rate)
        self.tally.in_doubt = max(self.tally.in_doubt, len(plain))
        self.tally.fullest = max(self.tally.fullest, len(plain) / bound)
        if len(plain) > bound:
            self.wrong.append(f"{len(plain)} targets in doubt, where {bound} may be ({phase})")
        self._check_again(before)

    def after_end(self, code: int) -> bool:
        """A start ended by itself; whether anything is left for another one."""
        before = self._round
        self.tally.resumes += int(before.run_id is not None)
        if code not in _SETTLED:
            self.wrong.append(f"exit code {code}: {self._last_words()}")
            return False
        rows = self._compare()
        self._check_again(before)
        self._check_report(rows)
        self.round()
        return any(row.outcome in _OPEN for row in rows.rows)

    def at_the_end(self) -> None:
        """No more starts: ledger and gateway must agree to the last id."""
        rows = self._compare()
        open_ones = [row.outcome for row in rows.rows if row.outcome in _OPEN]
        if open_ones:
            self.wrong.append(f"resumed as often as allowed, still open: {open_ones}")
        recorded = {i for row in rows.rows for i in row.commandIds}
        if recorded != self._gateway.cancelled():
            self.wrong.append("at the end the ledger's ids are not the gateway's")
        truth = self._gateway.world.truth()
        self.tally.executed = len(self._gateway.cancelled())
        if truth.stray_count or truth.overlaps or truth.replays:
            self.wrong.append(
                f"{truth.strays}, {truth.overlaps} overlaps, {truth.replays} signatures used twice"
            )
        if truth.max_in_flight > self._plot.concurrency:
            self.wrong.append(f"{truth.max_in_flight} in flight")

    # ------------------------------------------------------------ comparing

    def _compare(self) -> _Rows:
        """Ledger against gateway and log, whatever the moment."""
        with self._store() as store:
            found = store.runs() if store else []
            rows = list(store.rows(found[0].run_id)) if store and found else []
        self.wrong += compare(self._gateway.world, rows)
        recorded = {i for row in rows for i in row.commandIds}
        unsure = {row.deviceKey for row in rows if row.outcome in _UNSURE}
        executed = self._gateway.world.truth().cancelled
        for device, commands in executed.items():
            missing = {each.commandId for each in commands} - recorded
            if missing and device.deviceKey not in unsure:
                self.tally.lost += len(missing)
                self.wrong.append(f"lost silently: {sorted(missing)} of {device}")
        invented = recorded - {c.commandId for commands in executed.values() for c in commands}
        self.tally.invented += len(invented)
        log_only = self._logged() - recorded
        self.tally.log_only += len(log_only)
        if log_only:
            self.wrong.append(f"the log has ids that the ledger has not: {sorted(log_only)}")
        if rows and len(rows) != self._plot.targets:
            self.wrong.append(f"{len(rows)} rows for {self._plot.targets} targets")
        return _Rows(found[0].run_id if found else None, rows)

    def _check_again(self, before: Round) -> None:
        """What was settled before the start has got no new request (verify may search)."""
        for deviceKey, (cancels, searches) in before.settled.items():
            now = self._gateway.world.asked(ORG, DeviceKey("bXuuAiku", deviceKey))
            sent = now[0] - cancels
            if self._plot.verify == "none":
                sent += now[1] - searches
            if sent:
                self.tally.again += sent
                self.wrong.append(f"{deviceKey} was settled and got {sent} more requests")

    def _check_report(self, rows: _Rows) -> None:
        """The report that was written is the ledger's."""
        text = (self._gateway.folder / "report.ndjson").read_text()
        told = [json.loads(line) for line in text.splitlines()]
        said = [(row["deviceKey"], row["outcome"], row["commandIds"]) for row in told]
        if said != [(r.deviceKey, r.outcome.value, list(r.commandIds)) for r in rows.rows]:
            self.wrong.append("the report is not what the ledger holds")

    def _phase(self, number: int, kill: Kill, before: Round) -> str:
        book = self._gateway.world.book
        if number and before.run_id is not None:
            return "in a resume"
        if self.run_id() is None:
            return "before the plan stood"
        if book.requests["cancel"] + book.requests["search"] == 0:
            return "planned, nothing sent"
        return "looking up" if kill.after == "search" else "sending"

    def _asked(self, row: ReportRow) -> tuple[int, int]:
        return self._gateway.world.asked(ORG, DeviceKey("bXuuAiku", row.deviceKey or ""))

    def _logged(self) -> set[str]:
        path = self._gateway.folder / "log.ndjson"
        found = set()
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                said = json.loads(line)
            except ValueError:
                self.tally.torn += 1
                continue
            if said["event"] == "command.cancelled":
                found.add(said["commandId"])
        return found

    def _last_words(self) -> str:
        path = self._gateway.folder / "output"
        return path.read_text(errors="replace")[-600:] if path.exists() else ""

    @contextmanager
    def _store(self) -> Iterator[Store | None]:
        """The ledger as the next command would open it; None before there is one."""
        path = self._gateway.ledger
        if not path.exists():
            yield None
            return
        try:
            store = Store.open(f"sqlite:///{path}")
        except UsageError as error:
            self.wrong.append(f"the ledger does not open: {error}")
            yield None
            return
        with closing(store):
            yield store


class _Rows(NamedTuple):
    run_id: str | None
    rows: list[ReportRow]
