"""Whether a file is ours to write, whatever name it goes by (row 98)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from worker.writing import Form, Guarded, flaw

LINES = Form("our lines", re.compile(rb"line "))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a ledger that has three names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    ledger = tmp_path / "ledger.db"
    ledger.write_text("")
    (tmp_path / "link").symlink_to("ledger.db")
    (tmp_path / "hard").hardlink_to(ledger)
    return tmp_path


@pytest.mark.parametrize("kept", ["ledger.db", "link", "hard", "./sub/../ledger.db"])
@pytest.mark.parametrize("path", ["ledger.db", "link", "hard", "./sub/../ledger.db", "/full"])
def test_one_file_by_any_two_names(folder: Path, kept: str, path: str) -> None:
    """By link, hard link, detour or full path: it is the same file."""
    guarded = Guarded()
    guarded.add(kept, "the ledger")
    name = path.replace("/full", f"{folder}/ledger.db")
    assert flaw(name, LINES, guarded) == "is the ledger"


def test_a_file_that_is_not_there_yet(folder: Path) -> None:
    """Two paths that will be one file are one."""
    guarded = Guarded()
    guarded.add("sub/new", "another report")
    assert flaw("./sub/../sub/new", LINES, guarded) == "is another report"
    assert flaw("sub/other", LINES, guarded) is None


def test_side_files(folder: Path) -> None:
    """Beside the real file, and nothing that only begins like it."""
    guarded = Guarded()
    guarded.add("link", "the ledger", re.compile("-wal|-shm"))
    found = [flaw(f"ledger.db{rest}", LINES, guarded) for rest in ("-wal", "-shm", "-walk", ".csv")]
    assert found == ["is the ledger", "is the ledger", None, None]
    assert flaw("sub/ledger.db-wal", LINES, guarded) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", None),
        ("line 1\n", None),
        ("Dear diary", "holds something else than our lines"),
        ("\nline 1\n", "holds something else than our lines"),
    ],
)
def test_what_is_there_is_ours_or_empty(folder: Path, text: str, said: str | None) -> None:
    (folder / "file").write_text(text)
    assert flaw("file", LINES, Guarded()) == said


def test_what_is_no_regular_file(folder: Path) -> None:
    os.mkfifo("pipe")
    found = [flaw(path, LINES, Guarded()) for path in ("pipe", "/dev/null", "sub")]
    assert found == ["is not a regular file"] * 3


def test_where_a_stream_was_redirected_to(folder: Path) -> None:
    """A pipe or a terminal there guards nothing."""
    guarded = Guarded()
    with Path("out").open("w") as out:
        guarded.add(out.fileno(), "where the result goes")
        assert flaw("out", LINES, guarded) == "is where the result goes"
    reading, writing = os.pipe()
    guarded.add(reading, "a pipe")
    assert flaw(f"/proc/self/fd/{writing}", LINES, guarded) == "is not a regular file"
    os.close(reading)
    os.close(writing)


def test_a_copy_goes_its_own_way(folder: Path) -> None:
    guarded = Guarded()
    guarded.add("ledger.db", "the ledger")
    copy = guarded.copy()
    copy.add("sub/new", "a report")
    assert (guarded.find("hard"), guarded.find("sub/new")) == ("the ledger", None)
    assert (copy.find("hard"), copy.find("sub/new")) == ("the ledger", "a report")
