"""When outcomes say that a run does more harm than good: the rules that stop it (exit code 5).

Pure bookkeeping over what settled, in settle order; the runner throws the switch.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque

from msgspec import Struct

from worker.model import Outcome, OutcomeKind, Stop
from worker.text import escaped

_WINDOW = 1_000  # settled targets that `abort.failed` looks back on
_FORBIDDEN = 20
_BAD_REQUEST = "bad_request"  # cause: code 99400, HTTP 400
_HTTP_FORBIDDEN, _CODE_FORBIDDEN = 403, 99403
_WRONG_PATH = 5
NOT_FOUND = 20  # targets
_FAILURES = {OutcomeKind.FAILED, OutcomeKind.REJECTED, OutcomeKind.UNKNOWN}
_TROUBLE = {*_FAILURES, OutcomeKind.NOT_FOUND, OutcomeKind.NOT_ATTEMPTED}  # all else is a success
_NO_ANSWER = {OutcomeKind.FAILED, OutcomeKind.UNKNOWN}


class AbortRules(Struct, frozen=True, forbid_unknown_fields=True):
    """The `abort` section of a job."""

    failed: float = 0.05  # share of the last settled targets
    min_sample: int = 50
    consecutive: int = 20


class _Cell(Struct, eq=False):
    failed: bool
    recent: bool = True  # among those looked back on


_FINE = _Cell(failed=False)  # one for all: nobody asks where a success stands


class Safety:
    """Judges each outcome as it settles; the first stop it names is the run's."""

    def __init__(self, abort: AbortRules | None, max_commands: int | None, orgId: str) -> None:
        self._abort = abort
        self._max_commands = max_commands
        self._orgId = orgId
        self._recent: deque[_Cell] = deque()
        self._put_off: OrderedDict[int, _Cell] = OrderedDict()
        self._failures = 0  # among the recent
        self._in_a_row = 0
        self._row_ids: deque[str] = deque(maxlen=5)
        self._causes: deque[str] = deque(maxlen=_WINDOW)  # of failures
        self._said: dict[str, str] = {}  # by cause: the gateway's last words about it
        self._settled = 0
        self._all_not_found = True
        self._forbidden = 0
        self._wrong_path = 0
        self.succeeded = False  # anything ever
        self.limited = max_commands is not None  # `recorded` has a limit to watch

    def next_pass(self) -> None:
        """A later pass starts its row of failures anew."""
        self._in_a_row = 0

    def recorded(self, commands: int, *, left: bool) -> Stop | None:
        """So many commands are cancelled in all; left: something has not begun yet."""
        limit = self._max_commands
        if limit is None or commands < limit or (commands == limit and not left):
            return None
        return Stop(
            "max_commands",
            f"{commands} commands are cancelled; limits.max_commands is {limit}",
            count=commands,
            of=limit,
        )

    def put_off(self, outcome: Outcome, *, left: bool) -> Stop | None:
        """A target that would have this outcome waits for a later pass: failed until it settles."""
        if outcome.cause == "throttled":
            return None
        self._leave_out(outcome.target.ordinal)
        cell = self._failed(outcome)
        self._put_off[outcome.target.ordinal] = cell
        while len(self._put_off) > _WINDOW:
            self._put_off.popitem(last=False)
        return self._too_many_failures() if left else None

    def settled(self, outcome: Outcome, *, left: bool) -> Stop | None:
        """A target settled; left: there is something that has not started yet."""
        if outcome.kind not in _TROUBLE:  # nearly every target: no rule over answers holds now
            self._settled += 1
            self._all_not_found = False
            self._forbidden = self._wrong_path = self._in_a_row = 0
            self.succeeded = True
            if self._row_ids:
                self._row_ids.clear()
            if self._put_off:
                self._leave_out(outcome.target.ordinal)
            self._remember(_FINE)
            return None
        if outcome.kind is OutcomeKind.NOT_ATTEMPTED:
            return None
        stop = self._answers(outcome, left=left)
        if outcome.kind is OutcomeKind.NOT_FOUND:
            self._leave_out(outcome.target.ordinal)
            return stop
        if outcome.cause == "throttled":
            return stop
        self._leave_out(outcome.target.ordinal)
        self._failed(outcome)
        return stop or (self._too_many_failures() if left else None)

    def _failed(self, outcome: Outcome) -> _Cell:
        cell = _Cell(failed=True)
        self._remember(cell)
        self._in_a_row += 1
        cause = outcome.cause or outcome.kind.value
        self._causes.append(cause)
        if outcome.message:
            self._said[cause] = escaped(outcome.message)
        if outcome.requestId:
            self._row_ids.append(outcome.requestId)
        return cell

    def _remember(self, cell: _Cell) -> None:
        self._recent.append(cell)
        self._failures += cell.failed
        if len(self._recent) > _WINDOW:
            oldest = self._recent.popleft()
            oldest.recent = False
            self._failures -= oldest.failed

    def _leave_out(self, ordinal: int) -> None:
        """A target put off before has a new word: what it counted for counts no more."""
        cell = self._put_off.pop(ordinal, None)
        if cell is not None and cell.recent:
            self._recent.remove(cell)
            self._failures -= int(cell.failed)

    def _too_many_failures(self) -> Stop | None:
        rules = self._abort
        if rules is None:
            return None
        if self._in_a_row >= rules.consecutive:
            return Stop(
                "abort_consecutive",
                f"{self._in_a_row} targets in a row failed, most with {self._mostly()} "
                f"(abort.consecutive is {rules.consecutive})",
                count=self._in_a_row,
                of=rules.consecutive,
                request_ids=tuple(self._row_ids),
            )
        sample = len(self._recent)
        if sample >= rules.min_sample and self._failures > rules.failed * sample:
            return Stop(
                "abort_failed",
                f"{self._failures} of the last {sample} targets failed, most with "
                f"{self._mostly()} (abort.failed is {rules.failed * 100:g}%)",
                count=self._failures,
                of=sample,
                request_ids=tuple(self._row_ids),
            )
        return None

    def _mostly(self) -> str:
        """The most frequent cause of the last failures, and what the gateway said of it."""
        most = Counter(self._causes).most_common(1)[0][0]
        said = f'{most} ("{self._said[most]}")' if most in self._said else most
        return f"{said}; is orgId {self._orgId} right?" if most == _BAD_REQUEST else said

    def _answers(self, outcome: Outcome, *, left: bool) -> Stop | None:
        """The rules over what the gateway answers: 403, wrong path, all unknown."""
        self._settled += 1
        self._all_not_found &= outcome.kind is OutcomeKind.NOT_FOUND
        ids = (outcome.requestId,) if outcome.requestId else ()
        if outcome.kind is OutcomeKind.REJECTED and _is_forbidden(outcome):
            self._forbidden += 1
            self._wrong_path = 0
        elif outcome.kind is OutcomeKind.REJECTED and outcome.cause == "wrong_path":
            self._wrong_path += 1
            self._forbidden = 0
        elif outcome.kind not in _NO_ANSWER:
            self._forbidden = self._wrong_path = 0
        if self._forbidden >= _FORBIDDEN:
            return Stop(
                "forbidden",
                f"{self._forbidden} targets in a row were refused with 403: has this access key "
                f"the permission Asset/Control for orgId {self._orgId}?",
                count=self._forbidden,
                of=self._settled,
                request_ids=ids,
            )
        if self._wrong_path >= _WRONG_PATH:
            return Stop(
                "wrong_path",
                f"{self._wrong_path} targets in a row were answered 404, and not by EnOS: wrong "
                "path? check gateway.url",
                count=self._wrong_path,
                of=self._settled,
                request_ids=ids,
            )
        if self._all_not_found and self._settled == NOT_FOUND and left:
            return Stop(
                "not_found",
                none_found(NOT_FOUND, self._orgId),
                count=NOT_FOUND,
                of=NOT_FOUND,
                request_ids=ids,
            )
        return None


def none_found(targets: int, orgId: str) -> str:
    """What it means that none of the first targets is known to the gateway."""
    return (
        f"the first {targets} targets do not exist for orgId {orgId}: wrong organization, "
        "gateway or list?"
    )


def _is_forbidden(outcome: Outcome) -> bool:
    return outcome.http_status == _HTTP_FORBIDDEN or outcome.code == _CODE_FORBIDDEN
