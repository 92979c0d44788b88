"""What goes into the ledger and comes out of it, as plain frozen words.

They stand apart from the code that writes them so that an executor can make an `Entry` and a
runner read a `Claimed` target without touching SQL.
"""

from __future__ import annotations

from msgspec import Struct

from worker.model import (
    UNNAMED,
    CommandResult,
    Identity,
    Outcome,
    OutcomeKind,
    Rehearsal,
    Result,
    Target,
)


class DoubtMark(Struct, frozen=True):
    """An attempt was ambiguous: the target waits for a look-up."""

    first_sent_ms: int  # the gateway's clock, over all attempts
    last_sent_ms: int
    attempts: int
    cause: str


class Deferral(Struct, frozen=True):
    """Put off to a later pass: whatever was sent is proven not executed, nothing is in doubt."""

    cause: str
    attempts: int = 0
    told: Identity = UNNAMED  # what replies named


Verdict = Outcome | DoubtMark | Deferral


class Entry(Struct, frozen=True, gc=False):
    """One thing to record of one target: commands a reply told, a verdict, or both.

    The commands of an Outcome are recorded as well; they need not be given twice.
    """

    ordinal: int
    pass_no: int
    commands: tuple[CommandResult, ...] = ()
    verdict: Verdict | None = None


class Claim(Struct, frozen=True):
    """Which targets to claim: the next `count` of the plan, or exactly `members`."""

    pass_no: int
    count: int = 0
    members: tuple[int, ...] | None = None  # ordinals, none of them claimed in this pass before
    limit: int | None = None  # the first so many targets of the plan only


class ClaimedTarget(Struct, frozen=True, gc=False):
    """A target that may be sent now, with what this run recorded of it before."""

    target: Target
    pass_no: int
    commands: tuple[CommandResult, ...] = ()
    doubt: DoubtMark | None = None  # an ambiguous attempt that nothing has settled since
    told: Identity = UNNAMED  # what replies of this run named


ID_OF_OTHER_DEVICE = "id_of_other_device"
SAME_DEVICE = "same_device"


class Conflict(Struct, frozen=True):
    """A commandId that another target of this run has already recorded as cancelled."""

    ordinal: int  # the later of the two
    other: int  # the ordinal that recorded it first
    commandId: str
    cause: str  # id_of_other_device: provably another device; same_device: not provably


class Granted(Struct, frozen=True):
    """What one commit came to."""

    targets: list[ClaimedTarget]
    conflicts: list[Conflict]
    entries: list[Entry]  # as written; `commands` are those not recorded as cancelled before


class NewRun(Struct, frozen=True):
    """The head of a run that is about to be frozen."""

    run_id: str
    job: str
    reason: str | None
    actor: str
    orgId: str
    gateway: str
    scope: str  # all_cached | listed
    version: str
    planned_ms: int
    settings: bytes  # JSON, opaque here
    rehearsal: Rehearsal | None = None


class Frozen(Struct, frozen=True):
    """A plan that is written and will not change."""

    run_id: str
    digest: str  # sha256, hex
    targets: int
    commands: int  # listed commandIds
    united: int  # how often a device of one source stood in another one as well


class Doubt(Struct, frozen=True):
    """A claimed target without an outcome: it may have been touched."""

    ordinal: int
    pass_no: int  # of its last claim
    claimed_ms: int  # the local clock, the first claim that nothing has settled
    mark: DoubtMark | None = None

    @property
    def since_ms(self) -> int:
        """No request of the doubt went out before."""
        return min(self.claimed_ms, self.mark.first_sent_ms) if self.mark else self.claimed_ms


class Found(Struct, frozen=True):
    """One run that touched what was searched for."""

    run_id: str
    job: str
    ordinal: int
    identity: Identity  # as the plan spelled it, the rest filled in from replies
    outcome: OutcomeKind
    at_ms: int | None  # when it was recorded
    commandId: str | None = None
    result: Result | None = None
    rehearsal: bool = False


class Touched(Struct, frozen=True):
    """Another run that touched devices of this one."""

    run_id: str
    job: str
    devices: int


class AlsoTouched(Struct, frozen=True):
    """What is known of such runs."""

    runs: list[Touched] = []  # the newest first
    not_compared: int = 0  # earlier runs of the same time that nobody looked into
