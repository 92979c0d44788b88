"""One run from its first request to its last: permission, legs, later passes, verification.

It puts the parts of `run` together around a gateway and a ledger's writer, and says how the run
ended. What is asked of people, printed and kept about the run stands above, in the command line.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

import anyio
from msgspec import Struct
from msgspec.structs import replace

from worker.clock import Clock
from worker.errors import LedgerError, RefusedError
from worker.ledger.entry import ClaimedTarget
from worker.ledger.writer import Writer
from worker.model import UNNAMED, Device, Identity, Page, Refused, Requests, Stop, Target
from worker.run.auth import AuthRule
from worker.run.case import Case
from worker.run.course import stay
from worker.run.executor import Executor
from worker.run.outcome import misnamed
from worker.run.pace import Pace
from worker.run.reconcile import LookupRules, Reconciler, is_denied
from worker.run.record import Observer, Recorder
from worker.run.rest import Memory, Rest
from worker.run.retry import Budget, RetryPolicy, RetryRules
from worker.run.runner import Runner
from worker.run.safety import AbortRules, Safety
from worker.run.stop import Bounds, Switch
from worker.run.verify import Findings, Subjects, Verifier
from worker.run.wire import Gateway, Halted, Wire
from worker.run.words import advice, in_words, requested


class Rules(Struct, frozen=True):
    """How a run works, whatever its list."""

    orgId: str
    concurrency: int
    rate: float | None  # requests per second
    retry: RetryRules
    lookup: LookupRules
    abort: AbortRules | None
    max_commands: int | None
    drain: float  # seconds for what is in flight when the run stops
    by_id: bool = False  # the gateway cancels single commands only


class Leg(Struct, frozen=True):
    """A part of the plan that is worked off in one go."""

    pass_no: int
    members: tuple[int, ...] | None = None  # ordinals; None: all that was never claimed
    limit: int | None = None  # the first so many targets of the plan
    in_doubt_since: int | None = None  # its targets may have been called since, Unix ms


class Cut(Protocol):
    """How requests in flight are ended (`gateway.transport.Transport`)."""

    def cut(self, at: float) -> None:
        """No request outlives this monotonic moment."""


class Recall(Memory, Protocol):
    """What a run asks of the ledger's past; called where the writer's commits run."""

    def open_intents(self) -> Mapping[Device, int]:
        """Devices that earlier runs left in doubt, and since when, Unix ms."""

    def recorded_elsewhere(self, ordinal: int, ids: Sequence[str]) -> set[str]:
        """Those ids that an earlier run or another target of this run has on record."""


class Ending(Struct):
    """How the requests of a run ended."""

    stop: Stop | None
    requests: Requests
    findings: Findings | None  # None: no verification was begun
    internal_errors: int
    durable: bool  # everything that happened is in the ledger
    advice: str | None = None  # what to change in the list, where replies showed that


class Session:
    """The machinery of one run."""

    def __init__(
        self,
        rules: Rules,
        gateway: Gateway,
        transport: Cut,
        writer: Writer,
        recall: Recall,
        clock: Clock,
        switch: Switch,
        bounds: Bounds,
        observer: Observer,
        recorder: Recorder,
    ) -> None:
        self._rules = rules
        self._gateway = gateway
        self._transport = transport
        self._writer = writer
        self._recall = recall
        self._clock = clock
        self._switch = switch
        self._bounds = bounds
        self._recorder = recorder
        self.pace = Pace(clock, switch, rules.concurrency, rules.rate)
        self._policy = policy = RetryPolicy(rules.retry, clock)
        self._budget = Budget(rules.retry)
        auth = AuthRule(lambda: self._runner.open_targets)
        self._rest = Rest(writer, recall, clock, switch, bounds, observer)
        self._wire = Wire(gateway, self.pace, policy, switch, bounds, clock, self._rest, auth)
        self._reconciler = Reconciler(
            self._wire, gateway, rules.lookup, policy, clock, self._recorded_elsewhere
        )
        executor = Executor(
            self._wire,
            gateway,
            self._reconciler,
            policy,
            self._budget,
            Budget(rules.retry),
            clock,
            recorder,
            by_id=rules.by_id,
        )
        self._safety = Safety(rules.abort, rules.max_commands, rules.orgId)
        self._intents: Mapping[Device, int] = {}
        self._in_doubt_since: int | None = None  # of the leg at hand
        self._probed: tuple[int, Page, Identity] | None = None  # how a page named its target
        self._misnamed: Sequence[tuple[Target, Identity]] = ()  # by the probe or the verification
        self._after_all = 0  # a pass behind all others: its record replaces theirs
        self._served = anyio.Event()  # the writer has ended
        self.ended = False  # the last target settled, verification is over: no signal stops it
        self._runner = Runner(
            executor,
            recorder,
            self._safety,
            switch,
            clock,
            observer,
            self._doubt,
            rules.concurrency,
        )
        switch.on_throw(self._drain)

    @property
    def requests(self) -> Requests:
        """What went to the connect service so far."""
        return self._wire.requests

    async def run(
        self,
        legs: Sequence[Leg],
        verify: Subjects | None,
        probe: Target | None,
    ) -> Ending:
        """Work the legs off, then verify; never raises for what a gateway or a ledger does.

        RefusedError when the probe shows that searches, which this run needs, are refused.
        """
        findings: Findings | None = None
        refusal: RefusedError | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_record)
            group.start_soon(self._bounds.watch, self._switch)
            try:
                await self._rest.wait_out(self._rules.retry.retry_after_max)
                await self._permission(probe)
                began = self._clock.monotonic()
                self._intents = await self._writer.ask(self._recall.open_intents)
                await self._work_off(legs)
                self.ended = verify is None
                await self._writer.flush()  # which may find what stops the run
                if verify is not None and self._switch.stop is None:
                    findings = Findings(await verify.count())
                    await self._verify(verify, findings, began)
                for target, told in self._misnamed:
                    self._recorder.replace(misnamed(target, told), self._after_all)
                self.ended = True
            except RefusedError as refused:
                refusal = refused
            except Halted:
                pass  # before the first cancel; the switch says why
            except LedgerError as failure:
                self._lost(failure)
            durable = await self._close()
            group.cancel_scope.cancel()
        if refusal is not None:
            raise refusal
        if findings is not None and not self.ended:
            findings.ended_by(self._switch.stop)
        return Ending(
            self._switch.stop,
            self.requests,
            findings,
            self._runner.internal_errors,
            durable,
            self._wire.advice(),
        )

    async def look(self, targets: Subjects, began_wall_ms: int | None) -> Findings:
        """Only search: what of these targets is cached, and why the searching ended early.

        What was cached after began_wall_ms (local clock; None: now) is counted apart.
        """
        findings = Findings()
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_record)
            group.start_soon(self._bounds.watch, self._switch)
            try:
                findings.unsearched = await targets.count()
                await self._rest.wait_out(self._rules.retry.retry_after_max)
                now_ms = self._clock.wall_ms()
                age = 0.0 if began_wall_ms is None else (now_ms - began_wall_ms) / 1000
                await self._verify(targets, findings, self._clock.monotonic() - age)
                self.ended = self._switch.stop is None
            except Halted:
                pass  # while it rested; the switch says why
            except LedgerError as failure:
                self._lost(failure)
            await self._close()
            group.cancel_scope.cancel()
        if not self.ended:
            findings.ended_by(self._switch.stop)
        return findings

    async def _permission(self, probe: Target | None) -> None:
        """A run that needs searches learns before its first cancel whether it may.

        That there is no such device says nothing of the permission.
        """
        if probe is None:
            return
        search = self._reconciler.page(probe, state=1, page=1)
        reply = await stay(search, self._wait)
        if isinstance(reply, Refused) and is_denied(reply) and reply.cause != "not_found":
            without = ", or set verify: none in the job"
            may_go_without = reply.cause == "forbidden" and not self._rules.by_id
            raise RefusedError(
                "this run needs to search commands (verify, or gateway.cancel_all: by_id), and "
                f"the gateway refuses it for orgId {probe.orgId}: {in_words(reply)}"
                f"{requested(reply)}; nothing was cancelled. {advice(reply, probe.orgId)}"
                f"{without if may_go_without else ''}"
            )
        if isinstance(reply, Page):
            case = Case(probe, 0)
            for command in reply.commands:
                case.meet(command)
            if case.names_differ:
                self._wire.names_differ(reply.requestId)
            if case.told is not UNNAMED:
                self._probed = (probe.ordinal, reply, case.told)

    async def _wait(self, moment: float) -> None:
        await self._switch.sleep(moment - self._clock.monotonic())

    async def _work_off(self, legs: Sequence[Leg]) -> None:
        """The legs in their order, then later passes over what each put off."""
        retry = self._rules.retry
        put_off: tuple[int, ...] = ()
        for number, leg in enumerate(legs, 1):
            waiting = len(put_off) if number == len(legs) else None
            await self._leg(leg, may_put_off=retry.passes > 0, waiting=waiting)
            put_off += tuple(self._runner.put_off)
        pass_no = max((leg.pass_no for leg in legs), default=0)
        self._after_all = pass_no + retry.passes + 1
        for later in range(1, retry.passes + 1):
            if not put_off or not await self._switch.sleep(retry.cooldown):
                return
            self._budget.next_pass()
            self._safety.next_pass()
            leg = Leg(pass_no + later, put_off)
            await self._leg(leg, may_put_off=later < retry.passes, waiting=0)
            put_off = tuple(self._runner.put_off)

    async def _leg(self, leg: Leg, *, may_put_off: bool, waiting: int | None) -> None:
        self._in_doubt_since = leg.in_doubt_since
        if self._switch.stop is None:
            await self._runner.work_off(self._claims(leg), may_put_off=may_put_off, waiting=waiting)

    async def _claims(self, leg: Leg) -> AsyncIterator[list[ClaimedTarget]]:
        doubtful = leg.in_doubt_since is not None
        self._writer.open_pass(leg.pass_no, leg.members, leg.limit, in_doubt=doubtful)
        while self._switch.stop is None and (batch := await self._writer.claim()):
            yield [self._as_probed(claimed) for claimed in batch] if self._probed else batch

    def _as_probed(self, claimed: ClaimedTarget) -> ClaimedTarget:
        """The target that the probe searched has been named once already."""
        if self._probed is None or self._probed[0] != claimed.target.ordinal:
            return claimed
        (_, page, told), self._probed = self._probed, None
        both = claimed.told.joined(told)
        if both is None:
            self._wire.names_differ(page.requestId)
            self._misnamed = [(claimed.target, claimed.told)]
            return claimed
        return replace(claimed, told=both)

    async def _verify(self, targets: Subjects, findings: Findings, began: float) -> None:
        """Search again; began is the monotonic moment of the run's beginning."""
        verifier = Verifier(
            self._reconciler,
            self._policy,
            self._switch,
            self._clock,
            self._rules.concurrency,
            lambda: self._gateway.moment(began),
        )
        try:
            await verifier.verify(targets, findings)
        finally:
            self._misnamed = verifier.misnamed

    def _doubt(self, claimed: ClaimedTarget) -> tuple[int, int] | None:
        """When a target may have been called before: first and last, gateway's clock."""
        if not self._intents and self._in_doubt_since is None and claimed.doubt is None:
            return None
        now_ms = self._gateway.moment(self._clock.monotonic()).latest_ms
        since = [self._intents.get(claimed.target.device), self._in_doubt_since]
        if claimed.doubt is not None:
            since.append(claimed.doubt.first_sent_ms)
        known = [moment for moment in since if moment is not None]
        return (min(known), now_ms) if known else None

    async def _recorded_elsewhere(self, target: Target, ids: list[str]) -> set[str]:
        return await self._writer.ask(lambda: self._recall.recorded_elsewhere(target.ordinal, ids))

    async def _keep_record(self) -> None:
        try:
            await self._writer.serve()
            await self._writer.flush()  # after a failure, this tells it
        except LedgerError as failure:
            self._lost(failure)
        finally:
            self._served.set()

    async def _close(self) -> bool:
        """Everything put so far becomes durable, or the answer is False."""
        try:
            await self._writer.flush()
            self._writer.close()
            await self._served.wait()  # claims that nobody fetched are given back
            await self._writer.flush()  # which may have failed
        except LedgerError as failure:
            self._lost(failure)
            return False
        return True

    def _lost(self, failure: LedgerError) -> None:
        self._switch.throw(Stop("record", str(failure)))

    def hurry(self) -> None:
        """What is in flight ends now."""
        self._transport.cut(self._clock.monotonic())

    def _drain(self, _: Stop) -> None:
        """What is in flight gets a moment more."""
        self._transport.cut(self._clock.monotonic() + self._rules.drain)
