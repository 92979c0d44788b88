"""How one value is written, in a file, a variable or a flag: one kind for each way.

A kind reads text into the value that the program uses, writes a value back the way a person
would, and describes itself as JSON Schema; so file, flags, schema and example cannot disagree.
What may hold a secret is never repeated in a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from msgspec import Struct

from worker.job.findings import shown
from worker.job.units import (
    DURATION_PATTERN,
    RATE_PATTERN,
    SHARE_PATTERN,
    format_duration,
    format_rate,
    parse_duration,
    parse_rate,
    parse_share,
)

T = TypeVar("T")


class UnfitError(ValueError):
    """Text that is no value of its kind: what is wrong, and what to write instead."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


class Origin(Struct, frozen=True):
    """Where a value was written."""

    folder: Path  # that relative paths start from
    may_hold_password: bool = False


class Kind(Struct, frozen=True):
    """One way to write a value."""

    bare: ClassVar[bool] = False  # stands in YAML without quotes: numbers, true and false
    text: ClassVar[bool] = False  # any text, so what YAML would retype must be quoted

    doc: str  # one line for people, with the unit

    def read(self, text: str, origin: Origin) -> Any:
        """The value; UnfitError when the text is none."""
        raise NotImplementedError

    def written(self, value: Any) -> Any:
        """The value as it stands in the file; None when it has no spelling."""
        return value

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the value in the file."""
        raise NotImplementedError


class Whole(Kind, frozen=True):
    """A whole number, such as 16."""

    bare: ClassVar[bool] = True

    least: int = 0
    most: int = 1_000_000_000

    def read(self, text: str, origin: Origin) -> int:  # noqa: ARG002 - one signature for all
        remedy = f"write a whole number from {self.least} to {self.most}"
        if not re.fullmatch("0|[1-9][0-9]{0,11}", text):
            raise UnfitError(f"{shown(text)} is not a whole number", remedy)
        if not self.least <= int(text) <= self.most:
            raise UnfitError(f"{text} is out of range", remedy)
        return int(text)

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


class Flag(Kind, frozen=True):
    """true or false."""

    bare: ClassVar[bool] = True

    def read(self, text: str, origin: Origin) -> bool:  # noqa: ARG002
        if text not in ("true", "false"):
            raise UnfitError(f"{shown(text)} is neither true nor false", "write true or false")
        return text == "true"

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


class Duration(Kind, frozen=True):
    """A time with its unit, such as 30s."""

    least: float = 0.0  # seconds
    most: float = 86_400.0  # seconds

    def read(self, text: str, origin: Origin) -> float:  # noqa: ARG002
        seconds = _parsed(parse_duration, text, "a duration")
        if not self.least <= seconds <= self.most:
            span = f"{format_duration(self.least)} to {format_duration(self.most)}"
            raise UnfitError(f"{text} is out of range", f"write {span}")
        return seconds

    def written(self, value: Any) -> str | None:
        return None if value is None else format_duration(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": DURATION_PATTERN}


class Rate(Kind, frozen=True):
    """Requests a second or minute, such as 50/s, or none."""

    def read(self, text: str, origin: Origin) -> float | None:  # noqa: ARG002
        return _parsed(parse_rate, text, "a rate")

    def written(self, value: Any) -> str:
        return format_rate(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": RATE_PATTERN}


class Share(Kind, frozen=True):
    """A percentage, such as 10%."""

    def read(self, text: str, origin: Origin) -> float:  # noqa: ARG002
        return _parsed(parse_share, text, "a share")

    def written(self, value: Any) -> str:
        return f"{value:.4%}".rstrip("%").rstrip("0").rstrip(".") + "%"

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": SHARE_PATTERN}


class Choice(Kind, frozen=True):
    """One of a few words."""

    words: tuple[str, ...] = ()

    def read(self, text: str, origin: Origin) -> str:  # noqa: ARG002
        if text not in self.words:
            *others, last = self.words
            raise UnfitError(
                f"{shown(text)} is not known here", f"write {', '.join(others)} or {last}"
            )
        return text

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.words)}


class Name(Kind, frozen=True):
    """Text that names something: printable, nothing around it."""

    text: ClassVar[bool] = True

    def read(self, text: str, origin: Origin) -> str:  # noqa: ARG002
        if not text:
            raise UnfitError("is empty", "give a value, or leave it out")
        if not text.isprintable() or text != text.strip() or len(text) > 256:
            remedy = "write printable text without spaces around it, at most 256 characters"
            raise UnfitError(f"{shown(text)} is not a name", remedy)
        return text

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": 256}


class File(Kind, frozen=True):
    """A path; a relative one starts from the folder of the file that it is written in."""

    text: ClassVar[bool] = True

    def read(self, text: str, origin: Origin) -> str:
        if not text:
            raise UnfitError("is empty", "give a path, or leave it out")
        if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in text):
            raise UnfitError("holds a control character", "remove it")
        if text.startswith("~"):
            raise UnfitError("begins with ~, which is not expanded", "write the whole path")
        path = str((origin.folder / text).absolute())
        if not is_utf8(path):
            raise UnfitError("is not UTF-8", "name the file in UTF-8")
        return path

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


class Url(Kind, frozen=True):
    """A URL, read by its own rules (`urls`); never repeated in a message."""

    text: ClassVar[bool] = True

    parse: Callable[[str, Origin], Any] = lambda text, _: text
    pattern: str = ""

    def read(self, text: str, origin: Origin) -> Any:
        return self.parse(text, origin)

    def written(self, value: Any) -> None:
        """No default has one, and a proxy's may hold a password."""

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": self.pattern}


class OrNone(Kind, frozen=True):
    """A bound that may be `none`."""

    of: Kind = Whole("")

    def read(self, text: str, origin: Origin) -> Any:
        if text == "none":
            return None
        try:
            return self.of.read(text, origin)
        except UnfitError as error:
            raise UnfitError(error.problem, f"{error.remedy}, or none") from None

    def written(self, value: Any) -> Any:
        return "none" if value is None else self.of.written(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.of.schema(), {"const": "none"}]}


class Many(Kind, frozen=True):
    """A list; in variables and flags separated by commas."""

    of: Kind = Name("")

    def read(self, text: str, origin: Origin) -> tuple[Any, ...]:
        return tuple(self.of.read(item.strip(), origin) for item in text.split(","))

    def written(self, value: Any) -> list[Any]:
        return [self.of.written(item) for item in value]

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.of.schema()}


def is_utf8(text: str) -> bool:
    """Whether the text can be written to a record; a variable may hold any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parsed(parse: Callable[[str], T], text: str, what: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise UnfitError(f"{shown(text)} is not {what}", str(error)) from None
