"""Laws of the loader: nothing crashes it, nothing is altered, memory stays flat."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.job.desk import Desk
from worker.errors import InvalidInputError
from worker.job.identity import rounded_flaw

HEAD = "name: a\norgId: o1\nscope: all_cached\n"
PIECES = [
    *["&a ", "*a", "<<: ", "!!str ", "- ", ": ", "\n", "{", "}", "[", "]", '"', "'", "|\n", ">-\n"],
    *["\t", "\r", "#", "%", "---\n", "...\n", "\0", "\u2028", "\ufeff", "? ", "~", "012", "1e999"],
    *["devices:", "deviceKeys: [a]", "commandIds: ['1']", "assetId: ", "limits: ", "abort: off"],
    *["scope: listed", "\\u202e", ",", ";", "@", "\x85", "%TAG ! tag:x,2000:\n", "  ", "\n  - "],
]
SEEN = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp")), min_size=1).filter(
    lambda text: text == text.strip() and not rounded_flaw(text)
)
ANY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """One desk for all examples of a property."""
    return Desk(tmp_path_factory.mktemp("desk"))


def check(desk: Desk, job: bytes, **inventories: bytes) -> None:
    """Read it; when it is refused, then with places and in words that can be printed."""
    refused: InvalidInputError | None = None
    try:
        desk.read(job, **inventories)
    except InvalidInputError as error:
        refused = error
    for one in refused.findings if refused else ():
        assert one.line >= 1
        assert one.column >= 1
        assert f"{one.problem}{one.remedy}".isprintable()
    assert refused is None or refused.findings


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.integers(0, 90), st.binary(max_size=3))
@settings(max_examples=400, deadline=None)
def test_no_job_crashes(shared: Desk, pieces: list[str], at: int, raw: bytes) -> None:
    """Whatever a file holds, it is accepted or refused with places, in printable words."""
    whole = f"{HEAD}devices:\n- {{productKey: p, deviceKey: d}}\n- assetId: a\n".encode()
    check(shared, whole[:at] + "".join(pieces).encode() + raw + whole[at:])


@given(
    st.sampled_from(["f.csv", "f.ndjson"]),
    st.lists(st.sampled_from([*PIECES, '{"assetId":', '"a"}', "\\ud800", "1E+5"]), max_size=8),
    st.integers(0, 60),
    st.binary(max_size=3),
)
@settings(max_examples=400, deadline=None)
def test_no_inventory_crashes(
    shared: Desk, name: str, pieces: list[str], at: int, raw: bytes
) -> None:
    """The same for inventories."""
    whole = b'productKey,deviceKey\np,d\n"p",e\n'
    if name == "f.ndjson":
        whole = b'{"assetId": "a"}\n{"productKey": "p", "deviceKey": "d"}\n'
    content = whole[:at] + "".join(pieces).encode() + raw + whole[at:]
    job = f"{HEAD}devices_from: [{{file: {name}}}]\n".encode()
    check(shared, job, **{name.replace(".", "_"): content})


def written(text: str, name: str) -> dict[str, str]:
    """The job and the inventory that name a device so."""
    if name == "job":
        quoted = "".join(
            c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text
        )
        return {"job": f'{HEAD}devices: [{{assetId: "{quoted}"}}]\n'}
    job = f"{HEAD}devices_from: [{{file: {name}}}]\n"
    out = io.StringIO()
    if name == "f.csv":
        csv.writer(out).writerows([["assetId", "note"], [text, "x"]])
    else:
        out.write(json.dumps({"assetId": text}))
    return {"job": job, name.replace(".", "_"): out.getvalue()}


@pytest.mark.parametrize("name", ["job", "f.csv", "f.ndjson"])
@given(text=SEEN)
@settings(deadline=None)
def test_identity_is_never_altered(shared: Desk, name: str, text: str) -> None:
    """Visible text arrives exactly as it was written, in each format."""
    shared.read(**written(text, name))
    assert [(None, None, text, None)] == shared.devices()


@pytest.mark.parametrize("name", ["job", "f.csv", "f.ndjson"])
@given(text=ANY)
@settings(deadline=None)
def test_identity_is_exact_or_refused(shared: Desk, name: str, text: str) -> None:
    """Any text arrives exactly or is refused; what cannot be seen is refused."""
    unseen = any(unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp"} for c in text)
    try:
        shared.read(**written(text, name))
    except InvalidInputError:
        assert unseen or text != text.strip() or rounded_flaw(text)
    else:
        assert not unseen
        assert [(None, None, text, None)] == shared.devices()


@given(text=st.text(st.sampled_from("0123456789abcdefx_.:eE+-~=<nulNULtrueTofn"), min_size=1))
@settings(max_examples=400, deadline=None)
def test_plain_scalar_is_its_source_text(shared: Desk, text: str) -> None:
    """An unquoted value arrives as the characters of the file, or is refused."""
    try:
        shared.read(f"{HEAD}devices:\n- assetId: {text}\n")
    except InvalidInputError:
        return
    assert [(None, None, text, None)] == shared.devices()


MEASURE = """
import resource, sys
from pathlib import Path
from worker.job.plan import read_job

class Counter:
    rows = 0
    def add(self, rows): self.rows += len(rows)
    def repeats(self, limit): return []

sheet = Counter()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_job(Path(sys.argv[1]), sheet)
print(sheet.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("form", ["deviceKeys", "late productKey", "devices", "csv", "ndjson"])
def test_memory_is_flat(desk: Desk, form: str) -> None:
    """200,000 devices cost no more than 8 MiB, in every form."""
    numbers = range(200_000)
    keys = "".join(f"  - mqtt_{i:07d}\n" for i in numbers)
    job = f"{HEAD}devices:\n- productKey: p\n  deviceKeys:\n{keys}"
    if form == "late productKey":
        job = f"{HEAD}devices:\n- deviceKeys:\n{keys}  productKey: p\n"
    elif form == "devices":
        rows = "".join(f"- {{productKey: p, deviceKey: mqtt_{i:07d}}}\n" for i in numbers)
        job = f"{HEAD}devices:\n{rows}"
    elif form == "csv":
        job = f"{HEAD}devices_from: [{{file: f.csv}}]\n"
        lines = "".join(f"p,mqtt_{i:07d}\n" for i in numbers)
        desk.write("f.csv", f"productKey,deviceKey\n{lines}")
    elif form == "ndjson":
        job = f"{HEAD}devices_from: [{{file: f.ndjson}}]\n"
        rows = "".join(f'{{"productKey": "p", "deviceKey": "mqtt_{i:07d}"}}\n' for i in numbers)
        desk.write("f.ndjson", rows)
    path = desk.write("job.yaml", job)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    rows_read, grown_kib = map(int, done.stdout.split())
    assert rows_read == 200_000
    assert grown_kib < 8 * 1024
