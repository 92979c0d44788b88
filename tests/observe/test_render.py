"""One line a record, whatever the fields hold; never a secret, never a traceback."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.clock import Clock, rfc3339
from worker.model import Secret
from worker.observe.log import memory_log
from worker.observe.render import ConsoleLines, stamp

CANARY = "canary-5f3a"


class Fixed:
    """A clock that stands at one moment."""

    def monotonic(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return 1_795_313_100_123

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    def chance(self) -> float:
        return 0.5

    def new_run_id(self) -> str:
        return "r"


CLOCK: Clock = Fixed()
JUNK = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()), st.binary()
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(st.characters()), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = st.dictionaries(
    st.text(st.characters(), max_size=8).filter(lambda key: key not in {"event", "self"}),
    JUNK,
    max_size=4,
)


def json_line(**fields: Any) -> bytes:
    sink, kept = memory_log(CLOCK)
    sink.logger.info("an.event", **fields)
    (line,) = kept.lines
    return line


def console_line(**fields: Any) -> bytes:
    return ConsoleLines(CLOCK, colors=False)(None, "info", {"event": "an.event", **fields})


def test_timestamp_level_and_event_come_first_then_what_is_bound_then_the_fields() -> None:
    """Exactly one compact object and a newline."""
    sink, kept = memory_log(CLOCK)
    sink.logger.bind(run_id="r", job="j").warning("an.event", a=1, b=None, c=["x"])
    sink.logger.debug("bare")
    assert b"".join(kept.lines) == (
        b'{"timestamp":"2026-11-22T02:05:00.123Z","level":"warning","event":"an.event",'
        b'"run_id":"r","job":"j","a":1,"b":null,"c":["x"]}\n'
        b'{"timestamp":"2026-11-22T02:05:00.123Z","level":"debug","event":"bare"}\n'
    )


def test_a_field_stands_over_what_is_bound_and_never_over_the_lines_own_keys() -> None:
    """No key appears twice; nobody forges a timestamp or a level by a field."""
    sink, kept = memory_log(CLOCK)
    sink.logger.bind(job="j", k=1).info("an.event", k=2, timestamp="t", level="l", exc_info=True)
    assert b"".join(kept.lines) == (
        b'{"timestamp":"2026-11-22T02:05:00.123Z","level":"info","event":"an.event",'
        b'"job":"j","k":2}\n'
    )


def test_the_second_of_the_timestamp_follows_the_clock() -> None:
    """The cached part of a timestamp never outlives its second, forwards or backwards."""

    class Jumping(Fixed):
        def __init__(self) -> None:
            self.moments = iter([999, 1000, 86_399_999, 86_400_000, 5, -1, 10**15])

        def wall_ms(self) -> int:
            return next(self.moments)

    sink, kept = memory_log(Jumping())
    for _ in range(7):
        sink.logger.info("e")
    assert [json.loads(line)["timestamp"] for line in kept.lines] == [
        "1970-01-01T00:00:00.999Z",
        "1970-01-01T00:00:01.000Z",
        "1970-01-01T23:59:59.999Z",
        "1970-01-02T00:00:00.000Z",
        "1970-01-01T00:00:00.005Z",
        "1969-12-31T23:59:59.999Z",
        "9999-12-31T23:59:59.000Z",
    ]


@given(st.datetimes(min_value=datetime(1970, 1, 1)))  # noqa: DTZ001
def test_the_quick_stamp_agrees_with_the_clocks_own(moment: datetime) -> None:
    """For every moment of a calendar since 1970; any other number is shown as it is."""
    ms = int(moment.replace(tzinfo=UTC).timestamp()) * 1000 + moment.microsecond // 1000
    assert stamp(ms) == rfc3339(ms)
    assert stamp(10**18) == "1000000000000000000"


@given(FIELDS)
def test_json_is_one_valid_line_for_any_fields(fields: dict[str, Any]) -> None:
    """No character in it ends a line or steers a terminal, in any viewer."""
    line = json_line(**fields)
    text = line.decode()
    assert text[-1] == "\n"
    assert len(text.splitlines()) == 1
    assert not set(text[:-1]) & set(
        map(chr, [*range(32), *range(127, 160), 0x2028, 0x202E, 0xFEFF])
    )
    assert list(json.loads(text))[:3] == ["timestamp", "level", "event"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_keeps_any_text_exactly(text: str) -> None:
    """Escaping is for viewers; a parser gets back what was said."""
    assert json.loads(json_line(value=text))["value"] == text


@given(FIELDS)
def test_the_console_form_is_one_printable_line_for_any_fields(fields: dict[str, Any]) -> None:
    """Newlines, ESC, CR, bidi and all other control characters are shown as escapes."""
    fields.pop("", None)
    text = console_line(**fields).decode()
    assert text[-1] == "\n"
    assert text[:-1].isprintable()


def test_the_console_form_escapes_values_keys_and_event() -> None:
    """The forged second line of the classic log injection stays inside its field."""
    line = ConsoleLines(CLOCK, colors=False)(
        None,
        "info",
        {"event": "e\n", "k\x1b": "a\r\n[info] forged\x1b[2J\u202e", "n": None, "i": 1},
    )
    assert line.decode() == (
        "2026-11-22T02:05:00.123Z info     e\\n                "
        "k\\x1b=a\\r\\n[info] forged\\x1b[2J\\u202e i=1\n"
    )


@pytest.mark.parametrize("render", [json_line, console_line])
@pytest.mark.parametrize(
    "value",
    [
        Secret(CANARY),
        [Secret(CANARY)],
        {"token": Secret(CANARY)},
        {Secret(CANARY): 1},
        (1, {"deep": [{Secret(CANARY)}]}),
    ],
)
def test_a_secret_in_a_field_is_three_stars(render: Any, value: object) -> None:
    """Given by accident, at any depth, as value or key."""
    line = render(value=value)
    assert CANARY.encode() not in line
    assert b"***" in line


@pytest.mark.parametrize("render", [json_line, console_line])
def test_no_exception_shows_its_text_or_its_locals(render: Any) -> None:
    """Only the class is named: the text of an HTTP client's error holds headers and URLs."""
    local = f"local {CANARY}"
    try:
        int(local)
    except ValueError as error:
        lines = [
            render(exc_info=error),
            render(exc_info=True),
            render(exc_info=(ValueError, error, error.__traceback__)),
            render(error=error, several=[error]),
            render(stack_info=True, exception=str(error)),
        ]
    assert CANARY.encode() not in b"".join(lines)
    assert [b"ValueError" in line for line in lines] == [True, False, True, True, False]


def test_an_exception_logged_by_structlogs_own_word_has_no_traceback() -> None:
    """`logger.exception` is nothing but an error here."""
    sink, kept = memory_log(CLOCK)
    try:
        int(CANARY)
    except ValueError:
        sink.logger.exception("an.event", a=1)
    assert kept.lines == [
        b'{"timestamp":"2026-11-22T02:05:00.123Z","level":"error","event":"an.event","a":1}\n'
    ]


def test_endless_and_unknown_values_do_not_raise() -> None:
    """A list that holds itself, a set, an object, a huge number."""
    endless: list[object] = []
    endless.append(endless)
    for value in (endless, {1, 2}, object(), 10**400, float("nan"), {None: 1}, "\ud800"):
        assert json.loads(json_line(value=value))["event"] == "an.event"
        assert console_line(value=value).count(b"\n") == 1
