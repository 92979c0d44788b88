"""Which outcome follows from what a target's calls came to: every combination, by the text."""

from __future__ import annotations

from itertools import product

import pytest

from tests.run.rig import asset, listed, whole
from worker.model import (
    Ambiguous,
    Answered,
    AssetId,
    CancelAll,
    CancelOne,
    Command,
    CommandResult,
    Identity,
    NotSent,
    Outcome,
    OutcomeKind,
    Refused,
)
from worker.run.case import Call, Case, Standing
from worker.run.outcome import as_it_stands, verdict

S, K = Standing, OutcomeKind
SETTLED = (
    S.CANCELLED,
    S.EMPTY,
    S.INCOMPLETE,
    S.UNKNOWN,
    S.FAILED,
    S.REJECTED,
    S.NOT_FOUND,
    S.ANOMALOUS,
)


def case_of(*standings: Standing, scope: str = "listed") -> Case:
    """A case whose calls came to this; a cancelled one has its command on record."""
    ids = [str(index) for index in range(len(standings))]
    target = listed(*ids) if scope == "listed" else whole()
    case = Case(target, 0, 0.0)
    case.by_id = scope == "by_id"
    for commandId, standing in zip(ids, standings, strict=True):
        one = CancelOne(target.device, target.orgId, commandId)
        call = Call(CancelAll(target.device, target.orgId) if scope == "all" else one)
        call.standing = standing
        call.attempts = 1
        case.attempts += 1
        case.calls.append(call)
        if standing in (S.CANCELLED, S.INCOMPLETE):
            case.record(call, [Command(commandId)], "response", "r1")
    return case


def expected(standings: tuple[Standing, ...], nothing: OutcomeKind) -> OutcomeKind:
    """The rule for a target of several calls, as it is written down for users."""
    if S.ANOMALOUS in standings:
        return K.ANOMALOUS
    something = S.CANCELLED in standings or S.INCOMPLETE in standings
    for unresolved in (S.INCOMPLETE, S.UNKNOWN, S.FAILED, S.REJECTED, S.NOT_FOUND):
        if unresolved in standings:
            return K.CANCELLED_INCOMPLETE if something else K(unresolved.value)
    return K.CANCELLED if something else nothing


@pytest.mark.parametrize("scope", ["listed", "by_id"])
def test_every_combination_of_two_and_three_calls(scope: str) -> None:
    """anomalous, then unresolved, refused or failed, then cancelled, then nothing."""
    nothing = K.TOO_LATE if scope == "listed" else K.NOTHING_MATCHED
    for count in (1, 2, 3):
        for standings in product(SETTLED, repeat=count):
            kind = verdict(case_of(*standings, scope=scope), 0.0).kind
            assert kind is expected(standings, nothing), standings


@pytest.mark.parametrize(
    ("standing", "kind"),
    [
        (S.CANCELLED, K.CANCELLED),
        (S.EMPTY, K.NOTHING_CACHED),
        (S.UNKNOWN, K.UNKNOWN),
        (S.FAILED, K.FAILED),
        (S.REJECTED, K.REJECTED),
        (S.NOT_FOUND, K.NOT_FOUND),
        (S.ANOMALOUS, K.ANOMALOUS),
        (S.INCOMPLETE, K.CANCELLED_INCOMPLETE),
    ],
)
def test_one_cancel_all(standing: Standing, kind: OutcomeKind) -> None:
    """A whole-device call gives the outcome of the same name; empty is nothing_cached."""
    assert verdict(case_of(standing, scope="all"), 0.0).kind is kind


@pytest.mark.parametrize(
    ("discovery", "standings", "kind"),
    [
        (None, (), K.NOTHING_MATCHED),
        (S.FAILED, (), K.FAILED),
        (S.FAILED, (S.CANCELLED,), K.CANCELLED_INCOMPLETE),
        (S.UNKNOWN, (S.EMPTY,), K.UNKNOWN),
        (S.UNKNOWN, (), K.UNKNOWN),
        (S.INCOMPLETE, (S.CANCELLED,), K.CANCELLED_INCOMPLETE),
    ],
)
def test_what_the_searches_of_by_id_came_to(
    discovery: Standing | None, standings: tuple[Standing, ...], kind: OutcomeKind
) -> None:
    """by_id: still cached, or not searchable, counts like an unresolved call."""
    case = case_of(*standings, scope="by_id")
    case.discovery = discovery
    assert verdict(case, 0.0).kind is kind


