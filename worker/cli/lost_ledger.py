"""What a command does when its ledger's file was removed, moved or replaced under it.

The open database still has the record and goes with the process. So the rows of the run are
written to a file beside the ledger's path before anything else is done; only if that fails they
go to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from worker.ledger.store import Store
from worker.report.files import Content, ReportFile, Unwritten, Written, write_reports
from worker.report.rows import write_ndjson


def rescue(lost: str, store: Store, content: Content, say: Callable[[str], None]) -> dict[str, str]:
    """Write the run's rows to a place that outlives the process, and say where they are.

    `lost` is what happened to the ledger. Returns the path of the file and its sha256; nothing
    when the rows went to stderr.
    """
    run_id = content.record.run_id
    content = replace(content, rows=lambda: store.rows(run_id))  # no signal cuts these short
    file = ReportFile("ndjson", f"{store.path}.{run_id}.ndjson", run_id)
    results = write_reports([file], content)
    problems = [result.problem for result in results if isinstance(result, Unwritten)]
    if problems:
        said = f"the rows of run {run_id} cannot be written to {file.path}: {problems[0]}"
        say(f"error: {lost}, and {said}. Keep the lines that follow: they are its only record")
        with suppress(OSError, ValueError):  # a stderr that is gone
            write_ndjson(content.rows(), sys.stderr.buffer)
            sys.stderr.buffer.flush()
    else:
        said = f"its rows are in {file.path}, and nowhere else: keep that file"
        say(f"error: {lost}. What lies at {store.path} now lacks run {run_id}: {said}")
    return {result.path: result.sha256 for result in results if isinstance(result, Written)}
