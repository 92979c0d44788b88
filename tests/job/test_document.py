"""The strict loader by itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.job.desk import Desk
from worker.errors import InvalidInputError
from worker.job.document import BrokenError, Document, Node, load_plain, resolved
from worker.job.findings import Findings
from worker.job.source import Text, UnreadableError


def test_load_plain(desk: Desk) -> None:
    """A small file comes back whole, with the source text of each scalar and its place."""
    path = desk.write("config.yaml", "limits: {rate: 50/s, on: [012, 'x']}\nurl: \"a\"\n")
    expected = Node(
        "map",
        1,
        1,
        entries=(
            (
                Node("scalar", 1, 1, "limits", plain=True),
                Node(
                    "map",
                    1,
                    9,
                    entries=(
                        (
                            Node("scalar", 1, 10, "rate", plain=True),
                            Node("scalar", 1, 16, "50/s", plain=True),
                        ),
                        (
                            Node("scalar", 1, 22, "on", plain=True, tag="bool"),
                            Node(
                                "seq",
                                1,
                                26,
                                items=(
                                    Node("scalar", 1, 27, "012", plain=True, tag="int"),
                                    Node("scalar", 1, 32, "x"),
                                ),
                            ),
                        ),
                    ),
                ),
            ),
            (Node("scalar", 2, 1, "url", plain=True), Node("scalar", 2, 6, "a")),
        ),
    )
    root = load_plain(path)
    assert expected == root
    assert root.get("url") == Node("scalar", 2, 6, "a")
    assert root.get("ledger") is None


def test_load_plain_empty(desk: Desk) -> None:
    """A configuration may be all comments."""
    assert load_plain(desk.write("config.yaml", "# nothing\n")) == Node("map", 1, 1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: 1\na: 2\n", "2:1: a is written twice: first on line 1"),
        ("- a\n", "1:1: not a mapping: write key: value lines"),
        ("a: *b\n", "1:4: *b is an alias: write the value out"),
        ("a: 1\n---\n", "2:1: a second document: write one document a file"),
    ],
)
def test_load_plain_is_strict(desk: Desk, content: str, expected: str) -> None:
    """The same rules as for a job."""
    path = desk.write("config.yaml", content)
    with pytest.raises(InvalidInputError) as caught:
        load_plain(path)
    assert f"{path}:{expected}" == str(caught.value)


def test_load_plain_missing(tmp_path: Path) -> None:
    """A file that is not there is a finding."""
    with pytest.raises(InvalidInputError, match="cannot be read"):
        load_plain(tmp_path / "config.yaml")


def test_load_plain_too_much_wrong(desk: Desk) -> None:
    """Ten thousand findings end the reading."""
    path = desk.write("config.yaml", f"a: [{'&a x,' * 10_001}]\n")
    with pytest.raises(InvalidInputError, match="and 9980 more"):
        load_plain(path)


@given(st.text(st.sampled_from("0123456789_.:eE+-xboOnNfFyYsStTrRuUaAlL~=< "), max_size=9))
def test_resolved_as_pyyaml_does(text: str) -> None:
    """A plain scalar is typed exactly as PyYAML's own resolver would."""
    resolver: Any = yaml.resolver.Resolver()
    expected = resolver.resolve(yaml.ScalarNode, text, (True, False))
    assert expected == f"tag:yaml.org,2002:{resolved(text)}"


def test_without_the_c_parser() -> None:
    """Without libyaml nothing is read slowly and differently: it is refused."""
    findings = Findings("a.yaml")
    with pytest.raises(BrokenError):
        Document(Text(io.BytesIO(b"a: 1")), findings, loader=None)
    assert [str(one) for one in findings.first()] == [
        "a.yaml:1:1: this PyYAML has no C parser: install PyYAML with libyaml"
    ]


class _Dribble(io.RawIOBase):
    """Hands out its bytes a few at a time, and may fail at the end."""

    def __init__(self, content: bytes, size: int, error: OSError | None = None) -> None:
        self._rest, self._size, self._error = content, size, error

    def read(self, _size: int = -1) -> bytes:
        head, self._rest = self._rest[: self._size], self._rest[self._size :]
        if not head and self._error:
            raise self._error
        return head


@given(st.text(st.sampled_from("ab\r\n\u00e9\u8bbe\U0001f600"), max_size=12), st.integers(1, 3))
def test_place_of_a_fault_in_pieces(text: str, size: int) -> None:
    """A fault has the same place however the bytes arrive, and all before it is handed out."""
    content = text.encode() + b"\xff"
    stream: Any = _Dribble(content, size)
    reader = Text(stream)
    read: list[str] = []
    with pytest.raises(UnreadableError) as caught:
        read.extend(iter(reader.read, ""))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    expected = (text, len(lines), len(lines[-1]) + 1)
    assert expected == ("".join(read), caught.value.line, caught.value.column)


def test_disk_fails() -> None:
    """An error of the disk ends the reading with its reason."""
    stream: Any = _Dribble(b"a: 1\n", 3, OSError(5, "Input/output error"))
    findings = Findings("a.yaml")
    document = Document(Text(stream), findings)
    assert document.root() is not None
    with pytest.raises(BrokenError):
        document.node()
    assert [str(one) for one in findings.first()] == [
        "a.yaml:2:1: cannot be read (Input/output error)"
    ]


def test_long_file_is_no_long_value() -> None:
    """The bound on a value is not one on the file: it starts anew with each value."""
    stream: Any = _Dribble(b"a: [" + b"x, " * 1000 + b"]", 10)
    document = Document(Text(stream, longest=100), Findings("a.yaml"))
    assert document.root() is not None
    assert len(document.node().entries[0][1].items) == 1000


class _Endless:
    """A quoted scalar that never ends."""

    given = 0

    def read(self, size: int) -> bytes:
        self.given += size
        return b'a: "' + b"x" * (size - 4) if self.given == size else b"x" * size


def test_endless_scalar() -> None:
    """A value that does not end is given up after 16 MiB, not read into memory."""
    stream: Any = _Endless()
    findings = Findings("a.yaml")
    document = Document(Text(stream), findings)
    assert document.root() is not None
    with pytest.raises(BrokenError):
        document.node()
    assert "more than 16 MiB without a value" in str(findings.first()[0])
    assert stream.given < 17 << 20
