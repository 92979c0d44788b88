"""Names of targets that replies told and the plan does not have, kept for `find`.

They are written in one go when a run ends: indexes on outcomes would cost a run four times what
the outcomes cost. Of a run that has not ended, outcomes and commands are read instead.
"""

from __future__ import annotations

from sqlalchemy import Connection, Select, Table, and_, delete, insert, literal, select, union

from worker.ledger.recall import RUN
from worker.ledger.tables import alias, command, outcome, target

NAMES = ("deviceKey", "assetId")


def keep(connection: Connection, run: int) -> None:
    """Keep the names of a run that has ended, and no others of it."""
    connection.execute(delete(alias).where(alias.c.run == run))
    connection.execute(_KEEP, {"run": run})


def _told(table: Table, name: str) -> Select[tuple[int, str, str, int]]:
    """The names in such rows of a run where the plan has another one, or none."""
    told = table.c[name]
    same_target = and_(target.c.run == table.c.run, target.c.ordinal == table.c.ordinal)
    rows = select(table.c.run, literal(name), told, table.c.ordinal)
    rows = rows.join_from(table, target, same_target)
    return rows.where(table.c.run == RUN, told.is_not(None), told.is_distinct_from(target.c[name]))


def _only_commands_told(name: str) -> Select[tuple[int, str, str, int]]:
    same_target = and_(outcome.c.run == command.c.run, outcome.c.ordinal == command.c.ordinal)
    known = select(outcome.c.run).where(same_target, outcome.c[name] == command.c[name])
    return _told(command, name).where(~known.exists())


_KEEP = insert(alias).from_select(
    ["run", "name", "value", "ordinal"],
    union(
        *(_told(outcome, name) for name in NAMES), *(_only_commands_told(name) for name in NAMES)
    ),
)
