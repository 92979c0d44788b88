"""The ledger of a world: the project's own store in memory, what of it is durable, how it fails.

Opening a store compiles its statements, so that stores are kept and given the next world's
database. A commit runs in one piece, so that what a crash leaves is what is in the database: the
tail that was not committed lived in the worker and is gone with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from functools import lru_cache
from random import Random
from typing import Any, TypeVar

import anyio
import msgspec
from msgspec import Struct

from tests.simulation.clock import WALL_MS
from tests.simulation.truth import Key
from worker.ledger.entry import NewRun
from worker.ledger.store import Store

T = TypeVar("T")
Row = tuple[str | None, str | None, str | None, str | None]

_KNOWN = {"_url", "_database", "_settling", "_heads"}
_POOL: list[Store] = []
_LISTED_PER_DEVICE = 4

# scope, devices, variant, twin spelling, backwards, odd keys
Plan = tuple[str, int, int, bool, bool, int]


class Listing(Struct, eq=False):
    """The list of a run, in the order of its plan."""

    job: str
    scope: str  # all_cached | listed
    rows: list[Row]  # productKey, deviceKey, assetId, commandIds
    keys: list[Key] = []  # the devices, as spelled
    ordinals: dict[Key, int] = {}

    def __post_init__(self) -> None:
        self.keys = [(row[2],) if row[2] else (row[0] or "", row[1] or "") for row in self.rows]
        self.ordinals = {key: ordinal for ordinal, key in enumerate(self.keys)}

    def calls(self, key: Key) -> list[str | None]:
        """The command of each call that a target of the list needs; None: all of them."""
        listed = self.rows[self.ordinals[key]][3]
        return [*listed.split()] if listed else [None]


class FailingStore(Exception):  # noqa: N818
    """Never raised: names the failure in a traceback."""


class Ledger:
    """One ledger over all processes of a world."""

    def __init__(self, number: int, image: sqlite3.Connection) -> None:
        """number: which of the pooled stores, one a ledger that is open at the same time."""
        while len(_POOL) <= number:
            _POOL.append(_open())
        self.store = _POOL[number]
        self.raw: sqlite3.Connection = self.store._database.raw
        if self.raw.in_transaction:
            self.raw.rollback()
        image.backup(self.raw)
        self.commits = 0
        self.fail_at: int | None = None  # the write that fails
        self.fail_after = False  # it became durable all the same
        self.failed = False
        self.on_commit: Callable[[], None] = lambda: None
        self._changes = self.raw.total_changes
        self._claims: tuple[int, int, dict[int, int]] = (-1, -1, {})
        self.open()

    def open(self) -> Store:
        """The store as a new process finds it."""
        store, database = self.store, self.store._database
        assert vars(store).keys() == _KNOWN, "a store has more to forget between two processes"
        if self.raw.in_transaction:
            self.raw.rollback()  # what a crash cut off
        store._heads.clear()
        database._broken = None
        database.engine.dialect.do_commit = self._commit  # type: ignore[method-assign, assignment]
        return store

    def image(self) -> bytes:
        return self.raw.serialize()

    def _commit(self, connection: Any) -> None:
        changes = self.raw.total_changes
        if changes == self._changes:
            connection.commit()
            return
        self._changes = changes
        self.commits += 1
        failing = self.commits == self.fail_at
        if failing and not self.fail_after:
            self.failed = True
            connection.rollback()  # as SQLite does when the disk is full
            raise _error(sqlite3.SQLITE_FULL)
        connection.commit()
        self.on_commit()
        if failing:
            self.failed = True
            raise _error(sqlite3.SQLITE_IOERR)

    # ---------------------------------------------------------------- read on our own

    def claimed(self, run: int) -> dict[int, int]:
        """Ordinal -> pass of what a crash now would leave in doubt, from the tables alone."""
        commits, of, found = self._claims
        if (commits, of) == (self.commits, run) and not self.raw.in_transaction:
            return found
        found = {}
        for lo, pass_no, hi, members in self.raw.execute(
            'SELECT lo, "pass", hi, members FROM claim WHERE run = ?', (run,)
        ):
            named = map(int, members.split()) if members else range(lo, hi + 1)
            for ordinal in named:
                found[ordinal] = max(found.get(ordinal, 0), pass_no)
        for ordinal, pass_no in self.raw.execute(
            'SELECT ordinal, max("pass") FROM outcome WHERE run = ? GROUP BY ordinal', (run,)
        ):
            if pass_no >= found.get(ordinal, 0):
                found.pop(ordinal, None)
        self._claims = (self.commits, run, found)
        return found

    def other_spellings(self, keys: set[Key]) -> set[Key]:
        """The other names of devices, as far as lists and replies on record tell."""
        if not keys:
            return set()
        pairs: set[tuple[Key, Key]] = set()
        for table in ("target", "outcome", "command"):
            for product, device, asset in self.raw.execute(
                f"SELECT DISTINCT productKey, deviceKey, assetId FROM {table}"
            ):
                if None not in (product, device, asset):
                    pairs |= {((product, device), (asset,)), ((asset,), (product, device))}
        return {other for known, other in pairs if known in keys}


def submit(disk: Random, slow: float) -> Callable[[Callable[[], T]], Awaitable[T]]:
    """Run a ledger call in one piece, at a moment that the seed draws."""

    async def run(fn: Callable[[], T], /) -> T:
        if disk.random() < 0.5:
            await anyio.sleep(disk.uniform(0.0, 0.002) + slow * disk.random())
        result = fn()
        if disk.random() < 0.2:
            await anyio.sleep(disk.uniform(0.0, 0.002) + slow * disk.random())
        return result

    return run


def _error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("the disk of this world")
    error.sqlite_errorcode = code
    return error


def _open() -> Store:
    return Store.open("sqlite://")


@lru_cache(1)
def _empty() -> tuple[Store, sqlite3.Connection]:
    store = _open()
    return store, _copy(store._database.raw)


def _copy(of: sqlite3.Connection) -> sqlite3.Connection:
    kept = sqlite3.connect(":memory:")
    of.backup(kept)
    return kept


@lru_cache(512)
def planned(plan: Plan) -> sqlite3.Connection:
    """A database that holds one frozen plan, made by the store's own draft."""
    store, empty = _empty()
    store._heads.clear()
    empty.backup(store._database.raw)
    freeze(store, listing_of(plan), "run-1")
    return _copy(store._database.raw)