def test_cut_short_every_combination() -> None:
    """A stop leaves unknown what may be executed, not attempted what is proven not to be."""
    for standings in product((*SETTLED, S.OPEN), repeat=2):
        case = case_of(*standings)
        outcome = as_it_stands(case, 0.0, "signal")
        if S.OPEN not in standings:
            assert outcome == verdict(case, 0.0), standings
            continue
        other = standings[0] if standings[1] is S.OPEN else standings[1]
        kind = {
            S.ANOMALOUS: K.ANOMALOUS,
            S.UNKNOWN: K.UNKNOWN,
            S.CANCELLED: K.CANCELLED_INCOMPLETE,
            S.INCOMPLETE: K.CANCELLED_INCOMPLETE,
        }.get(other)
        assert (outcome and outcome.kind) == kind, standings


@pytest.mark.parametrize("scope", ["all", "listed"])
def test_cut_short_in_doubt_is_unknown(scope: str) -> None:
    """A call in doubt when the run ends: unknown, with what the attempt said or why it ended."""
    case = case_of(S.OPEN, scope=scope)
    case.calls[0].doubt(1, 2, 0.0)
    outcome = as_it_stands(case, 0.0, "signal")
    assert outcome is not None
    assert (outcome.kind, outcome.cause, outcome.tainted) == (K.UNKNOWN, "signal", True)
    case = case_of(S.OPEN, scope=scope)
    case.calls[0].doubt(1, 2, 0.0)
    case.calls[0].cause = "http_503"
    outcome = as_it_stands(case, 0.0, "signal")
    assert outcome is not None
    assert outcome.cause == "http_503"


def test_cut_short_in_doubt_with_something_cancelled() -> None:
    """What a partial reply told is certain, the rest is not."""
    case = case_of(S.OPEN, scope="all")
    case.calls[0].doubt(1, 2, 0.0)
    case.record(case.calls[0], [Command("7")], "response", None)
    outcome = as_it_stands(case, 0.0, "deadline")
    assert outcome is not None
    assert outcome.kind is K.CANCELLED_INCOMPLETE
    assert [c.command.commandId for c in outcome.commands] == ["7"]


def test_cut_short_before_the_first_call() -> None:
    """Never sent is not attempted; with commands of an earlier pass it is incomplete."""
    case = Case(whole(), 1, 0.0)
    assert as_it_stands(case, 0.0, "aborted") is None
    case.recorded["7"] = CommandResult(Command("7"), "cancelled", "response", None, 1)
    outcome = as_it_stands(case, 0.0, "aborted")
    assert outcome is not None
    assert (outcome.kind, outcome.cause) == (K.CANCELLED_INCOMPLETE, None)


@pytest.mark.parametrize(
    ("standings", "kind"),
    [((), None), ((S.EMPTY,), None), ((S.CANCELLED,), K.CANCELLED_INCOMPLETE)],
)
def test_cut_short_by_id_is_never_complete(
    standings: tuple[Standing, ...], kind: OutcomeKind | None
) -> None:
    """by_id: before the last search nobody knows whether something is left."""
    outcome = as_it_stands(case_of(*standings, scope="by_id"), 0.0, "limit")
    assert (outcome and outcome.kind) == kind


def test_whole_outcome_of_an_answer() -> None:
    """Everything a report row needs comes from the deciding call's last evidence."""
    case = case_of(S.OPEN, scope="all")
    call = case.calls[0]
    call.last = Answered((), "r9")
    call.standing = S.CANCELLED
    told = Command("7", productKey="p", deviceKey="d0", assetId="a0")
    case.record(call, [told, told], "response", "r9")
    case.fresh.clear()
    assert verdict(case, 1.5) == Outcome(
        target=whole(),
        kind=K.CANCELLED,
        commands=(CommandResult(told, "cancelled", "response", "r9", 1),),
        told=Identity("p", "d0", "a0"),
        attempts=1,
        evidence="response",
        http_status=200,
        code=0,
        requestId="r9",
        duration_ms=1500,
    )


@pytest.mark.parametrize(
    ("last", "status", "code", "message", "requestId", "evidence"),
    [
        (NotSent("refused", message="no route"), None, None, "no route", None, None),
        (
            Refused(400, 99400, "bad_request", message="bad", requestId="r"),
            400,
            99400,
            "bad",
            "r",
            "response",
        ),
        (
            Ambiguous("http_503", 503, 99500, message="busy", requestId="r"),
            503,
            99500,
            "busy",
            "r",
            None,
        ),
        (None, None, None, None, None, None),
    ],
)
def test_outcome_of_an_unanswered_call(
    last: NotSent | Refused | Ambiguous | None,
    status: int | None,
    code: int | None,
    message: str | None,
    requestId: str | None,
    evidence: str | None,
) -> None:
    """Status, code, message and requestId are the last evidence's; nothing is made up."""
    case = case_of(S.FAILED, scope="all")
    case.calls[0].last = last
    told = verdict(case, 0.0)
    assert (told.http_status, told.code, told.message, told.requestId, told.evidence) == (
        status,
        code,
        message,
        requestId,
        evidence,
    )


