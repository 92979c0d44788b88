"""The JSON Schema of the `-o json` document and of the `json` report (`schema report`).

Apart from the document because it also knows the rows; both come from the same structs that
are encoded, so they cannot drift.
"""

from __future__ import annotations

from typing import Any

import msgspec

from worker.report.rows import RowLine
from worker.report.summary import SCHEMA_VERSION, Summary


def report_schema() -> dict[str, Any]:
    """One schema for both: `rows` is there in a report and absent from `-o json`."""
    (summary, row), parts = msgspec.json.schema_components(
        (Summary, RowLine), ref_template="#/$defs/{name}"
    )
    head = parts.pop("Summary")
    head["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    head["properties"]["rows"] = {"type": "array", "items": row}
    for part in (head, *parts.values()):
        if part.get("type") == "object":
            part["additionalProperties"] = False
    # defaults fill a struct in; what is written always has every key
    parts["Outcomes"]["required"] = list(parts["Outcomes"]["properties"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **head,
        "title": "A run of cancel-worker",
        "description": f"{summary.get('description', '')} Version {SCHEMA_VERSION}.".strip(),
        "$defs": parts,
    }
