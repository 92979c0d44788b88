"""The table of faults is complete and names tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from tests.simulation.coverage import ROWS

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs/faults.md").read_text()
LINE = re.compile(r"^\| ([0-9]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


@cache
def functions(path: str) -> frozenset[str]:
    """The test functions of a file below tests/."""
    tree = ast.parse((ROOT / "tests" / path).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def rows() -> dict[int, tuple[str, list[str]]]:
    """How each row is tested, and by which tests."""
    return {
        int(line[1]): (line[3].strip(), re.findall(r"`([^`]+)`", line[4]))
        for line in LINE.finditer(TABLE)
    }


def test_every_fault_has_its_row() -> None:
    """1 to 93, without 47, and of those up to 109 what is built, each once and in order."""
    found = [int(line[1]) for line in LINE.finditer(TABLE)]
    later = [number for number in found if 93 < number < 110]
    assert found == [*(n for n in range(1, 94) if n != 47), *sorted(set(later))]


def test_every_test_exists() -> None:
    """A renamed test takes its row along."""
    missing = []
    for number, (_, tests) in rows().items():
        assert tests, number
        for test in tests:
            path, _, name = test.partition("::")
            if not (ROOT / "tests" / path).is_file() or name not in functions(path):
                missing.append(f"row {number}: {test}")
    assert missing == []


def test_the_simulated_rows_are_those_that_are_counted() -> None:
    """What the table marks S is what a campaign counts, and fails without."""
    assert [number for number, (how, _) in rows().items() if "S" in how] == list(ROWS)
