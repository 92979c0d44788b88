"""Every form that is refused, with the whole text that says so (refused.txt)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.job.desk import Desk

HEADS = {
    "<all_cached>\n": "name: a\norgId: o1\nscope: all_cached\n",
    "<listed>\n": "name: a\norgId: o1\nscope: listed\n",
}
CASES = [
    case.partition("\n")[::2]
    for case in Path(__file__).with_name("refused.txt").read_text("utf-8").split("\n=== ")[1:]
]
ALL_CACHED, LISTED = HEADS.values()


@pytest.mark.parametrize(("case"), [case for _, case in CASES], ids=[title for title, _ in CASES])
def test_refused(desk: Desk, case: str) -> None:
    """A broken job is refused with every finding, each with its place and what to write."""
    given, expected = case.split(">>>\n")
    job, *inventories = re.split(r"^@ ", given, flags=re.MULTILINE)
    for short, head in HEADS.items():
        job = job.replace(short, head) if job.startswith(short) else job
    files = {
        name.replace(".", "_"): content
        for name, content in (inventory.split("\n", 1) for inventory in inventories)
    }
    assert expected.strip("\n") == desk.refused(job, **files)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"reason: \xff\n", "5:9: byte 0xff is not UTF-8: save the file as UTF-8"),
        (b"# \r\n# \r\xe9\n", "7:1: byte 0xe9 is not UTF-8: save the file as UTF-8"),
        (b"reason: \xed\xa0\x80\n", "5:9: byte 0xed is not UTF-8: save the file as UTF-8"),
        (b"reason: caf\xc3", "5:12: byte 0xc3 is not UTF-8: save the file as UTF-8"),
        (b"reason: a\0b\n", "5:10: U+0000 cannot stand in a file: remove it"),
        (b"reason: \x1b[31m\n", "5:9: U+001B cannot stand in a file: remove it"),
        (b"reason: a\xef\xbb\xbfb\n", "5:10: U+FEFF cannot stand in a file: remove it"),
        (b"reason: a\xe2\x80\xa8b\n", "5:10: U+2028 cannot stand in a file: remove it"),
        (b"reason: a\xc2\x85b\n", "5:10: U+0085 cannot stand in a file: remove it"),
        (b"reason: " + b"x" * 65537, "5:9: longer than 64 KiB: shorten it"),
        (b"x" * 65537 + b": x", "5:1: longer than 64 KiB: shorten it"),
    ],
)
def test_refused_bytes(desk: Desk, content: bytes, expected: str) -> None:
    """What no editor shows is refused by its code point, at its place."""
    job = ALL_CACHED.encode() + b"devices: [{assetId: a}]\n" + content
    if content.startswith(b"x"):
        job = job.replace(b"\nx", b"\n? x").replace(b"x: x", b"x\n: x")
        expected = expected.replace("5:1", "5:3")
    assert f"job.yaml:{expected}" == desk.refused(job)


def test_utf16(desk: Desk) -> None:
    """UTF-16, which a YAML parser would take, is refused: a job file is UTF-8."""
    expected = "job.yaml:1:1: byte 0xff is not UTF-8: save the file as UTF-8"
    assert expected == desk.refused(ALL_CACHED.encode("utf-16"))


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("f.csv", b"\xff\xfea\0", "1:1: UTF-16, not UTF-8: save the file as UTF-8"),
        (
            "f.csv",
            b"assetId\n\xc3\xbc\xe9\n",
            "2:2: byte 0xe9 is not UTF-8: save the file as UTF-8",
        ),
        ("f.csv", b"\xef\xbb\xbf", "1:1: the file is empty: write a header and rows"),
        ("f.csv", b"assetId\na\0b\n", "2:1: assetId: holds U+0000, a control character: remove it"),
        (
            "f.csv",
            b"assetId\nx\xe2\x80\x8b\n",
            "2:1: assetId: holds U+200B, an invisible character: remove it",
        ),
        ("f.csv", b"assetId\n" + b"a" * 65537, "2:1: assetId: is longer than 64 KiB: shorten it"),
        (
            "f.csv",
            b"assetId\n" + b"a" * (1 << 20),
            "2:1: a line longer than 1 MiB: write one row a line",
        ),
        (
            "f.csv",
            b"assetId,b\na," + b'"' + b"\n" * (1 << 20),
            "2:1: a quoted cell that is never closed: close it",
        ),
        (
            "f.csv",
            b"assetId" + b"," * 1000,
            "1:1: more than 1000 columns: leave out what is not needed",
        ),
        (
            "f.csv",
            b"assetId,b\na,c\rb,d\r",
            (
                "2:4: a quote or carriage return inside a cell: "
                'quote the whole cell and double each " in it, end lines with LF or CR LF'
            ),
        ),
        ("f.ndjson", b"[" * 100_000, "1:1: nested too deep: write one flat object a line"),
        (
            "f.ndjson",
            b"{%s}" % b",".join(b'"%d":"a"' % i for i in range(101)),
            "1:1: more than 100 keys: leave out what is not needed",
        ),
    ],
)
def test_refused_inventory_bytes(desk: Desk, file: str, content: bytes, expected: str) -> None:
    """Damage of an inventory that a text editor would hide is refused at its place."""
    job = f"{ALL_CACHED}devices_from: [{{file: {file}}}]\n"
    assert f"{file}:{expected}" == desk.refused(job, **{file.replace(".", "_"): content})


def test_too_much_at_once(desk: Desk) -> None:
    """A value that is read whole is bounded; a mapping has at most 1,000 keys."""
    job = f"{ALL_CACHED}devices: [{{assetId: a}}]\nlimits: [{'a,' * 100_000}]\n"
    assert desk.refused(job) == "job.yaml:5:200008: more than 100000 values: write fewer"
    many = "".join(f"k{i}: 1\n" for i in range(1001))
    assert desk.refused(many).endswith("… and 981 more")
    files = "".join(f"- file: f{i}.csv\n" for i in range(1001))
    expected = "job.yaml:5:1: devices_from: more than 1000 files: unite some"
    assert expected == desk.refused(f"{ALL_CACHED}devices_from:\n{files}")


def test_first_twenty_by_position(desk: Desk) -> None:
    """The first 20 findings of all sources are shown in order, the rest is counted."""
    job = f"{LISTED}devices_from: [{{file: f.csv}}, {{file: g.csv}}]\nverify: some\nreason:\n"
    f = "assetId,commandIds\n" + "a,1\n,2\n" * 10
    g = "assetId,commandIds\n" + "b,1\nb,\n" * 10
    shown = desk.refused(job, f_csv=f, g_csv=g).splitlines()
    places = [line.split(": ")[0] for line in shown]
    first = ["job.yaml:5:9", "job.yaml:6:8", *[f"f.csv:{line}:1" for line in range(3, 22, 2)]]
    # Every second row of g.csv misses its commandIds, and every row after the first repeats it.
    rest = ["g.csv:3:1", "g.csv:3:1", "g.csv:4:1", "g.csv:5:1", "g.csv:5:1", "g.csv:6:1"]
    assert [*first, *rest, "g.csv:7:1", "g.csv:7:1", "… and 21 more"] == places
    assert shown == desk.refused(job, f_csv=f, g_csv=g).splitlines()


def test_ten_thousand_findings_end_the_reading(desk: Desk) -> None:
    """A file with 10,000 findings is not read on, and never accepted."""
    job = f"{ALL_CACHED}devices: [{'x, ' * 10_001}]\n"
    assert desk.refused(job).endswith("… and 9980 more")


def test_broken_file_says_nothing_about_what_is_missing(desk: Desk) -> None:
    """Where YAML breaks off, only what was read is judged."""
    expected = (
        'job.yaml:1:7: name: 12 is a number in YAML: quote it: "12"\n'
        "job.yaml:2:10: not YAML, mapping values are not allowed in this context: "
        "check the indentation, or quote the value"
    )
    assert expected == desk.refused("name: 12\nreason: b: c\n")
