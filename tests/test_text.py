"""Text from outside on a person's terminal and in JSON."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from worker.text import capped, escaped, escaped_json

#: C0, DEL, C1, line ends, what turns the direction of reading, what nobody sees.
STEERING = frozenset(
    map(chr, [*range(32), *range(127, 160), 0x61C, *range(0x200B, 0x2010), *range(0x2028, 0x202F)])
) | frozenset(map(chr, [*range(0x2060, 0x2070), 0xFEFF]))


def test_text_from_outside_is_capped_at_512_characters() -> None:
    """The cut is visible."""
    assert [capped(None), capped("a" * 512), capped("a" * 513)] == [
        None,
        "a" * 512,
        "a" * 511 + "…",
    ]


def test_printable_text_is_shown_as_it_is() -> None:
    """Umlauts, Chinese and spaces are no danger."""
    assert escaped("Gerät 设备 1 😀") == "Gerät 设备 1 😀"


@given(st.text(st.characters()))
def test_hostile_text_stays_on_its_line(text: str) -> None:
    """Nothing that came from outside can start a line or steer the terminal."""
    line = escaped(text)
    assert line.isprintable()
    assert len((line + ".").splitlines()) == 1


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_says_the_same_and_steers_nothing(text: str) -> None:
    """A parser gets back what was said; a viewer gets nothing to obey."""
    document = escaped_json(json.dumps([text], ensure_ascii=False).encode())
    assert json.loads(document) == [text]
    assert not STEERING & set(document.decode())
