"""One connection to the ledger's database: opening it, its transactions, its errors.

It stands apart so that everything above speaks of rows and nothing else: here alone are the
PRAGMAs, the begin of a transaction, and the one border at which a foreign error becomes a
message for people (without SQL, which could carry a value).
One connection is opened first and kept: a run that is short of file descriptors still records.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, StaticPool, create_engine, event, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from worker.errors import CancelWorkerError, LedgerError, UsageError
from worker.ledger import tables
from worker.ledger.migrations import FIRST_VERSION, SCHEMA_VERSION, statements_since
from worker.ledger.place import Identity, Place, identity_of

#: What follows the ledger's name in the names of the files beside it: SQLite's, and locks.
SIDE_FILES = re.compile(r"-wal|-shm|-journal|(\.[A-Za-z0-9-]+)?\.lock")
_ASK_EVERY = 100_000  # of SQLite's instructions: some milliseconds
BUSY_TIMEOUT = 60.0  # seconds that another process may hold the write lock
_SWITCHES = 20  # tries to switch a new ledger to the write-ahead log

_SAYINGS = {
    sqlite3.SQLITE_FULL: "disk full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_BUSY: f"locked by another process for more than {BUSY_TIMEOUT:.0f} s",
    sqlite3.SQLITE_LOCKED: "locked by another connection",
    sqlite3.SQLITE_IOERR: "disk I/O error",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_PERM: "permission denied",
    sqlite3.SQLITE_AUTH: "permission denied",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "not a ledger",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_CONSTRAINT: "a record contradicts an earlier one",
    sqlite3.SQLITE_INTERRUPT: "given up",
}
_IS_VERSION = tables.meta.c.name == "schema"
_FAILURES = (SQLAlchemyError, sqlite3.Error, UnicodeError, OverflowError)


def ledger_path(url: str) -> Path | None:
    """The file behind an SQLite URL, absolute; None where there is no file. Raises UsageError."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UsageError(f"ledger.url: not a database URL: write sqlite:///{_example()}") from None
    if parsed.drivername != "sqlite":
        said = f"ledger.url: {parsed.drivername} is not supported yet: write sqlite:///{_example()}"
        raise UsageError(said)
    if parsed.query:
        raise UsageError("ledger.url: options after ? are not supported")
    if parsed.database in {None, "", ":memory:"}:
        return None
    return Path(str(parsed.database)).absolute()


def _example() -> str:
    return "/var/lib/cancel-worker/ledger.db"


class Database:
    """One open ledger; raises UsageError when it cannot be used."""

    def __init__(self, url: str, *, name: str | None = None, to_look: bool = False) -> None:
        """`name` is what messages call it, if not by its path.

        to_look: where the ledger cannot be written, it is opened to be read.
        """
        self.path = ledger_path(url)
        self.name = name or (str(self.path) if self.path else "the temporary ledger")
        self._broken: str | None = None
        self._only_read = bool(to_look and self.path and not _is_writable(self.path))
        with self._opening():
            if self.path and not self._only_read:
                _prepare(self.path)
            opened = identity_of(self.path) if self.path else None
            if self.path and self._only_read:
                self.raw = _open_to_read(self.path)
            else:
                # '' is a private database that moves to an unnamed file when it outgrows memory.
                self.raw = _connect(str(self.path or ""))
        # pysqlite's own transactions are off: a begin says which lock it takes.
        self.engine = create_engine("sqlite://", poolclass=StaticPool, creator=lambda: self.raw)
        event.listen(self.engine, "begin", _begin)
        self._connection = self.engine.connect()
        try:
            with self._opening():
                self._settle_schema()
            watched = None if self._only_read else self.path
            self._place = _place(watched, opened) if watched else None
        except UsageError:
            self.close()
            raise

    def lost(self) -> str | None:
        """What happened to the ledger's file, for people; None while its path leads to it.

        A lost ledger can still be written and read by this process, and by no other one.
        """
        return self._place.lost() if self._place else None

    @contextmanager
    def write(self, error: type[CancelWorkerError] = LedgerError) -> Iterator[Connection]:
        """One transaction that takes the write lock first; durable when the block has ended.

        A failure is `error` and final: after a failed sync nobody knows what a second try
        would prove, so that this ledger takes no further write.
        """
        if self._broken:
            raise error(self._broken)
        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                yield connection
        except _FAILURES as failure:
            said = self._message(failure)
            if not _is_interrupted(failure):
                self._broken = said
            raise error(said) from None

    @contextmanager
    def read(self, error: type[CancelWorkerError] = LedgerError) -> Iterator[Connection]:
        """One short transaction without the write lock; temporary tables may be written."""
        try:
            with self._transaction("BEGIN") as connection:
                yield connection
        except _FAILURES as failure:
            raise error(self._message(failure)) from None

    @contextmanager
    def until(self, given_up: Callable[[], bool] | None) -> Iterator[None]:
        """Ask during the statements of the block whether it is given up; then they fail.

        What such a statement has done is undone, and the ledger takes further writes.
        """
        self.raw.set_progress_handler(given_up, _ASK_EVERY)
        try:
            yield
        finally:
            self.raw.set_progress_handler(None, 0)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
        self.engine.dispose()
        self.raw.close()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        self._connection.execution_options(ledger_begin=begin)
        with self._connection.begin():
            yield self._connection

    def _message(self, failure: Exception) -> str:
        return f"ledger {self.name}: {_saying(failure)}"

    @contextmanager
    def _opening(self) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            said = f"ledger {self.name}: {failure.strerror}: {self._remedy}"
            raise UsageError(said) from None
        except _FAILURES as failure:
            raise UsageError(f"{self._message(failure)}: {self._remedy}") from None

    @property
    def _remedy(self) -> str:
        return _COPY if self._only_read else _REMEDY

    def _settle_schema(self) -> None:
        with self._transaction("BEGIN") as connection:
            version = self._version(connection)  # before anything of a foreign file is changed
        if self._only_read:
            if version == SCHEMA_VERSION:
                return
            self._carry_a_copy()
        self._write_ahead()
        self.raw.execute("PRAGMA synchronous=FULL")
        if version != SCHEMA_VERSION:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                _bring_up_to_date(connection, self._version(connection))  # as it is under the lock

    def _carry_a_copy(self) -> None:
        """Go on with a private copy, which can be carried forward from its older schema."""
        copy = _connect("")
        self.raw.backup(copy)
        self._connection.close()
        self.engine.dispose()
        self.raw.close()
        self.raw = copy
        self._connection = self.engine.connect()

    def _write_ahead(self) -> None:
        """Switch to the write-ahead log.

        SQLite does not wait here for a process that is just making the same ledger: we do.
        """
        for left in reversed(range(_SWITCHES)):
            try:
                self.raw.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as failure:
                if not left or failure.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
            self.raw.execute("BEGIN EXCLUSIVE")  # which waits
            self.raw.execute("ROLLBACK")

    def _version(self, connection: Connection) -> int | None:
        """The schema's version; None for an empty database. UsageError for one we cannot use."""
        names = self.engine.dialect.get_table_names(connection)
        if not names:
            return None
        if tables.meta.name in names and tables.run.name in names:
            query = select(tables.meta.c.value).where(_IS_VERSION)
            value = connection.execute(query).scalar()
            version = int(value) if value is not None and value.isdigit() else 0
            if version > SCHEMA_VERSION:
                said = f"ledger {self.name}: written by a newer cancel-worker (schema {version})"
                raise UsageError(f"{said}: use that version, or give another ledger.url")
            if version >= FIRST_VERSION:
                return version
        raise UsageError(f"ledger {self.name}: a database, but not a ledger: give another one")


