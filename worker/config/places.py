"""Where a value was written, and what is said when it cannot stand there.

A file has positions; a variable and a flag have only their names.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from worker.config.kinds import UnfitError
from worker.errors import Finding, InvalidInputError
from worker.job.findings import LIMIT


class NamedFinding(Finding, frozen=True):
    """A finding in a variable or a flag, which has a name and no position."""

    def __str__(self) -> str:
        said = f"{self.file}: {self.problem}"
        return f"{said}: {self.remedy}" if self.remedy else said


class Place(Struct, frozen=True):
    """The file and position, or the name of the variable or flag."""

    name: str
    line: int = 0  # from 1; 0 where there are no positions
    column: int = 0
    option: str = ""  # dotted path, where the name alone does not tell it

    def finding(self, error: UnfitError) -> Finding:
        """What is wrong here."""
        problem = f"{self.option}: {error.problem}" if self.option else error.problem
        kind = Finding if self.line else NamedFinding
        return kind(self.name, self.line, self.column, problem, error.remedy)


def raise_any(findings: Sequence[Finding], more: int = 0) -> None:
    """Raise InvalidInputError when there are findings: the first by position, the others counted.

    more is how many were found beside them already.
    """
    if findings:
        first = sorted(findings, key=lambda found: (not found.line, found.line, found.column))
        raise InvalidInputError(first[:LIMIT], max(0, len(findings) - LIMIT) + more)
