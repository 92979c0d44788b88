"""Inputs drawn from a seed: valid ones in many spellings, then broken where a format is weak.

Half of what is drawn should still load, so that the comparison with the source text has something
to compare; the other half should be refused, and never crash.
"""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
# What YAML, CSV or a spreadsheet likes to make something else of.
ODD = [
    *["012345", "0x1F", "1_000", "12:30:45", "1.10", "2024-01-01", "NO", "on", "~", "null", "1e5"],
    *["089", "0o17", "9e999", ".inf", "-0", "+1", "=", "<<", "a b", "设备1", "é", "e\u0301", "a#b"],
    *["a&commandId=1", "x&deviceKey=other", "%2F", "+", "#a", "AA:BB", "a:b", "- a", "1.23E+17"],
    *[
        "\u202eabc",
        "\u200b",
        "\ufeffx",
        "a\u00a0b",
        "a\u2028b",
        " lead",
        "trail ",
        "a\tb",
        "\0",
        "",
    ],
    *[
        "'quoted'",
        '"',
        "''",
        "a'b",
        "a,b",
        "a;b",
        "&a",
        "*a",
        "!a",
        "@a",
        "`a",
        "%a",
        "|",
        ">",
        "{}",
    ],
]
PIECES = [
    *[
        "&a ",
        "*a",
        "<<: *a",
        "!!str ",
        "!!binary ",
        "!!python/object:os.system ",
        "!x ",
        "- ",
        ": ",
    ],
    *["\n", "\r\n", "\r", "\t", "{", "}", "[", "]", '"', "'", "|\n", ">-\n", "#", "%YAML 1.1\n"],
    *[
        "---\n",
        "...\n",
        "\0",
        "\x07",
        "\x1b[2J",
        "\x7f",
        "\x85",
        "\u2028",
        "\ufeff",
        "? ",
        ",",
        ";",
    ],
    *["devices:", "deviceKeys: [a]", "commandIds: ['1']", "assetId: x", "limits: ", "abort: off"],
    *["scope: listed", "name: b", "window: now", "  ", "\n  - ", "\\u202e", "\\ud800", "1e999"],
]
BROKEN = [
    b"\xff",
    b"\xc3(",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b"\0",
]


def corpus(suffix: str) -> list[bytes]:
    """The examples of the project and what its tests refuse, by file name ending."""
    found = [path.read_bytes() for path in sorted((ROOT / "jobs").glob(f"*.{suffix}"))]
    if suffix == "yaml":
        refused = (ROOT / "tests/job/refused.txt").read_text()
        found += [part.encode() for part in refused.split("\n\n") if "devices" in part]
    return found


def job(chance: random.Random) -> bytes:
    """A job file."""
    if chance.random() < 0.2:
        return _mutated(chance, chance.choice(corpus("yaml")), 0.8)
    listed = chance.random() < 0.3
    head = ["name: a", "orgId: o1", f"scope: {'listed' if listed else 'all_cached'}"]
    if chance.random() < 0.3:
        head.append(f"reason: {_spelled(chance, _text(chance))}")
    if chance.random() < 0.2:
        head.append("limits: {max_devices: 10, concurrency: 2, rate: 5/s, deadline: 1m}")
    chance.shuffle(head)
    entries = [_entry(chance, listed) for _ in range(chance.randint(1, 5))]
    if chance.random() < 0.2:
        text = "\n".join(
            [*head, f"devices: [{', '.join('{' + ', '.join(e) + '}' for e in entries)}]"]
        )
    else:
        shown = [
            "- " + "\n  ".join(e) if chance.random() < 0.5 else "- {" + ", ".join(e) + "}"
            for e in entries
        ]
        text = "\n".join([*head, "devices:", *shown])
    return _mutated(chance, (text + "\n").encode("utf-8", "surrogatepass"), 0.4)