def test_each_command_keeps_its_own_result() -> None:
    """commands[] of a listed target: what was cancelled first, then each other id asked for."""
    case = case_of(S.EMPTY, S.CANCELLED, S.REJECTED, S.FAILED, S.UNKNOWN, S.NOT_FOUND, S.OPEN)
    case.calls[0].state = 5
    told = [(c.command.commandId, c.result, c.command.state) for c in verdict(case, 0.0).commands]
    assert told == [
        ("1", "cancelled", None),
        ("0", "not_cached", 5),
        ("2", "rejected", None),
        ("3", "failed", None),
        ("4", "unknown", None),
        ("5", "rejected", None),
    ]


@pytest.mark.parametrize(
    ("standings", "spent", "tainted", "cause", "may"),
    [
        ((S.FAILED,), True, False, None, True),
        ((S.FAILED,), False, False, None, False),  # not worth another try: tls
        ((S.FAILED,), True, True, None, False),  # a tainted one goes to the look-up only
        ((S.FAILED,), True, False, "internal_error", False),
        ((S.CANCELLED, S.FAILED), True, False, None, True),
        ((S.FAILED, S.ANOMALOUS), True, False, None, False),
        ((S.CANCELLED,), False, False, None, False),
    ],
)
def test_what_may_be_put_off(
    standings: tuple[Standing, ...], spent: bool, tainted: bool, cause: str | None, may: bool
) -> None:
    """A later pass gets what is proven unsent, and nothing else (Retry)."""
    case = case_of(*standings)
    case.cause = cause
    for call in case.calls:
        if call.standing is S.FAILED:
            call.spent, call.tainted = spent, tainted
    assert case.may_be_put_off is may


def test_a_bug_leaves_unknown_what_was_out() -> None:
    """Unhandled bug: unknown if sent or in doubt, else failed; what is proven stays (row 55)."""
    case = case_of(S.OPEN, S.OPEN, S.OPEN, S.CANCELLED)
    case.calls[0].sending = True
    case.calls[1].in_doubt = True
    case.give_up_broken()
    assert [c.standing for c in case.calls] == [S.UNKNOWN, S.UNKNOWN, S.FAILED, S.CANCELLED]
    assert verdict(case, 0.0).kind is K.CANCELLED_INCOMPLETE
    assert verdict(case, 0.0).cause == "internal_error"


@pytest.mark.parametrize(
    ("scope", "standings", "kind"),
    [
        ("all", (), K.FAILED),
        ("by_id", (), K.FAILED),
        ("by_id", (S.EMPTY,), K.FAILED),
        ("by_id", (S.CANCELLED,), K.CANCELLED_INCOMPLETE),
    ],
)
def test_a_bug_between_calls_claims_nothing(
    scope: str, standings: tuple[Standing, ...], kind: OutcomeKind
) -> None:
    """by_id: a bug after some calls is not the end of the search for more (row 55)."""
    case = case_of(*standings, scope=scope)
    case.give_up_broken()
    outcome = verdict(case, 0.0)
    assert (outcome.kind, outcome.cause) == (kind, "internal_error")


def test_moments_of_sending_only_widen() -> None:
    """First and last send of a call hold over attempts and earlier doubt."""
    call = case_of(S.OPEN, scope="all").calls[0]
    call.doubt(500, 900, 1.0)
    call.sent(3.0, 1300)
    call.sent(5.0, 1500)
    told = (call.first_sent, call.last_sent, call.first_sent_ms, call.last_sent_ms)
    assert told == (3.0, 5.0, 500, 1500)


def test_what_replies_name_is_kept_beside_the_spelling() -> None:
    """Filled in by each reply; half a name is none; two devices for one target are noticed (94)."""
    case = Case(asset(0), 0, 0.0)
    case.meet(Command("1", productKey="p"))
    assert (case.told, case.names_differ) == (Identity(), False)
    case.meet(Command("2", productKey="p", deviceKey="d"))
    case.meet(Command("3", assetId="a0"))
    assert (case.told, case.names_differ) == (Identity("p", "d", "a0"), False)
    case.meet(Command("4", productKey="q", deviceKey="e", assetId="a0"))
    assert (case.told, case.names_differ) == (Identity("p", "d", "a0"), True)
    assert case.target.device == AssetId("a0")
