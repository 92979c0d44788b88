"""The documentation tells the truth: links lead somewhere, examples do what stands beside them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from worker.config import load_settings
from worker.config.options import options
from worker.config.sources import variable
from worker.errors import InvalidInputError
from worker.job.plan import Repeat, Row, load_plain, read_job
from worker.job.schema import AbortEntry, JobFile, LimitsEntry
from worker.ledger.tables import metadata
from worker.model import OutcomeKind

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FORMAT, OPERATIONS = ROOT / "docs/job-format.md", ROOT / "docs/operations.md"
DEFAULTS = {
    "drain": 8.0,
    "retry.budget": 0.1,
    "limits.max_devices": 5000,
    "limits.concurrency": 16,
    "limits.rate": 50.0,
}
CODES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130, 143)


class Block(NamedTuple):
    """A fenced block, and what is printed beside it."""

    page: str
    line: int
    language: str
    body: str
    said: str | None  # the text block that follows at once


class Paper:
    """A sheet for small jobs."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, rows: Sequence[Row]) -> None:
        self.rows += rows

    def repeats(self, limit: int) -> list[Repeat]:
        first: dict[tuple[object, ...], Row] = {}
        found = []
        for row in self.rows:
            key = (row.source, row.productKey, row.deviceKey, row.assetId)
            if key in first and (row.source == 0 or row.commandIds is None):
                found.append(Repeat(first[key], row))
            first.setdefault(key, row)
        return found[:limit]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, also those inside a list; a text block joins the one before."""
    fence = r"^( *)```(\w*)\n(.*?)^\1```\n(?:\1```text\n(.*?)^\1```\n)?"
    text = page.read_text()
    for match in re.finditer(fence, text, re.MULTILINE | re.DOTALL):
        indent = match[1]
        body = re.sub(f"(?m)^{indent}", "", match[3])
        line = text.count("\n", 0, match.start()) + 1
        yield Block(str(page.relative_to(ROOT)), line, match[2], body, match[4])


def all_blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def named(block: Block) -> str:
    return f"{block.page}:{block.line}"


def is_job(block: Block) -> bool:
    return block.language == "yaml" and bool(re.search("(?m)^orgId:|^scope:", block.body))


def cells(page: Path, heading: str) -> list[str]:
    """The first cell of each row of the tables below a heading, without its marks."""
    section = re.split(rf"(?m)^#+ {re.escape(heading)}$", page.read_text())[1]
    section = re.split(r"(?m)^## ", section)[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line[:1] == "|"]
    return [name.strip("`") for row in rows for name in row.split(", ")]


def verdict_on(block: Block, folder: Path) -> str:
    """What the job loader says about an example; empty when it loads."""
    job = folder / "job.yaml"
    if block.language == "yaml":
        job.write_text(block.body)
        (folder / "fleet.csv").write_text("productKey,deviceKey\nbXuuAiku,mqtt_01\n")
    else:
        scope = "listed" if "ommandIds" in block.body else "all_cached"
        file = f"fleet.{block.language}"
        job.write_text(f"name: n\norgId: o1\nscope: {scope}\ndevices_from:\n  - file: {file}\n")
        (folder / file).write_text(block.body)
    try:
        read_job(job, Paper())
    except InvalidInputError as error:
        return str(error).replace(f"{folder}/", "") + "\n"
    return ""


JOBS = [
    block
    for block in all_blocks("yaml", "csv", "ndjson")
    if is_job(block) or block.language != "yaml"
]


@pytest.mark.parametrize("block", JOBS, ids=named)
def test_examples_load_or_are_refused_as_written(block: Block, tmp_path: Path) -> None:
    """A job or inventory in the docs loads, or is refused with exactly the text below it."""
    assert verdict_on(block, tmp_path) == (block.said or "")


CONFIGURATIONS = [block for block in all_blocks("yaml") if block.body.startswith("gateway:\n")]


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=named)
def test_configurations_are_complete(block: Block, tmp_path: Path) -> None:
    """A configuration in the docs is accepted, and enough for a command that sends."""
    file = tmp_path / "config.yaml"
    file.write_text(block.body)
    settings = load_settings(load_plain, {}, config=str(file))
    assert (settings.missing, settings.warnings) == ((), ())


def test_sample_of_a_run_is_what_it_prints(tmp_path: Path) -> None:
    """The README shows what its first command prints, but for times, ids and people."""
    sample = next(block.body for block in blocks(ROOT / "README.md") if not block.language)
    said = subprocess.run(
        [sys.executable, "-m", "worker", "run", "jobs/example.yaml", "--rehearse"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "XDG_STATE_HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert settled(said) == settled(sample)


def settled(text: str) -> str:
    """A summary without what differs from run to run."""
    text = re.sub(r"\b\d{8}T\d{6}Z-\w{6}\b", "RUN", text)
    text = re.sub(r"(?m)(?<= by )\S+$", "SOMEBODY", text)
    text = re.sub(r"(?m)\d+ search$", "SOME search", text)  # a search that lags is repeated
    return re.sub(r"\d+\.\d s(, [\d.]+ targets/s)?", "TIME", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the project, and its anchor a heading there."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if (
            not file.exists()
            or not file.is_relative_to(ROOT)
            or (anchor and anchor not in anchors(file))
        ):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The anchors that a forge makes of the headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("page", "heading"),
    [
        (ROOT / "README.md", "Outcomes"),
        (FORMAT, "Outcomes"),
        (OPERATIONS, "What to do for each outcome"),
    ],
    ids=str,
)
def test_every_outcome_is_documented(page: Path, heading: str) -> None:
    """Each outcome has its row in README, job format and operations, in the program's order."""
    known = [kind.value for kind in OutcomeKind]
    assert [name for name in cells(page, heading) if name in known] == known


