"""The ledger: what is to be done, what may have been done, what was done.

One `Store` is one open ledger with one connection, used by one thread at a time: before a run
directly, while it is on through the `Writer` only. The questions themselves stand in the modules
beside it; here they meet one transaction each and the run they are asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    func,
    insert,
    select,
    update,
)

from worker.errors import UsageError
from worker.ledger import across, alias, doubts, reading, tables
from worker.ledger.database import Database, ledger_path
from worker.ledger.draft import Draft, digest_of, drafting, forget_plans
from worker.ledger.entry import AlsoTouched, Claim, Doubt, Entry, Found, Frozen, Granted, NewRun
from worker.ledger.lock import locked_by
from worker.ledger.reading import end_of, head_of
from worker.ledger.settle import Head, Settling
from worker.model import (
    Device,
    OutcomeKind,
    Rehearsal,
    ReportRow,
    RunEnd,
    RunRecord,
    RunState,
    Spent,
)

_run = tables.run.c
_pause = tables.pause.c


class Store:
    """One open ledger. While a run is on, every failure is a LedgerError."""

    def __init__(self, url: str, database: Database, *, keep_input: bool) -> None:
        self._url = url
        self._database = database
        self._settling = Settling(database.engine.dialect, keep_input=keep_input)
        self._heads: dict[str, Head] = {}

    @classmethod
    def open(cls, url: str, *, keep_input: bool = True) -> Store:
        """Open or create the ledger at `url`; `sqlite://` is a temporary one.

        Without `keep_input` the input data of commands is not recorded. Raises UsageError when
        the place cannot be written, is not a ledger, or is of a newer version.
        """
        return cls(url, Database(url), keep_input=keep_input)

    @classmethod
    def look(cls, url: str) -> Store:
        """As `open`, to look only: one that cannot be written is read.

        Where there is none it shows an empty one, and makes none.
        """
        path = ledger_path(url)
        if path is None or path.exists():
            return cls(url, Database(url, to_look=True), keep_input=True)
        return cls(url, Database("sqlite://", name=str(path)), keep_input=True)

    @property
    def path(self) -> Path | None:
        """Where the ledger's file is; None for a temporary one."""
        return self._database.path

    @property
    def name(self) -> str:
        """What people call the ledger."""
        return self._database.name

    def lost(self) -> str | None:
        """What happened to the ledger's file, for people; None while its path leads to it.

        What is recorded in a lost ledger can be read by this process, and by no other one.
        May be asked at any time and in any thread.
        """
        return self._database.lost()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    # ------------------------------------------------------------ planning

    def draft(self, given_up: Callable[[], bool] | None = None) -> AbstractContextManager[Draft]:
        """Room to lay out the rows of a plan; nothing of it reaches the ledger's file.

        `given_up` is asked during long statements: once it is true they fail, with UsageError.
        """
        return drafting(self._database, given_up)

    def freeze(self, draft: Draft, new: NewRun, files: Sequence[str]) -> Frozen:
        """Write the plan, whole or not at all; `files` names the rows' sources by index."""
        return draft.freeze(new, files)

    # ------------------------------------------------------------ runs

    def run(self, run_id: str) -> RunRecord:
        """The head of one run; raises UsageError for one that is not here."""
        with self._database.read() as connection:
            return self._record(connection, _row(connection, run_id))

    def runs(self, job: str | None = None, limit: int | None = None) -> list[RunRecord]:
        """The heads of runs, the last to begin first; a plan stands where it was frozen."""
        return self._newest(job, limit)

    def resolve(self, text: str, *, plan: bool = False) -> RunRecord:
        """The run that a person means: an id, a unique prefix of one, `last` or `last:JOB`.

        `last` is the run that was started last; with `plan` it is the newest plan that was not.
        """
        word, _, job = text.partition(":")
        if word != "last":
            return self._named(text)
        begun = _run.started_ms.is_not(None)
        waits = and_(_run.started_ms.is_(None), _run.rehearsal.is_(None))
        if found := self._newest(job or None, 1, waits if plan else begun):
            return found[0]
        of_job = f" of job {job}" if job else ""
        said = f"no plan{of_job} waits to be run" if plan else f"no run{of_job} was started"
        raise UsageError(f"{text}: {said} in ledger {self._database.name}")

    def beginning_of(self, run_id: str) -> str:
        """The moment with which a run_id begins, where no other begins so; else the whole id."""
        moment = run_id.partition("-")[0]
        others = select(_run.run_id).where(_run.run_id >= moment, _run.run_id < f"{moment}~")
        with self._database.read() as connection:
            return moment if len(connection.execute(others.limit(2)).all()) == 1 else run_id

    def unfinished(self, job: str) -> RunRecord | None:
        """The newest run of the job that was started and has no end."""
        query = select(tables.run).where(
            _run.job == job, _run.started_ms.is_not(None), _run.finished_ms.is_(None)
        )
        with self._database.read() as connection:
            row = connection.execute(query.order_by(_run.run.desc()).limit(1)).first()
            return self._record(connection, row) if row else None

    def start(self, run_id: str, started_ms: int) -> None:
        """Note that the run begins, or begins again: it has no end from now on."""
        with self._database.write() as connection:
            row = _row(connection, run_id)
            first = started_ms if row.first_started_ms is None else row.first_started_ms
            begun = {
                "first_started_ms": first,
                "started_ms": started_ms,
                "spent": msgspec.json.encode(_spent(row)),
            }
            unended = {"finished_ms": None, "doubts": None, "counts": None, "end": None}
            connection.execute(
                update(tables.run).where(_run.run == row.run).values({**begun, **unended})
            )

    def assume_sent(self, run_id: str) -> None:
        """Note that what has no outcome may have been sent since the first start of the run.

        For a ledger that was restored from a backup. It is in doubt from now on, whatever becomes
        of this process.
        """
        put_off, unclaimed = list(self.deferred(run_id)), self.unclaimed(run_id)
        with self._database.write() as connection:
            row = _row(connection, run_id)
            since_ms = row.planned_ms if row.first_started_ms is None else row.first_started_ms
            begun = {"first_started_ms": since_ms, "counts": None}
            connection.execute(update(tables.run).where(_run.run == row.run).values(begun))
            doubts.assume(connection, row.run, put_off, unclaimed, since_ms)

    def finish(
        self,
        run_id: str,
        end: RunEnd,
        rehearsal: Rehearsal | None = None,
        spent: Spent | None = None,
    ) -> None:
        """Note how the run ended, what it used, and whether a rehearsal agreed with the truth.

        None for `rehearsal` and `spent` leaves what is noted.
        """
        with self._database.write() as connection:
            number = self._head(connection, run_id).number
            row = _row(connection, run_id)
            if row.finished_ms is None:
                alias.keep(connection, number)
            ended = {
                "finished_ms": end.finished_ms,
                "doubts": len(doubts.in_doubt(connection, number)),
                "counts": msgspec.json.encode(self._counts(connection, row)),
                "end": msgspec.json.encode(end),
            }
            if rehearsal is not None:
                ended["rehearsal"] = msgspec.json.encode(rehearsal)
            if spent is not None:
                ended["spent"] = msgspec.json.encode(spent)
            connection.execute(update(tables.run).where(_run.run == number).values(ended))

    def discard(self, run_id: str) -> None:
        """Forget a plan that was never started."""
        with self._database.write() as connection:
            row = _row(connection, run_id)
            if row.started_ms is not None:
                raise UsageError(f"run {run_id} was started: it stays on record")
            forget_plans(connection, _run.run == row.run)
        self._heads.pop(run_id, None)

    def planned(self, run_id: str) -> tuple[str, int]:
        """The digest of the list as it stands now, and how many commands it lists."""
        record = self.run(run_id)
        with self._database.read() as connection:
            number = self._head(connection, run_id).number
            digest, _, commands = digest_of(connection, record, number)
        return digest, commands

    # ------------------------------------------------------------ while it is on

    def commit(
        self,
        run_id: str,
        entries: Sequence[Entry],
        claim: Claim | None = None,
        *,
        now_ms: int,
        clock_apart_ms: int = 0,
        spent: Spent | None = None,
    ) -> Granted:
        """Record entries and claim targets in one transaction, durable when this returns.

        `clock_apart_ms`, if not 0, is kept with the run where it is greater than what was;
        `spent`, if given, in the place of what was.
        """
        with self._database.write() as connection:
            head = self._head(connection, run_id)
            if clock_apart_ms:
                grew = (_run.run == head.number, _run.clock_apart_ms < clock_apart_ms)
                apart = update(tables.run).where(*grew).values(clock_apart_ms=clock_apart_ms)
                connection.execute(apart)
            if spent is not None:
                of_run = update(tables.run).where(_run.run == head.number)
                connection.execute(of_run.values(spent=msgspec.json.encode(spent)))
            return self._settling.commit(connection, head, entries, claim, now_ms)

    def recorded_elsewhere(
        self, run_id: str, ordinal: int, ids: Sequence[str], *, in_order_ms: int
    ) -> set[str]:
        """Ids that are known to be cancelled by other calls than those for this target.

        in_order_ms: moments of the local clock up to this one can be compared.
        """
        with self._database.read() as connection:
            head = self._head(connection, run_id)
            return across.recorded_elsewhere(connection, head, ordinal, ids, in_order_ms)

    # ------------------------------------------------------------ a gateway that asked for rest

    def pause(self, gateway: str) -> int | None:
        """Until when this gateway (its URL) asked for rest, in Unix ms; None when it did not."""
        with self._database.read() as connection:
            return _pause_of(connection, gateway)

    def keep_pause(self, gateway: str, until_ms: int) -> None:
        """Keep until when the gateway asked for rest; the later of two moments holds."""
        with self._database.write() as connection:
            kept = _pause_of(connection, gateway)
            if kept is None or kept < until_ms:
                connection.execute(delete(tables.pause).where(_pause.gateway == gateway))
                connection.execute(
                    insert(tables.pause), [{"gateway": gateway, "until_ms": until_ms}]
                )

    def forget_pause(self, gateway: str, until_ms: int) -> None:
        """The rest until then is over, or cannot be right; one that ends later is kept."""
        with self._database.write() as connection:
            this = (_pause.gateway == gateway, _pause.until_ms <= until_ms)
            connection.execute(delete(tables.pause).where(*this))

    # ------------------------------------------------------------ what is left open

    def in_doubt(self, run_id: str) -> list[Doubt]:
        """Targets that were claimed and not settled since, in the order of the plan."""
        with self._database.read() as connection:
            return list(doubts.in_doubt(connection, self._head(connection, run_id).number).values())

    def deferred(self, run_id: str) -> Iterator[int]:
        """Ordinals that were put off and not claimed since."""
        return self._sliced(run_id, doubts.deferred)

    def ordinals_with_outcome(self, run_id: str, kinds: Sequence[OutcomeKind]) -> Iterator[int]:
        """Ordinals whose final recorded outcome is one of `kinds`; none that is in doubt."""
        names = tuple(kind.value for kind in kinds)

        def listed(connection: Connection, run: int, after: int) -> list[int]:
            return doubts.with_outcome(connection, run, names, after)

        return self._sliced(run_id, listed)

    def unclaimed(self, run_id: str) -> range:
        """Ordinals that were never claimed: the end of the plan."""
        with self._database.read() as connection:
            head = self._head(connection, run_id)
            return range(self._settling.next_ordinal(connection, head), head.targets)

    def never_attempted(self, run_id: str) -> Iterator[int]:
        """Ordinals that a resume sends: put off, then never claimed."""
        yield from self.deferred(run_id)
        yield from self.unclaimed(run_id)

    def last_pass(self, run_id: str) -> int:
        """The highest pass so far; 0 before the first."""
        with self._database.read() as connection:
            return doubts.last_pass(connection, self._head(connection, run_id).number)

    def open_intents(self, run_id: str) -> dict[Device, int]:
        """Devices in doubt in other runs, each with the ms before which nothing was sent.

        In both spellings where the ledger knows them.
        """
        with self._database.read() as connection:
            return across.open_intents(connection, self._head(connection, run_id))

    # ------------------------------------------------------------ what became of it

    def counts(self, run_id: str) -> dict[OutcomeKind, int]:
        """How many targets ended in each outcome: every name, the sum is all targets."""
        with self._database.read() as connection:
            return self._counts(connection, _row(connection, run_id))

    def commands(self, run_id: str) -> int:
        """How many commands are recorded as cancelled, each once for its target."""
        with self._database.read() as connection:
            return reading.count_commands(connection, self._head(connection, run_id))

    def rows(self, run_id: str) -> Iterator[ReportRow]:
        """Every target of the run in the order of the plan, read in slices."""
        with self._database.read() as connection:
            head = self._head(connection, run_id)
            end = end_of(_row(connection, run_id))
            open_ones = doubts.in_doubt(connection, head.number)
        for lo in range(0, head.targets, reading.SLICE):
            hi = lo + reading.SLICE - 1
            with self._database.read() as connection:
                rows = reading.read_slice(connection, head, end, open_ones, lo, hi)
            yield from rows

    def find(self, name: str, value: str, *, rehearsals: bool = False) -> list[Found]:
        """Which runs touched this command or device, newest run first; one of each command.

        name: commandId, deviceKey or assetId. Rehearsals touched nothing real and are left out.
        """
        with self._database.read() as connection:
            return across.find(connection, name, value, rehearsals=rehearsals)

    def also_touched_by(self, run_id: str) -> AlsoTouched:
        """Other runs that touched devices of this one, from 48 h before it on, newest first."""
        with self._database.read() as connection:
            return across.also_touched(connection, self._head(connection, run_id))

    # ------------------------------------------------------------ helpers

    def _head(self, connection: Connection, run_id: str) -> Head:
        """The unchanging part of a run, read once."""
        head = self._heads.get(run_id)
        if head is None:
            head = self._heads[run_id] = head_of(connection, _row(connection, run_id))
        return head

    def _sliced(
        self, run_id: str, read: Callable[[Connection, int, int], list[int]]
    ) -> Iterator[int]:
        """Ordinals in slices, without those in doubt now: something newer is true of them."""
        with self._database.read() as connection:
            number = self._head(connection, run_id).number
            doubtful = doubts.in_doubt(connection, number)
        after = -1
        while True:
            with self._database.read() as connection:
                ordinals = read(connection, number, after)
            yield from (ordinal for ordinal in ordinals if ordinal not in doubtful)
            if len(ordinals) < doubts.SLICE:
                return
            after = ordinals[-1]

    def _newest(
        self, job: str | None, limit: int | None, *where: ColumnElement[bool]
    ) -> list[RunRecord]:
        """Such runs, of one job or of all, by when they began."""
        began = func.coalesce(_run.first_started_ms, _run.planned_ms)
        query = select(tables.run).order_by(began.desc(), _run.run.desc()).where(*where)
        if job is not None:
            query = query.where(_run.job == job)
        with self._database.read() as connection:
            rows = connection.execute(query.limit(limit)).all()
            return [self._record(connection, row) for row in rows]

    def _named(self, text: str) -> RunRecord:
        """The run of this id, or the only one whose id begins so."""
        query = select(tables.run).where(_run.run_id.startswith(text, autoescape=True))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(_run.run.desc())).all()
            meant = [row for row in rows if row.run_id.startswith(text)]
            exact = [row for row in meant if row.run_id == text] or meant
            if len(exact) == 1:
                return self._record(connection, exact[0])
        raise UsageError(self._unclear(text, [f"{row.run_id} ({row.job})" for row in exact]))

    def _record(self, connection: Connection, row: Row[Any]) -> RunRecord:
        names = {"state", "end", "rehearsal", "spent"}.symmetric_difference(
            RunRecord.__struct_fields__
        )
        given = {name: getattr(row, name) for name in names}
        rehearsal = row.rehearsal and msgspec.json.decode(row.rehearsal, type=Rehearsal)
        state = self._state(connection, row)
        spent = _spent(row, running=state == "running")
        return RunRecord(**given, rehearsal=rehearsal, end=end_of(row), state=state, spent=spent)

    def _state(self, connection: Connection, row: Row[Any]) -> RunState:
        """Started without an end is running as long as its process holds the job's lock."""
        if row.started_ms is None:
            return "planned"
        if row.finished_ms is not None:
            left = self._counts(connection, row)[OutcomeKind.NOT_ATTEMPTED]
            return "stopped" if left else "finished"
        if self._database.path is None:  # dies with its process
            return "running"
        return "running" if locked_by(self._url, row.job) == row.run_id else "interrupted"

    def _counts(self, connection: Connection, row: Row[Any]) -> dict[OutcomeKind, int]:
        """Targets by outcome, as kept when the run ended; else counted now."""
        if row.counts is not None:
            return msgspec.json.decode(row.counts, type=dict[OutcomeKind, int])
        return reading.count(connection, self._head(connection, row.run_id))

    def _unclear(self, text: str, candidates: list[str]) -> str:
        if not candidates:
            return f"{text}: no such run in ledger {self._database.name}: see `cancel-worker runs`"
        listed = ", ".join(candidates[:10]) + (", …" if len(candidates) > 10 else "")
        return f"{text}: {len(candidates)} runs begin so: write one of {listed}"


def _spent(row: Row[Any], *, running: bool = False) -> Spent:
    """What the starts of a run have used; of one that died, at least that."""
    spent = msgspec.json.decode(row.spent, type=Spent) if row.spent else Spent()
    died = row.started_ms is not None and row.finished_ms is None and not running
    return replace(spent, complete=False) if died else spent


def _pause_of(connection: Connection, gateway: str) -> int | None:
    return connection.execute(select(_pause.until_ms).where(_pause.gateway == gateway)).scalar()


def _row(connection: Connection, run_id: str) -> Row[Any]:
    row = connection.execute(select(tables.run).where(_run.run_id == run_id)).first()
    if row is None:
        raise UsageError(f"{run_id}: no such run in this ledger: see `cancel-worker runs`")
    return row
