"""Inventories beside the job file: CSV and NDJSON, strict and streamed.

Stands apart because cells are text already: nothing is retyped here, but spreadsheets and scripts
bring damages of their own (rounded numbers, ragged rows, other separators).
"""

from __future__ import annotations

from pathlib import Path

from worker.job.csv_rows import read_csv
from worker.job.inventory_row import Inventory
from worker.job.ndjson_rows import read_ndjson
from worker.job.source import UnreadableError, opened_inside


def read_inventory(folder: Path, name: str, inventory: Inventory) -> str:
    """Read one inventory to its end; the sha256 of its bytes, "" when it broke off.

    Raises UnopenedError for a file that may not be opened.
    """
    findings = inventory.findings
    with opened_inside(folder, name) as file:
        try:
            if name.endswith(".csv"):
                read_csv(file.stream, inventory)
            else:
                read_ndjson(file.stream, inventory)
        except UnreadableError as error:
            findings.add(error.line, error.column, error.problem, error.remedy)
            return ""
        if not inventory.rows and not findings.count:
            findings.add(1, 1, "names no device", "add rows, or remove the file from the job")
        return file.sha256()