@pytest.mark.parametrize("page", [ROOT / "README.md", OPERATIONS], ids=lambda page: page.name)
def test_every_exit_code_is_documented(page: Path) -> None:
    """Each exit code has its row, and no other one has."""
    assert [int(name) for name in cells(page, "Exit codes") if name.isdigit()] == list(CODES)


def test_every_stop_rule_is_documented() -> None:
    """Each rule that can end a run says what happened and what to do."""
    told = set(cells(OPERATIONS, "When a run stopped for safety")) - {"rule", "---"}
    assert rules_in_code() == told


def rules_in_code() -> set[str]:
    """The rules as the program spells them: what a Stop is made of, and what evidence names."""
    found = set()
    for path in sorted((ROOT / "worker").rglob("*.py")):
        text = path.read_text()
        found.update(re.findall(r'\bStop\(\s*"(\w+)"', text))
        found.update(re.findall(r'_throw\(\s*"(\w+)"', text))
        found.update(re.findall(r'(?m)^RULE_\w+: Final = "(\w+)"', text))
    return found | {"limit"}


def test_every_key_of_a_job_is_documented() -> None:
    """The tables of the job format name each key, and none that does not exist."""
    known = set(JobFile.__struct_fields__)
    assert {name for name in cells(FORMAT, "Keys") if name not in ("key", "---")} == known
    for heading, entry in (("Limits", LimitsEntry), ("When a run stops by itself", AbortEntry)):
        rows = {name for name in cells(FORMAT, heading) if name not in ("key", "---")}
        assert rows == set(entry.__struct_fields__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_are_mentioned_exist(page: Path) -> None:
    """A dotted key such as `ledger.url`, and a variable, is one of the configuration's."""
    sections = {path.partition(".")[0] for path in options()}
    text = page.read_text()
    mentioned = {
        name
        for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?:: [^`]*)?`", text)
        if name.partition(".")[0] in sections and not name.endswith((".db", ".py", ".yaml"))
    }
    internal = {"gateway.evidence", "gateway.token", "ledger.store", "ledger.writer"}
    job = {f"limits.{name}" for name in LimitsEntry.__struct_fields__}
    assert {name for name in mentioned - internal - job if name not in options()} == set()
    others = {
        "CANCEL_WORKER_CONFIG",
        "CANCEL_WORKER_ACTOR",
        "CANCEL_WORKER_GATEWAY_ACCESS_KEY",
        "CANCEL_WORKER_GATEWAY_SECRET_KEY",
    }
    known = others | {variable(path) for path in options()}
    assert set(re.findall(r"CANCEL_WORKER_[A-Z_]+", text)) - known == set()


def test_defaults_in_the_docs_are_those_of_the_program() -> None:
    """Numbers that people plan with are those of the program."""
    assert {path: options()[path].default for path in DEFAULTS} == DEFAULTS
    text = OPERATIONS.read_text()
    assert "`drain` (8 s)" in text
    assert "`retry.budget` (10 %)" in text
    assert "`max_devices` is 5000, `concurrency` 16 and `rate` 50/s" in FORMAT.read_text()


def test_tables_of_the_ledger_are_documented() -> None:
    """The architecture names each table of the ledger."""
    page = ROOT / "docs/architecture.md"
    assert {
        name for name in cells(page, "The ledger's tables") if name not in ("table", "---")
    } == set(metadata.tables)


@pytest.mark.parametrize("room", ["job", "gateway", "ledger", "run", "observe", "report", "config"])
def test_modules_in_the_architecture_exist(room: str) -> None:
    """Each module that the architecture names in a room is there."""
    page = (ROOT / "docs/architecture.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| `{room}/` |"))
    told = set(re.findall(r"`(\w+)`", row))
    files = {path.stem for path in (ROOT / "worker" / room).glob("*.py")}
    assert told
    assert told - files == set()
