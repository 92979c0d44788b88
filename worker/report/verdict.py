"""How a run's end becomes an exit code: one pure function.

Apart from the summary because scripts act on it: the same counts, stop, findings and state of
the record always give the same code, and a test recomputes it for every combination.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from worker.model import OutcomeKind, Stop, Verified

_SIGNAL = 128
_UNCERTAIN = (OutcomeKind.UNKNOWN, OutcomeKind.CANCELLED_INCOMPLETE, OutcomeKind.ANOMALOUS)
_NOT_DONE = (
    OutcomeKind.FAILED,
    OutcomeKind.REJECTED,
    OutcomeKind.NOT_FOUND,
    OutcomeKind.TOO_LATE,
)
_OUT_OF_TIME = frozenset({"window", "deadline"})
_NOT_FOR_SAFETY = _OUT_OF_TIME | {"record", "signal", "limit"}


class Verdict(Struct, frozen=True):
    """An exit code and every reason that held, the one that decided first."""

    code: int
    reasons: tuple[str, ...] = ()


def exit_code(
    counts: Mapping[OutcomeKind, int],
    *,
    stop: Stop | None = None,
    verified: Verified | None = None,
    verify_required: bool = False,
    unverified: str | None = None,
    internal_errors: int = 0,
    record_durable: bool = True,
    signal: int | None = None,
    work_left: bool = False,
    differences: int = 0,
) -> Verdict:
    """The verdict on a run that sent, or could have sent, cancel calls.

    `verify_required`: the job asks for a verification, so one that is missing, or left targets
    unsearched, is uncertain; `unverified` says why.
    `signal` is the number of the signal that ended the run (2 or 15), also taken from a stop
    of rule `signal`. `work_left`: targets are not attempted. Anything left without a stop that
    explains it is a bug of ours (1), and so are `differences` between a rehearsal's report and
    the simulator's truth; `anomalous` left from an earlier start is uncertain (4).
    """
    rule = stop.rule if stop else None
    if stop is not None and rule == "signal" and signal is None:
        signal = stop.count
    found: list[tuple[int, str]] = []
    if not record_durable or rule == "record":
        found.append((6, "the record could not be made durable"))
    if rule is not None and rule not in _NOT_FOR_SAFETY:
        found.append((5, f"stopped for safety: {rule}"))
    if internal_errors:
        found.append((1, f"internal errors: {internal_errors}"))
    elif work_left and rule is None and signal is None and record_durable:
        found.append((1, "internal error: targets were left without a reason"))
    if differences:
        found.append((1, f"differences from the simulator's truth: {differences}"))
    if signal is not None:
        found.append((_SIGNAL + signal, f"signal {signal}"))
    if rule in _OUT_OF_TIME and work_left:
        found.append((8, f"{rule} ended, work is left"))
    found += [(4, f"{kind.value}: {counts[kind]}") for kind in _UNCERTAIN if counts.get(kind)]
    if verified is not None and verified.still_cached:
        found.append((4, f"still cached: {verified.still_cached}"))
    if verify_required and (verified is None or verified.unsearched):
        what = "not verified" if verified is None else f"not searched: {verified.unsearched}"
        found.append((4, f"{what}, although the job asks for it: {unverified}"))
    found += [(3, f"{kind.value}: {counts[kind]}") for kind in _NOT_DONE if counts.get(kind)]
    return Verdict(found[0][0] if found else 0, tuple(reason for _, reason in found))
