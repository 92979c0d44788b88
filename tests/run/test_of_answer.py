"""The short way to an outcome against the long one: it agrees, or says nothing."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from tests.gateway.fake_clock import FakeClock
from tests.run.rig import Rig, listed, whole
from worker.model import Answered, AssetId, Command, DeviceKey, Target
from worker.run.case import Case
from worker.run.outcome import of_answer, verdict

TARGETS = (whole(), whole(of=AssetId("a0")), listed("1"))
COMMANDS = st.builds(
    Command,
    commandId=st.sampled_from(["1", "2", "3"]),
    productKey=st.sampled_from([None, "p", "q"]),
    deviceKey=st.sampled_from([None, "d0", "d1"]),
    assetId=st.sampled_from([None, "a0", "a1"]),
)
ANSWERS = st.builds(
    Answered,
    commands=st.lists(COMMANDS, max_size=3).map(tuple),
    requestId=st.sampled_from([None, "r"]),
    anomaly=st.sampled_from([None, None, None, "other_device"]),
    warnings=st.sampled_from([(), (), (), ("identity_missing",)]),
)


@given(target=st.sampled_from(TARGETS), answered=ANSWERS)
@example(whole(), Answered((), "r"))
@example(whole(), Answered((Command("1", None, "p", "d0", "a0"),), "r"))
def test_it_is_what_the_case_comes_to(target: Target, answered: Answered) -> None:
    """A device that needed one call gets the outcome that its whole case would have come to."""
    case = Case(target, 0, 3.0)
    done = Rig(clock=FakeClock()).executor.landed(case, answered, 4.0)
    short = of_answer(target, answered, 3.0, 7.5)
    if short is not None:
        assert done
        assert short == verdict(case, 7.5)


def test_it_says_something_of_the_usual_answer() -> None:
    """Nothing cached, and commands that were cancelled, need no case."""
    command = Command("1", "o1", "p", "d0", "a0")
    for target in (whole(), whole(of=DeviceKey("p", "d0"))):
        for commands in ((), (command,)):
            assert of_answer(target, Answered(commands, "r"), 3.0, 7.5) is not None
