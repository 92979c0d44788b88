"""Inputs of 1 MiB that are dear to read, and what reading each costs.

Each is read in a child of its own, whose address space is limited and whose peak is measured by
the kernel; the time is the child's processor time, so that a busy machine changes nothing.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.fuzz.targets import TARGETS
from tests.job.desk import Desk

SIZE = 1 << 20  # bytes
MOST_SECONDS, MOST_MIB = 2.0, 300
_ADDRESSES = 2 << 30  # bytes; what is far beyond the bound dies
_JOB = b"name: a\norgId: o1\nscope: all_cached\ndevices:\n"
_ONE = b"- assetId: a\n"
ROOT = Path(__file__).parents[2]


class Measured(Struct, frozen=True):
    """One input and its cost."""

    target: str
    name: str
    seconds: float
    mib: float
    code: int  # 0: it was read or refused, as it should

    def too_much(self) -> bool:
        return self.code != 0 or self.seconds > MOST_SECONDS or self.mib > MOST_MIB


def measure(rounds: int = 1) -> list[Measured]:
    """Read every large input in a fresh process; the random ones `rounds` times."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.large", str(rounds)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    return msgspec.json.decode(done.stdout, type=list[Measured])


def inputs(rounds: int) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Target, name and maker of each."""
    for name, piece in _REPEATED.items():
        yield "job (YAML)", name, lambda p=piece: _filled(_JOB + _ONE, p)  # type: ignore[misc]
        yield "configuration (YAML)", name, lambda p=piece: _filled(b"", p)  # type: ignore[misc]
    for name, head, piece in _TABLES:
        yield "inventory (CSV)", name, lambda h=head, p=piece: _filled(h, p)  # type: ignore[misc]
    for name, head, piece in _OBJECTS:
        yield "inventory (NDJSON)", name, lambda h=head, p=piece: _filled(h, p)  # type: ignore[misc]
        for target in ("reply to a cancel (JSON)", "reply to a search (JSON)"):
            yield target, name, lambda h=head, p=piece: _filled(h, p)  # type: ignore[misc]
    for number in range(rounds):
        for target, (_, draw) in TARGETS.items():
            yield target, f"drawn {number}", lambda d=draw, n=number: _grown(d, n)  # type: ignore[misc]


_REPEATED = {
    "many devices": b"- productKey: p\n  deviceKey: mqtt_%d\n",
    "many flow devices": b"- {productKey: p, deviceKey: mqtt_%d}\n",
    "the same device": b"- assetId: a\n",
    "keys": b"- {productKey: p, deviceKeys: [a%d, b%d]}\n",
    "ids": b"- {assetId: a%d, commandIds: ['%d']}\n",
    "unknown keys": b"k%d: 1\n",
    "one long plain": b"x",
    "one long quoted": b'"',
    "escapes": b'"\\u0041\\x41',
    "lists in lists": b"[",
    "mappings in mappings": b"{a: ",
    "dashes": b"- ",
    "questions": b"? ",
    "colons": b"a: ",
    "anchors": b"- &a%d x\n",
    "aliases": b"- *a\n",
    "tags": b"- !!str x\n",
    "merges": b"- <<: {a: b}\n",
    "comments": b"# x\n",
    "one comment": b"#",
    "documents": b"---\na\n",
    "directives": b"%%TAG !a%d! tag:x,2000:\n",
    "block scalars": b"- |\n x\n",
    "folded": b"- >\n  x\n\n",
    "spaces": b" ",
    "tabs": b"\t",
    "ends": b"\n",
    "returns": b"\r",
    "nul": b"\0",
    "marks": b"\xef\xbb\xbf",
    "not text": b"\xff",
    "commas": b",",
    "wide letters": "设".encode(),
    "odd values": b"- deviceKey: 012345\n",
}
_TABLES = [
    ("rows", b"productKey,deviceKey\n", b"p,mqtt_%d\n"),
    ("quoted rows", b"assetId\n", b'"a""%d"\n'),
    ("quotes", b"assetId\n", b'"'),
    ("commas", b"assetId\n", b","),
    ("columns", b"assetId", b",c%d"),
    ("an open cell", b'assetId\n"', b"x\n"),
    ("open and shut", b"assetId\n", b'"\n"'),
    ("ids", b"assetId,commandIds\na,", b"%d "),
    ("returns", b"assetId\n", b"a\r"),
    ("blank", b"assetId\n", b"\n"),
]
_OBJECTS = [
    ("rows", b"", b'{"assetId":"a%d"}\n'),
    ("lists in lists", b'{"code":0,"data":', b"["),
    ("objects in objects", b"", b'{"data":'),
    ("digits", b'{"code":', b"9"),
    ("long text", b'{"code":0,"msg":"', b"x"),
    ("escapes", b'{"assetId":"', b"\\u0041"),
    ("backslashes", b'{"assetId":"', b"\\"),
    ("keys", b'{"code":0', b',"k%d":1'),
    ("same keys", b'{"code":0', b',"code":0'),
    ("structs", b'{"code":0,"data":[{}', b',{"commandId":"22%d"}'),
    ("broken structs", b'{"code":0,"data":[{}', b',{"commandId":"22%d","data":['),
    ("data again", b'{"code":0', b',"data":[{"commandId":"1"}'),
    ("quotes", b"", b'"'),
    ("numbers", b"[", b"1e9,"),
    ("spaces", b'{"code":0', b" "),
]


def _filled(head: bytes, piece: bytes) -> bytes:
    """The head, then the piece again and again, numbered where it has a place for that."""
    count = SIZE // max(1, len(piece)) + 1
    numbered = piece.count(b"%d")
    if not numbered:
        return (head + piece * count)[:SIZE]
    made = b"".join(piece % ((n,) * numbered) for n in range(count))
    return (head + made)[:SIZE]


def _grown(draw: Callable[[random.Random], bytes], number: int) -> bytes:
    """A drawn input, a part of which fills the whole size."""
    chance = random.Random(f"large {number}")
    whole = draw(chance) or b"x"
    start = chance.randrange(len(whole))
    part = whole[start : start + chance.randint(1, 60)] or b"x"
    return (whole[:start] + part * (SIZE // len(part) + 1) + whole[start:])[:SIZE]


def _costs(target: str, name: str, content: bytes, desk: Desk) -> Measured:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
            TARGETS[target][0](desk, content)
            code = 0
        except BaseException:  # noqa: BLE001 - the child ends here, whatever it is
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    seconds = used.ru_utime + used.ru_stime
    return Measured(target, name, seconds, used.ru_maxrss / 1024, os.waitstatus_to_exitcode(status))


def _main() -> None:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for target, name, make in inputs(int(sys.argv[1])):
            found.append(_costs(target, name, make(), Desk(Path(folder))))
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    _main()
