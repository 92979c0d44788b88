"""Text from outside, made fit for a person's terminal and for JSON that people open.

The one home of escaping. What a gateway or a file says may hold line ends, ESC sequences or
characters that turn the direction of reading; printed raw, it could forge a line or hide one.
"""

from __future__ import annotations

import re

CAPPED = 512  # characters that are kept of a text the gateway wrote

# What reads as a line end, steers a terminal or turns the direction of reading; JSON allows
# it raw above ASCII, and viewers obey it. DEL is ASCII, and the only one there.
_STEERING = re.compile(
    "[\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)


def capped(text: str | None) -> str | None:
    """At most 512 characters of a text that came from outside."""
    return text if text is None or len(text) <= CAPPED else text[: CAPPED - 1] + "…"


def escaped(text: str) -> str:
    """One line for a terminal: every character that is not printable is written as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def escaped_json(document: bytes) -> bytes:
    r"""The same JSON (UTF-8) with what steers a viewer written as its `\u` escape."""
    if document.isascii() and b"\x7f" not in document:
        return document
    return _STEERING.sub(_json_escape, document.decode()).encode()


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _json_escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
