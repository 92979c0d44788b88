"""File, environment and flags, read one after the other; a later one wins.

Everything that is wrong anywhere is gathered before anything is refused. Only a name in the
environment that nobody knows is a warning: other programs may set it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from worker.config.file import VARIABLE
from worker.config.kinds import Kind, Many, Origin, OrNone, UnfitError
from worker.config.options import KEYS, LATER, Option, Tree, options, tree
from worker.config.places import Place
from worker.errors import Finding, InvalidInputError
from worker.job.findings import known_or, nearest, shown
from worker.model import Secret

PREFIX = "CANCEL_WORKER_"

_FLAGS = {"ledger.url": "--ledger"}  # all others are named after their path
_LATER = UnfitError("not supported yet")
_MEANS = {
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "timestamp": "a date",
    "merge": "a merge",
    "value": "a special key",
}
# What Kubernetes sets in every pod beside a Service that is called cancel-worker.
_KUBERNETES = re.compile(
    r"(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


class Node(Protocol):
    """A value of the file with its place, as `job.document.load_plain` gives it."""

    @property
    def kind(self) -> str: ...  # map, seq, scalar
    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def value(self) -> str: ...
    @property
    def plain(self) -> bool: ...
    @property
    def tag(self) -> str: ...  # what YAML 1.1 makes of the text
    @property
    def items(self) -> Sequence[Node]: ...
    @property
    def entries(self) -> Sequence[tuple[Node, Node]]: ...


class Sources:
    """What was given, by path, and what is wrong with it."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.places: dict[str, Place] = {}
        self.keys: dict[str, Secret] = {}  # from the environment, by path
        self.findings: list[Finding] = []
        self.more = 0  # findings beside these
        self.warnings: list[str] = []

    def read_file(self, path: Path, load: Callable[[Path], Node]) -> None:
        """Take what the file says."""
        try:
            root = load(path)
        except InvalidInputError as error:
            self.findings += error.findings
            self.more += error.more
            return
        self._section(root, tree(), "", str(path), Origin(path.absolute().parent))

    def read_environment(
        self, environ: MutableMapping[str, str], also_known: Collection[str]
    ) -> None:
        """Take what the variables say; those that hold secrets are removed from environ."""
        known = {variable(path): option for path, option in options().items()}
        keys = {variable(path): path for path in KEYS}
        others = {VARIABLE, *also_known}
        origin = Origin(Path(), may_hold_password=True)
        for name in sorted(n for n in environ if n.startswith(PREFIX) and environ[n]):
            if name in keys:
                self.keys[keys[name]] = Secret(environ[name])
            elif name in known:
                self._text(known[name], environ[name], Place(name), origin)
            elif _is_later(name):
                self.findings.append(Place(name).finding(_LATER))
            elif name not in others and not _KUBERNETES.fullmatch(name.removeprefix(PREFIX)):
                near = nearest(name, [*known, *keys, *others])
                hint = f"did you mean {near}?" if near else "config.example.yaml has all options"
                self.warnings.append(f"{shown(name)} is not known and does nothing: {hint}")
        for name in (*keys, variable("gateway.proxy")):
            environ.pop(name, None)

    def read_flags(self, flags: Mapping[str, str | None]) -> None:
        """Take what the flags say, by path; None is a flag not given."""
        for path, text in flags.items():
            name = _FLAGS.get(path, "--" + re.sub("[._]", "-", path))
            if text is not None:
                self._text(options()[path], text, Place(name), Origin(Path()))

    def refuse(self, path: str, problem: str, remedy: str) -> None:
        """Note that the value of this option cannot stand beside the others."""
        self.findings.append(self.places[path].finding(UnfitError(problem, remedy)))

    def _section(self, node: Node, known: Tree, prefix: str, file: str, origin: Origin) -> None:
        for key, value in node.entries:
            path = f"{prefix}{key.value}"
            at = Place(file, key.line, key.column)
            item = known.get(key.value)
            if isinstance(item, Option):
                self._option(item, value, Place(file, value.line, value.column, path), origin)
            elif item is not None and value.kind == "map":
                self._section(value, item, f"{path}.", file, origin)
            elif item is not None:
                remedy = f"write its keys below it ({', '.join(item)}), or leave it out"
                self._finding(at, f"{path}: not a mapping", remedy)
            elif path in LATER:
                self._finding(at, f"{path}: not supported yet")
            elif path in KEYS:
                remedy = f"give {path}_file, or set {variable(path)} in the environment"
                self._finding(at, f"{path}: a key never stands in the configuration", remedy)
            else:
                self._finding(at, f"unknown key {shown(key.value)}", _elsewhere(key.value, known))

    def _option(self, option: Option, node: Node, place: Place, origin: Origin) -> None:
        kind = option.kind
        try:
            if isinstance(kind, Many):
                value: Any = self._items(kind, node, place, origin)
            else:
                value = _scalar(kind, node, origin)
        except UnfitError as error:
            self.findings.append(place.finding(error))
        else:
            self._take(option, value, place)

    def _items(self, kind: Many, node: Node, place: Place, origin: Origin) -> tuple[Any, ...]:
        if node.kind != "seq":
            raise UnfitError("not a list", "write [one, two], or [] for none")
        values = []
        for item in node.items:
            try:
                values.append(_scalar(kind.of, item, origin))
            except UnfitError as error:
                at = Place(place.name, item.line, item.column, place.option)
                self.findings.append(at.finding(error))
        return tuple(values)

    def _text(self, option: Option, text: str, place: Place, origin: Origin) -> None:
        try:
            self._take(option, option.kind.read(text, origin), place)
        except UnfitError as error:
            self.findings.append(place.finding(error))

    def _take(self, option: Option, value: Any, place: Place) -> None:
        self.values[option.path] = value
        self.places[option.path] = place

    def _finding(self, at: Place, problem: str, remedy: str = "") -> None:
        self.findings.append(at.finding(UnfitError(problem, remedy)))


def variable(path: str) -> str:
    """The environment's name for an option."""
    return PREFIX + path.replace(".", "_").upper()


def _is_later(name: str) -> bool:
    return any(name == later or name.startswith(f"{later}_") for later in map(variable, LATER))


def _scalar(kind: Kind, node: Node, origin: Origin) -> Any:
    """The value of one scalar, when YAML would read it as the same thing."""
    if node.kind != "scalar":
        raise UnfitError("not a single value", "write one value")
    if node.tag == "null":
        raise UnfitError("nothing is written", "give a value, or leave the key out")
    if kind.text and node.tag != "str":
        means = _MEANS.get(node.tag, "not text")
        raise UnfitError(f"is {means} in YAML", "write it in quotes")
    value = kind.read(node.value, origin)
    inner = kind.of if isinstance(kind, OrNone) and value is not None else kind
    if inner.bare and not node.plain:
        raise UnfitError("stands in quotes, so it is text", "write it without quotes")
    return value


def _elsewhere(name: str, known: Tree) -> str:
    """The remedy for an unknown key: a near name here, the same name elsewhere, all names."""
    if nearest(name, known) is None:
        same = [path for path in options() if path.rpartition(".")[2] == name]
        if same:
            return f"did you mean {' or '.join(same)}?"
    return known_or(name, known)
