"""Rows 44, 45, 85: SIGKILL at random instants, resumes that are killed too, nothing lost.

CI tells more of these stories by `python -m tests.system.kills`; here are enough to see that the
harness works, and that it would see a loss.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.system.inquest import Inquest
from tests.system.kills import tell_all
from tests.system.plots import draw
from tests.system.stage import stage


def test_kills_at_random_instants_lose_nothing() -> None:
    """Eight stories: ledger, log, report and gateway agree after every kill and at the end."""
    stories = tell_all(range(1, 9))
    assert [story.wrong for story in stories] == [()] * 8
    assert sum(sum(story.tally.kills.values()) for story in stories) >= 8


def test_a_lost_id_is_seen(tmp_path: Path) -> None:
    """The harness itself: an id taken out of a good ledger is a silent loss, and is named."""
    plot = draw(1)
    with stage(tmp_path, "calm", seed=1, busy=0.9) as gateway:
        job = plot.write_job(gateway)
        flags = ["--yes", "--report", "ndjson=report.ndjson"]
        assert gateway.command("run", job, *flags).returncode in (0, 3)
        good = Inquest(plot, gateway)
        good.at_the_end()
        assert good.wrong == []
        with closing(sqlite3.connect(gateway.ledger)) as ledger, ledger:
            one = "SELECT commandId FROM command WHERE result = 'cancelled' LIMIT 1"
            ledger.execute(f"DELETE FROM command WHERE commandId = ({one})")
        bad = Inquest(plot, gateway)
        bad.at_the_end()
        assert (bad.tally.lost, bad.tally.log_only) == (1, 1)
