"""structlog's filtering logger with a short way from an event to its JSON line.

Apart from the renderer because it is about structlog's classes. A chain of processors copies
the fields of a line four times and encodes what is bound anew each time; here the head that a
bound context and an event share is encoded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from worker.observe.render import OWN_KEYS, JsonLines, without_own_keys

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_EVENTS = 1000  # heads that are kept; events are constants, so this many never come


def json_logger(level: int) -> type[Any]:
    """A wrapper class for structlog; its first processor must be a JsonLines.

    `_proxy_to_logger` is what structlog documents for a wrapper's own way of rendering; the
    named levels skip it, which saves two copies of the fields.
    """

    class JsonLogger(structlog.make_filtering_bound_logger(level)):  # type: ignore[misc]
        def __init__(self, logger: Any, processors: Any, context: dict[str, Any]) -> None:
            super().__init__(logger, processors, context)
            self.says = _Lines(logger.put, processors[0], context)

        def _proxy_to_logger(self, level: str, event: str | None = None, **fields: Any) -> None:
            self.says.put(level, event, fields)

    for name, number in LEVELS.items():
        if number >= level:  # below, structlog's method does nothing
            setattr(JsonLogger, name, _method(name))
    return JsonLogger


def _method(level: str) -> Callable[..., None]:
    def method(self: Any, event: str, *args: Any, **fields: Any) -> None:
        self.says.put(level, event % args if args else event, fields)

    method.__name__ = level
    return method


class _Lines:
    """What one bound logger says."""

    __slots__ = ("_context", "_heads", "_lines", "_put", "_taken")

    def __init__(
        self, put: Callable[[bytes], None], lines: JsonLines, context: dict[str, Any]
    ) -> None:
        self._put = put
        self._lines = lines
        self._context = without_own_keys(context)
        self._heads: dict[tuple[str, object], bytes] = {}
        self._taken = OWN_KEYS.union(context)

    def put(self, level: str, event: object, fields: dict[str, Any]) -> None:
        try:
            head = self._heads[level, event]
        except KeyError:
            head = self._lines.head(level, event, self._context)
            if len(self._heads) < _EVENTS:
                self._heads[level, event] = head
        if self._taken.isdisjoint(fields):
            self._put(self._lines.line(head, fields))
            return
        said = without_own_keys(fields)  # a field stands over what is bound
        head = self._lines.head(level, event, {**self._context, **said})
        self._put(self._lines.line(head, {}))
