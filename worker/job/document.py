"""Strict YAML, event by event: positions kept, nothing retyped, flat memory.

The only user of yaml. It reads the events of PyYAML's C parser and never builds Python values:
a scalar stays the text that was written, with the type that YAML 1.1 would have made of it
beside it, so that the reader decides. Whatever makes two readings possible is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from msgspec import Struct
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from worker.job.findings import EnoughError, Findings, known_or, raise_any, shown
from worker.job.source import Text, UnreadableError, opened

MAX_DEPTH = 20
MAX_SCALAR = 64 << 10  # bytes of UTF-8
MAX_KEYS = 1000  # of one mapping
MAX_NODES = 100_000  # of a value that is read whole

Kind = Literal["map", "seq", "scalar", "refused"]  # refused: a finding was made already

_LONG = MAX_SCALAR // 4  # characters: no longer text needs counting
_KINDS: dict[type[Event], Kind] = {MappingStartEvent: "map", SequenceStartEvent: "seq"}
_STARTS = frozenset(_KINDS)
_ENDS = frozenset({MappingEndEvent, SequenceEndEvent})

_LOADER = getattr(yaml, "CBaseLoader", None)  # None where PyYAML was built without libyaml

_HINTS = {  # of the C parser's words: what to write instead
    "found a tab character that violates indentation": "indent with spaces",
    "found character that cannot start any token": "indent with spaces, quote special characters",
    "did not find expected <document start>": "write one document a file",
    "mapping values are not allowed in this context": "check the indentation, or quote the value",
}


class Node(Struct, frozen=True):
    """A value with its place; the children of a mapping or sequence that was read whole."""

    kind: Kind
    line: int  # from 1
    column: int  # from 1, in characters
    value: str = ""  # of a scalar: its text
    plain: bool = False  # a scalar without quotes
    tag: str = "str"  # what YAML 1.1 makes of it: str, int, float, bool, null, timestamp, …
    lines: int = 1  # of the source that a scalar spans
    items: tuple[Node, ...] = ()
    entries: tuple[tuple[Node, Node], ...] = ()

    def get(self, key: str) -> Node | None:
        """The value of a mapping's key, None when it is not there."""
        return next((value for name, value in self.entries if name.value == key), None)


class BrokenError(Exception):
    """The document cannot be read on; the finding is made."""