def table(chance: random.Random) -> bytes:
    """A CSV inventory."""
    if chance.random() < 0.1:
        return _mutated(chance, chance.choice(corpus("csv")), 0.8)
    out = io.StringIO()
    ends = chance.choice(["\n", "\r\n"])
    styles: list[Literal[0, 1]] = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL]
    columns = chance.choice(
        [["assetId"], ["productKey", "deviceKey"], ["deviceKey", "note", "productKey"]]
    )
    csv.writer(out, lineterminator=ends, quoting=chance.choice(styles)).writerow(columns)
    for _ in range(chance.randint(0, 5)):
        writer = csv.writer(out, lineterminator=ends, quoting=chance.choice(styles))
        writer.writerow([_text(chance) for _ in columns])
    return _mutated(chance, out.getvalue().encode("utf-8", "surrogatepass"), 0.4)


def lines(chance: random.Random) -> bytes:
    """An NDJSON inventory."""
    if chance.random() < 0.1:
        return _mutated(chance, chance.choice(corpus("ndjson")), 0.8)
    made = []
    for _ in range(chance.randint(1, 5)):
        names = chance.choice([["assetId"], ["productKey", "deviceKey"]])
        row = {name: _text(chance) for name in names}
        made.append(json.dumps(row, ensure_ascii=chance.random() < 0.5))
    return _mutated(chance, "\n".join(made).encode("utf-8", "surrogatepass"), 0.4)


def config(chance: random.Random) -> bytes:
    """A configuration."""
    example = (ROOT / "config.example.yaml").read_bytes()
    if chance.random() < 0.5:
        kept = [line for line in example.splitlines(keepends=True) if chance.random() < 0.8]
        example = b"".join(kept)
    return _mutated(chance, example, 0.9)


def answer(chance: random.Random) -> bytes:
    """The body of a reply to a cancel or a search."""
    structs = [_struct(chance) for _ in range(chance.choice((0, 1, 2, 51)))]
    body: dict[str, object] = {
        "code": chance.choice([0, 0, 0, 0, "0", 0.0, False, None, 1203, 99400, 99500, 10**30]),
        "msg": _text(chance),
        "requestId": chance.choice(["r1", None, 7, "\x1b[31m", "x" * 600]),
        "data": chance.choice([structs] * 5 + [None, {}, "x"]),
        "pagination": {"totalSize": len(structs), "pageNo": 1, "pageSize": 50},
    }
    text = json.dumps(body, ensure_ascii=chance.random() < 0.5)
    if chance.random() < 0.2:
        text = text.replace('"code"', '"code": 1, "code"', 1)
    return _mutated(chance, text.encode("utf-8", "surrogatepass"), 0.4)


def _struct(chance: random.Random) -> dict[str, object]:
    struct: dict[str, object] = {
        "commandId": chance.choice(
            [f"22{chance.randrange(10**17):017}"] * 6 + [2**63, 1.5, "", "x", None]
        ),
        "orgId": chance.choice(["o1", "o1", "o1", "o2", None]),
        "productKey": "p",
        "deviceKey": chance.choice(["d", "d", "d", "other", 5]),
        "state": chance.choice([1, 2, 2, "2", None]),
        "createTime": chance.choice([1_790_000_000_000, -1, 1e300, "x", None]),
        "inputData": chance.choice([{}, {"a": [1, 2.50]}, "x", None]),
    }
    return {key: value for key, value in struct.items() if chance.random() < 0.95}


def _entry(chance: random.Random, listed: bool) -> list[str]:
    kind = chance.choice(["pair", "pair", "asset", "keys"])
    ids = [
        f"commandIds: [{', '.join(_spelled(chance, str(chance.randrange(10**19))) for _ in '12')}]"
    ]
    more = ids if listed else []
    if kind == "asset":
        return [f"assetId: {_spelled(chance, _text(chance))}", *more]
    product = f"productKey: {_spelled(chance, _text(chance))}"
    if kind == "keys" and not listed:
        keys = ", ".join(_spelled(chance, _text(chance)) for _ in range(chance.randint(1, 4)))
        return chance.sample([product, f"deviceKeys: [{keys}]"], 2)
    return [product, f"deviceKey: {_spelled(chance, _text(chance))}", *more]