_REMEDY = "give a folder that you may write to, with ledger.url or --ledger"
_COPY = "copy it, with the -wal file beside it, to a folder that you may write to"


def _connect(database: str, *, is_uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(
        database, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, uri=is_uri
    )


def _is_writable(path: Path) -> bool:
    """Whether a ledger that is there, and the files beside it, can be changed."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _open_to_read(path: Path) -> sqlite3.Connection:
    """A ledger that cannot be written; raises sqlite3.Error, OSError.

    SQLite reads the write-ahead log through a file that it shares with writers. Where there is
    neither and none can be made, nobody writes: then the file alone is the whole ledger.
    """
    if not os.access(path, os.R_OK):
        raise UsageError(f"ledger {path}: you may not read it: ask its owner, or read a copy")
    path = Path(os.path.realpath(path))
    raw = _connect(f"{path.as_uri()}?mode=ro", is_uri=True)
    try:
        raw.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.OperationalError:
        raw.close()
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise
        raw = _connect(f"{path.as_uri()}?mode=ro&immutable=1", is_uri=True)
    return raw


def _prepare(path: Path) -> None:
    """Make the folder and an empty file that only its owner can read; raises OSError.

    A file that is there is not opened: closing it again would drop the locks that another
    connection of this process holds on it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError:
        raise _error(errno.ENOTDIR) from None
    if path.is_dir():
        raise _error(errno.EISDIR)
    if path.exists() and path.stat().st_nlink > 1:
        raise UsageError(
            f"ledger {path}: the file has a second name (a hard link), under which another run "
            "would not see this one: remove one of the two names"
        )
    with suppress(FileExistsError):
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o600))  # SQLite gives its side files the same mode
    if not _is_writable(path):
        raise _error(errno.EROFS if os.geteuid() == 0 else errno.EACCES)


def _place(path: Path, opened: Identity | None) -> Place:
    """Where the ledger is from now on; UsageError when it is not there any more."""
    place = Place(path, opened)
    if lost := place.lost():
        raise UsageError(f"{lost}: nothing was sent, try again")
    return place


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _bring_up_to_date(connection: Connection, version: int | None) -> None:
    """Make the tables, or change those of an older schema; nothing where another was first."""
    todo = tables.schema(connection.dialect) if version is None else statements_since(version)
    for statement in todo:
        connection.exec_driver_sql(statement)
    value = str(SCHEMA_VERSION)
    if version is None:
        connection.execute(insert(tables.meta), [{"name": "schema", "value": value}])
    else:
        connection.execute(update(tables.meta).where(_IS_VERSION).values(value=value))


def _begin(connection: Connection) -> None:
    options: Any = connection.get_execution_options()
    connection.exec_driver_sql(options["ledger_begin"])


def _is_interrupted(failure: Exception) -> bool:
    return _code(_original(failure)) == sqlite3.SQLITE_INTERRUPT


def _original(failure: Exception) -> BaseException | None:
    return failure.orig if isinstance(failure, DBAPIError) else failure


def _code(failure: BaseException | None) -> int | None:
    return getattr(failure, "sqlite_errorcode", None)


def _saying(failure: Exception) -> str:
    original = _original(failure)
    code = _code(original)
    if code is None:
        return f"unexpected {type(original).__name__}"
    return _SAYINGS.get(code & 0xFF, f"database error {code}")
