"""The statements that carry an older ledger forward, one entry for each schema.

`tables.py` describes today's schema, and a new ledger is made from it. An older ledger gets the
statements of every later version, in one transaction. A test compares both ways.
To change the schema: change `tables.py` (a new column goes to the end of its table) and add one
entry here. An entry is never changed once a release has it.
"""

from __future__ import annotations

MIGRATIONS: dict[int, tuple[str, ...]] = {
    2: (
        "ALTER TABLE run ADD COLUMN clock_apart_ms INTEGER DEFAULT 0 NOT NULL",
        """CREATE TABLE pause (
            gateway TEXT NOT NULL, until_ms INTEGER NOT NULL, PRIMARY KEY (gateway)
        ) WITHOUT ROWID, STRICT""",
    ),
    3: (
        "ALTER TABLE run ADD COLUMN spent BLOB",
        # What an older version kept was of the last start alone.
        """UPDATE run SET spent = CAST(json_object(
            'requests', json_extract(CAST("end" AS TEXT), '$.requests'),
            'active_ms', max(0, finished_ms - started_ms),
            'complete', json(iif(started_ms = first_started_ms, 'true', 'false'))
        ) AS BLOB) WHERE "end" IS NOT NULL AND started_ms IS NOT NULL""",
        "ALTER TABLE run ADD COLUMN counts BLOB",
        "CREATE INDEX run_began ON run (coalesce(first_started_ms, planned_ms))",
        "CREATE INDEX run_open ON run (job) WHERE finished_ms IS NULL",
        """CREATE INDEX "target_deviceKey" ON target (run, "deviceKey")
            WHERE "deviceKey" IS NOT NULL""",
        'CREATE INDEX "target_assetId" ON target (run, "assetId") WHERE "assetId" IS NOT NULL',
        """CREATE TABLE alias (
            run INTEGER NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, ordinal INTEGER NOT NULL,
            PRIMARY KEY (run, name, value, ordinal)
        ) WITHOUT ROWID, STRICT""",
        """INSERT INTO alias
            WITH told AS (
                SELECT run, ordinal, deviceKey, assetId FROM outcome
                UNION ALL SELECT run, ordinal, deviceKey, assetId FROM command
            )
            SELECT run, 'deviceKey', told.deviceKey, ordinal
            FROM told JOIN target USING (run, ordinal) JOIN run USING (run)
            WHERE finished_ms IS NOT NULL AND told.deviceKey IS NOT target.deviceKey
            AND told.deviceKey IS NOT NULL
            UNION SELECT run, 'assetId', told.assetId, ordinal
            FROM told JOIN target USING (run, ordinal) JOIN run USING (run)
            WHERE finished_ms IS NOT NULL AND told.assetId IS NOT target.assetId
            AND told.assetId IS NOT NULL""",
    ),
}

FIRST_VERSION = 1
SCHEMA_VERSION = max(MIGRATIONS)


def statements_since(version: int) -> list[str]:
    """What a ledger of this schema lacks, in order."""
    return [
        statement
        for later in range(version + 1, SCHEMA_VERSION + 1)
        for statement in MIGRATIONS[later]
    ]