class Document:
    """A cursor over one document: ask what is ahead, then take it, walk it or skip it."""

    def __init__(self, text: Text, findings: Findings, loader: Any = _LOADER) -> None:
        self._text = text
        self._findings = findings
        self._depth = 0
        self._nodes = 0
        self._ahead: Any = None
        if loader is None:
            findings.add(1, 1, "this PyYAML has no C parser", "install PyYAML with libyaml")
            raise BrokenError
        self._get_event: Callable[[], Any] = loader(text).get_event

    def root(self) -> Node | None:
        """The mapping that the document is, its contents still ahead; None for an empty file."""
        self._take()  # the stream's start
        start = self._take()
        if isinstance(start, StreamEndEvent):
            return None
        head = self.peek()
        if head.kind == "scalar" and head.tag == "null" and not head.value:
            self.skip()
            self.end()
            return None
        if head.kind != "map":
            self._break(head.line, head.column, "not a mapping", "write key: value lines")
        return head

    def end(self) -> None:
        """Read to the end: nothing may follow the root."""
        while not isinstance(event := self._take(), StreamEndEvent):
            if isinstance(event, DocumentStartEvent):
                self._break(*_place(event), "a second document", "write one document a file")

    def peek(self) -> Node:
        """What is ahead, without its contents."""
        event = self._take()
        self._ahead = event
        return self._head(event)

    def skip(self) -> None:
        """Pass over the value ahead."""
        self._pass(self._take())

    def node(self) -> Node:
        """The value ahead, whole; for what is small, and broken off where it is not."""
        self._nodes = 0
        return self._node()

    def keys(self, known: Collection[str], later: Collection[str] = ()) -> Iterator[str]:
        """The known keys of the mapping ahead; take each one's value before asking for the next.

        Keys outside `known`, keys of `later` and repeated ones are findings and are passed over.
        """
        self._take()
        seen: dict[str, Any] = {}
        while type(event := self._take()) is not MappingEndEvent:
            if type(event) is ScalarEvent and event.value in known and event.value not in seen:
                seen[event.value] = event
                yield event.value
                continue
            key = self._key(event, seen)
            if key is not None:
                self._unknown(key, known, later)
            self.skip()

    def items(self) -> Iterator[None]:
        """Once for each item of the sequence ahead; take it before asking for the next."""
        self._take()
        while True:
            event = self._take()
            if type(event) is SequenceEndEvent:
                return
            self._ahead = event
            yield

    def scalars(self) -> Iterator[Node]:
        """The items of the sequence ahead; of anything but a scalar the head alone."""
        self._take()
        while True:
            event = self._take()
            if type(event) is SequenceEndEvent:
                return
            head = self._head(event)
            yield head
            if head.kind != "scalar":
                self._pass(event)

    def _node(self) -> Node:
        event = self._take()
        head = self._head(event)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._break(head.line, head.column, f"more than {MAX_NODES} values", "write fewer")
        if head.kind == "map":
            self._ahead = event
            return Node("map", head.line, head.column, entries=tuple(self._entries()))
        if head.kind == "seq":
            self._ahead = event
            items = tuple(self._node() for _ in self.items())
            return Node("seq", head.line, head.column, items=items)
        return head

    def _entries(self) -> Iterator[tuple[Node, Node]]:
        self._take()
        seen: dict[str, Any] = {}
        while type(event := self._take()) is not MappingEndEvent:
            key = self._key(event, seen)
            if key is None:
                self.skip()
            else:
                yield key, self._node()

    def _key(self, event: Any, seen: dict[str, Any]) -> Node | None:
        """The key that an event is, None when it is a finding; `seen` are the events before."""
        key = self._head(event)
        if key.kind != "scalar":
            if key.kind != "refused":
                self._findings.add(key.line, key.column, "a key must be text", "write key: value")
            self._pass(event)
            return None
        if key.tag == "merge":
            self._findings.add(key.line, key.column, "<< merges", "write the keys out")
            return None
        first = seen.setdefault(key.value, event)
        if first is not event:
            problem = f"{shown(key.value)} is written twice"
            remedy = f"first on line {_place(first)[0]}"
            self._findings.add(key.line, key.column, problem, remedy)
            return None
        if len(seen) > MAX_KEYS:
            self._break(key.line, key.column, f"more than {MAX_KEYS} keys", "write fewer")
        return key

    def _unknown(self, key: Node, known: Collection[str], later: Collection[str]) -> None:
        if key.value in later:
            self._findings.add(key.line, key.column, f"{key.value}: not supported yet")
            return
        problem = f"unknown key {shown(key.value)}"
        self._findings.add(key.line, key.column, problem, known_or(key.value, known))

    def _head(self, event: Any) -> Node:
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        kind = type(event)
        if kind is ScalarEvent:
            value = event.value
            if len(value) > _LONG and _too_long(value):
                return Node("refused", line, column)
            plain = event.implicit[0]
            tag = resolved(value) if plain and value[:1] in _RESOLVERS else "str"
            lines = event.end_mark.line + 2 - line
            return Node("scalar", line, column, value, plain, tag, lines)
        return Node(_KINDS.get(kind, "refused"), line, column)

    def _pass(self, event: Event) -> None:
        """Pass over what the event opens."""
        outside = self._depth - (type(event) in _STARTS)
        while self._depth > outside:
            self._take()

    def _take(self) -> Any:
        """The next event, checked for everything that needs no context."""
        event = self._ahead
        if event is not None:
            self._ahead = None
            return event
        try:
            event = self._get_event()
        except (UnreadableError, yaml.YAMLError) as error:
            self._fail(error)
        self._text.silence = 0
        kind = type(event)
        if kind is ScalarEvent:
            if event.anchor is not None or event.tag is not None:
                self._marked(event)
            if len(event.value) > _LONG and _too_long(event.value):
                self._findings.add(*_place(event), "longer than 64 KiB", "shorten it")
        elif kind in _STARTS:
            self._depth += 1
            self._marked(event)
            if self._depth > MAX_DEPTH:
                self._break(*_place(event), f"nested deeper than {MAX_DEPTH}", "flatten it")
        elif kind in _ENDS:
            self._depth -= 1
        elif kind is AliasEvent:
            problem = f"*{shown(str(event.anchor))} is an alias"
            self._findings.add(*_place(event), problem, "write the value out")
        return event

    def _fail(self, error: UnreadableError | yaml.YAMLError) -> NoReturn:
        if isinstance(error, UnreadableError):
            self._break(error.line, error.column, error.problem, error.remedy)
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or error)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        remedy = _HINTS.get(problem, "check indentation, quotes and brackets before this place")
        opened_at = getattr(error, "context_mark", None)
        if opened_at:
            problem += f" {error.context}, begun in line {opened_at.line + 1}"  # type: ignore[attr-defined]
        self._break(line, column, f"not YAML, {problem}", remedy)

    def _marked(self, event: Any) -> None:
        line, column = _place(event)
        if event.anchor is not None:
            problem = f"&{shown(event.anchor)} is an anchor"
            self._findings.add(line, column, problem, "remove it, write values out")
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            problem = f"{shown(tag)} is a tag"
            self._findings.add(line, column, problem, "remove it; quote text that must stay text")

    def _break(self, line: int, column: int, problem: str, remedy: str) -> NoReturn:
        self._findings.add(line, column, problem, remedy)
        raise BrokenError


def load_plain(path: Path) -> Node:
    """A small file, whole, with positions; an empty one is an empty mapping.

    Scalars keep their text: whether `on` or `012` may stand unquoted is the caller's rule, by
    `plain` and `tag`. Raises InvalidInputError with all findings.
    """
    findings = Findings(str(path))
    root = Node("map", 1, 1)
    try:
        with opened(path) as file:
            document = Document(Text(file.stream), findings)
            if document.root() is not None:
                root = document.node()
                document.end()
    except UnreadableError as error:
        findings.add(error.line, error.column, error.problem, error.remedy)
    except (BrokenError, EnoughError):
        pass  # the findings are made
    raise_any([findings])
    return root


def resolved(text: str) -> str:
    """What YAML 1.1 makes of plain text: `int` of 012, `bool` of off, `str` of mqtt_01."""
    for tag, pattern in _RESOLVERS.get(text[:1], ()):
        if pattern.match(text):
            return tag.rpartition(":")[2]
    return "str"


def _too_long(text: str) -> bool:
    return len(text.encode()) > MAX_SCALAR


def _place(event: Event) -> tuple[int, int]:
    mark: Any = event.start_mark  # the C parser gives one to every event
    return mark.line + 1, mark.column + 1


_RESOLVERS: dict[str, list[tuple[str, Any]]] = yaml.resolver.Resolver.yaml_implicit_resolvers
