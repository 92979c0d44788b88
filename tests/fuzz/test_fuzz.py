"""Whatever a file or a reply holds: no crash, nothing altered, little time, little memory."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.cases import fuzz
from tests.fuzz.grammar import ODD, PIECES
from tests.fuzz.large import measure
from tests.fuzz.targets import TARGETS, AlteredError, job
from tests.job.desk import Desk
from worker.errors import InvalidInputError

_HEAD = "name: a\norgId: o1\nscope: all_cached\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """One desk for all examples of a property."""
    return Desk(tmp_path_factory.mktemp("desk"))


def test_drawn_inputs_crash_nothing_and_arrive_unchanged() -> None:
    """1,500 drawn inputs; each target accepts some and refuses some, or nothing was tried."""
    counts = fuzz(seed=900_000_001, cases=1_500)
    assert [text for count in counts.values() for text in count.wrong] == []
    assert [name for name, c in counts.items() if not (c.accepted and c.refused)] == []


@pytest.mark.parametrize("name", TARGETS)
@given(content=st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
@example(content=b"")
@example(content=b"\xef\xbb\xbf")
def test_bytes_crash_nothing(shared: Desk, name: str, content: bytes) -> None:
    """Any bytes at all, for each target."""
    TARGETS[name][0](shared, content)


@given(pieces=st.lists(st.sampled_from([*ODD, *PIECES]), max_size=10))
@settings(max_examples=300, deadline=None)
def test_odd_values_in_a_list_crash_nothing(shared: Desk, pieces: list[str]) -> None:
    """Pieces that mean something to YAML, where a device's keys are expected."""
    text = f"{_HEAD}devices:\n- productKey: p\n  deviceKeys: [{''.join(pieces)}]\n"
    job(shared, text.encode())


def test_the_comparison_sees_an_altered_identity(shared: Desk) -> None:
    """The comparison itself: a reader that would trim, fold or re-type is caught."""

    class Trimming(Desk):
        def devices(self) -> list[tuple[str | None, str | None, str | None, str | None]]:
            return [(p, d, (a or "").lower(), c) for p, d, a, c in super().devices()]

    with pytest.raises(AlteredError):
        job(Trimming(shared.folder), f'{_HEAD}devices: [{{assetId: "Ab"}}]\n'.encode())


def test_a_mebibyte_costs_little() -> None:
    """At most 2 s of processor time and 300 MiB for any input of 1 MiB, however odd."""
    assert [one for one in measure(1) if one.too_much()] == []


def test_tag_directives_are_refused_at_once(tmp_path: Path) -> None:
    """4 MiB of %TAG lines, which the YAML parser compares with each other, cost nothing."""
    lines = "".join(f"%TAG !a{n}! tag:x,2000:\n" for n in range(170_000))
    began = time.process_time()
    with pytest.raises(InvalidInputError, match=r"job.yaml:1:1: %TAG declares tags"):
        Desk(tmp_path).read(lines + "---\n" + _HEAD)
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    "text",
    ["# %TAG\n{}", "{}devices: [{{assetId: '%TAG'}}]\n", "{}devices:\n- assetId: a %TAG\n"],
)
def test_a_percent_sign_inside_a_line_is_text(tmp_path: Path, text: str) -> None:
    """Only a line that begins with it declares tags."""
    made = text.format(_HEAD)
    Desk(tmp_path).read(made if "devices" in made else f"{made}devices: [{{assetId: a}}]\n")