def freeze(store: Store, listing: Listing, run_id: str) -> None:
    """Plan a run as the command line would."""
    with store.draft() as draft:
        draft.add([(0, 10 + n, 5, *row) for n, row in enumerate(listing.rows)])
        store.freeze(
            draft,
            NewRun(
                run_id=run_id,
                job=listing.job,
                reason=None,
                actor="nobody",
                orgId="o1",
                gateway="sim http://gateway.sim",
                scope=listing.scope,
                version="0",
                planned_ms=WALL_MS,
                settings=b"{}",
            ),
            ["job.yaml"],
        )


def listing_of(plan: Plan) -> Listing:
    """The list of a plan."""
    return Listing("sim", plan[0], _rows_of(plan))


def _rows_of(plan: Plan) -> list[Row]:
    scope, devices, variant, twin, backwards, odd = plan
    chance = Random(f"{plan[:4]}")
    rows: list[Row] = []
    for index in range(devices):
        productKey, deviceKey, assetId = names_of(index, odd)
        ids = None
        if scope == "listed":
            listed = chance.sample(range(_LISTED_PER_DEVICE), chance.randrange(1, 4))
            ids = " ".join(command_id(index, number) for number in sorted(listed))
        asset = chance.random() < 0.2 * variant
        both = twin and index == 0
        if asset or both:
            rows.append((None, None, assetId, ids))
        if not asset or both:
            rows.append((productKey, deviceKey, None, ids))
    if variant == 3:
        chance.shuffle(rows)
    if backwards:
        rows.reverse()
    return rows


#: Ends of keys that have to be escaped, and what they become when that goes wrong.
_ODD = (
    ("+b", " b"),
    (" b", "+b"),
    ("%2Bb", "+b"),
    ("%41", "A"),
    ("&b", ""),
    ("&deviceKey=d", ""),
    ("/b", "%2Fb"),
    ("#b", ""),
    ("=b", "%3Db"),
    ("?b", "%3Fb"),
    ("é", "Ã©"),
    ("设备", "%E8%AE%BE%E5%A4%87"),
)


def names_of(index: int, odd: int = 0, *, misread: bool = False) -> tuple[str, str, str]:
    """productKey, deviceKey and assetId of a device; odd draws keys that have to be escaped.

    misread: the names of the device that is called instead when they are not.
    """
    productKey, end = f"p{index % 2}", ""
    if odd:
        productKey += "+/%" if odd % 3 == 0 else ""
        end = _ODD[(index * 5 + odd) % len(_ODD)][misread]
    return productKey, f"d{index}{end}", f"a{index}{end}"


def command_id(index: int, number: int) -> str:
    """The id of a command that was cached before the run."""
    return str(2_278_935_391_225_600_000 + index * 1000 + number)


def settle_terms(ledger: Ledger, run_id: str, settings: msgspec.Struct) -> None:
    """Give the planned run the terms that this world drew."""
    encoded = msgspec.json.encode(settings)
    ledger.raw.execute("UPDATE run SET settings = ? WHERE run_id = ?", (encoded, run_id))
    ledger._changes = ledger.raw.total_changes