def _text(chance: random.Random) -> str:
    if chance.random() < 0.15:
        return chance.choice(ODD)
    if chance.random() < 0.1:
        return "".join(
            chr(chance.choice((chance.randrange(32, 127), chance.randrange(0x20, 0xD7FF))))
            for _ in "1234"
        )
    return f"{chance.choice(('mqtt_', 'AA:BB-', 'x.', ''))}{chance.randrange(10**6)}z"


def _spelled(chance: random.Random, text: str) -> str:
    """A scalar in one of YAML's spellings."""
    match chance.randrange(4):
        case 0:
            return text
        case 1:
            return "'" + text.replace("'", "''") + "'"
        case 2:
            return json.dumps(text, ensure_ascii=False)
        case _:
            return '"' + "".join(f"\\U{ord(c):08x}" for c in text) + '"'


def _mutated(chance: random.Random, whole: bytes, share: float) -> bytes:
    """The input, or (with this chance) broken in up to three places."""
    if chance.random() >= share:
        return whole
    for _ in range(chance.randint(1, 3)):
        whole = chance.choice(_MUTATIONS)(chance, whole)
    return whole


def _at(chance: random.Random, whole: bytes) -> int:
    """A place: anywhere, or (more telling) where a token or a line begins."""
    if whole and chance.random() < 0.6:
        near = [i + 1 for i, byte in enumerate(whole[:4000]) if byte in b"\n :,[{\"'"]
        if near:
            return chance.choice(near)
    return chance.randint(0, len(whole))


def _insert(chance: random.Random, whole: bytes) -> bytes:
    at = _at(chance, whole)
    piece = chance.choice(PIECES).encode("utf-8", "surrogatepass")
    if chance.random() < 0.1:
        piece = chance.choice(BROKEN)
    return whole[:at] + piece + whole[at:]


def _line(chance: random.Random, whole: bytes) -> bytes:
    """A line twice, away, or elsewhere."""
    parts = whole.splitlines(keepends=True) or [b""]
    at = chance.randrange(len(parts))
    match chance.randrange(3):
        case 0:
            parts.insert(chance.randrange(len(parts) + 1), parts[at])
        case 1:
            del parts[at]
        case _:
            parts.insert(chance.randrange(len(parts)), parts.pop(at))
    return b"".join(parts)


def _odd(chance: random.Random, whole: bytes) -> bytes:
    """An odd value behind a colon."""
    at = whole.find(b": ", _at(chance, whole))
    end = whole.find(b"\n", at)
    if at < 0 or end < 0:
        return whole
    return whole[: at + 2] + chance.choice(ODD).encode() + whole[end:]


def _flip(chance: random.Random, whole: bytes) -> bytes:
    at = chance.randrange(len(whole) + 1)
    return whole[:at] + bytes([chance.randrange(256)]) + whole[at + 1 :]


def _deep(chance: random.Random, whole: bytes) -> bytes:
    at, depth = _at(chance, whole), chance.choice((3, 19, 21, 200))
    opened, closed = chance.choice([(b"[", b"]"), (b"{a: ", b"}"), (b'{"a":', b"}"), (b"- ", b"")])
    return whole[:at] + opened * depth + b"x" + closed * depth + whole[at:]


def _alias(chance: random.Random, whole: bytes) -> bytes:
    """An anchor and its aliases, each ten of the one before."""
    bomb = b"a0: &a0 x\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9)
    )
    return chance.choice([bomb + whole, whole + bomb])


def _whole(chance: random.Random, whole: bytes) -> bytes:
    """The file as another program would save it."""
    return chance.choice(
        [
            b"\xef\xbb\xbf" + whole,
            whole.replace(b"\n", b"\r\n"),
            whole.replace(b"\n", b"\r"),
            whole.replace(b"  ", b"\t"),
            whole.decode("utf-8", "replace").encode("utf-16"),
            whole[: chance.randint(0, len(whole))],
            whole + b"---\n" + whole,
        ]
    )


_MUTATIONS = [_insert, _insert, _insert, _line, _odd, _flip, _deep, _alias, _whole]
