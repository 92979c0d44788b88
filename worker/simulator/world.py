"""One simulated gateway: its rules, its clock, its faults, and the truth of what it executed.

Everything here is synchronous and knows nothing of HTTP (`app.py` does). Time and scale come
in through the constructor; nothing is drawn from anything but the seed.
"""

from __future__ import annotations

from collections.abc import Iterable

from worker.clock import Clock
from worker.model import Device, Target
from worker.simulator.chance import Dice
from worker.simulator.commands import (
    CANCELLED,
    CREATED,
    LONGEST_TTL,
    MOST_CACHED,
    Cached,
    Identity,
    enter,
    invent_id,
)
from worker.simulator.expressions import Comparison
from worker.simulator.faults import Bucket, Fault, Profile, decide
from worker.simulator.fleet import CANCELS, NEWCOMERS, SEARCHES, Fleet, Known
from worker.simulator.signature import Replays
from worker.simulator.tokens import TokenService
from worker.simulator.truth import Book, Delivery, Executed, Kind, Truth

_EDGE = 0.005  # s by which an index may be early: timers are not exact


class World:
    """Seed it, serve it, then ask it for the truth."""

    def __init__(
        self,
        clock: Clock,
        seed: int,
        *,
        profile: Profile,
        access_key: str,
        secret_key: str,
        scale: float = 1.0,
        rate_limit: float | None = None,
        any_device: bool = False,
        orgs: Iterable[str] = (),
        refuse_replays: bool = True,
        skew: float = 0.0,
        index_lag: float = 2.0,
        busy: float = 0.25,
        no_device_code: int = 99404,
    ) -> None:
        """A gateway with no devices yet.

        `scale` multiplies every wait; `rate_limit` (requests a second) goes before the
        profile's; with `any_device` every name is a device of the organizations `orgs`;
        `skew` is how far the gateway's clock is ahead (s); `index_lag` is how far searches
        lag (s, scaled); `busy` is the share of devices that have something cached;
        `no_device_code` is 99404 or 11404, both of which gateways use.
        """
        self.clock = clock
        self.seed = seed
        self.profile = profile
        self.access_key = access_key
        self.secret_key = secret_key
        self.scale = scale
        self.any_device = any_device
        self.orgs = set(orgs)
        self.no_device_code = no_device_code
        self._skew_ms = round(skew * 1000)
        self._lag = index_lag * scale
        self.fleet = Fleet(seed, self.now_ms(), any_device=any_device, busy=busy)
        self.book = Book(clock)
        self.bucket = Bucket(clock, profile.rate if rate_limit is None else rate_limit)
        self.replays = Replays(clock) if refuse_replays else None
        self.tokens = TokenService(
            clock, seed, access_key, secret_key, profile.token_life * scale, profile.token_uses
        )
        self._forbidden_orgs: set[str] = set()
        self._forbidden: set[int] = set()

    # ------------------------------------------------------------ setting the scene

    def seed_target(self, target: Target) -> None:
        """Make the target's device known; what it has cached is drawn from the seed."""
        self.orgs.add(target.orgId)
        self.fleet.seed_target(target)

    def seed_absent(self, target: Target) -> None:
        """A target of the job whose device the gateway does not know: no stray, but 99404."""
        self.orgs.add(target.orgId)
        self.fleet.seed_absent(target)

    def add_device(self, who: Identity) -> None:
        """A device with names of one's own choice and nothing cached; KeyError when taken."""
        self.orgs.add(who.orgId)
        self.fleet.add(who)

    def forbid(self, orgId: str, device: Device | None = None) -> None:
        """Deny the device, or all of the organization, with 99403."""
        if device is None:
            self._forbidden_orgs.add(orgId)
        else:
            self._forbidden.add(self.fleet.key_of(orgId, device))

    def cache_command(
        self,
        device: Device,
        created_ms: int | None = None,
        *,
        orgId: str | None = None,
        commandId: str | None = None,
        ttl: int = 86_400,
    ) -> str:
        """Cache a command, now unless `created_ms` is given, and return its commandId.

        Searches see it after the lag. `orgId` may be left out when there is only one.
        ValueError: the device is not there, or it has 50 cached.
        """
        org = self._only_org() if orgId is None else orgId
        known = self.fleet.learn(org, device)
        if known is None:
            raise ValueError(f"no such device: {device}")
        if not 0 < ttl <= LONGEST_TTL:
            raise ValueError(f"a command lives 1 to {LONGEST_TTL} s")
        self._expire(known)
        if known.room() == 0:
            raise ValueError(f"{device} has {MOST_CACHED} commands cached")
        label = f"new-{len(known.commands)}"
        fresh = Cached(
            commandId or invent_id(self.seed, known.key, label),
            self.now_ms() if created_ms is None else created_ms,
            ttl,
            ((self.clock.monotonic(), CREATED),),
        )
        known.commands.append(fresh)
        return fresh.commandId

    def cancel_elsewhere(self, device: Device, commandId: str, orgId: str | None = None) -> None:
        """Somebody else cancels a command; KeyError when it is not cached."""
        known = self.fleet.learn(self._only_org() if orgId is None else orgId, device)
        found = self.cached(known, commandId) if known else []
        if not found:
            raise KeyError(f"{commandId} is not cached for {device}")
        enter(found, CANCELLED, self.clock.monotonic())

    # ------------------------------------------------------------ what requests do

    def now_ms(self) -> int:
        """The gateway's clock."""
        return self.clock.wall_ms() + self._skew_ms

    def allowed(self, orgId: str, key: int) -> bool:
        return orgId not in self._forbidden_orgs and key not in self._forbidden

    def fault(self, kind: Kind, key: int) -> Fault:
        """What happens to this request (of the device `key`, or 0), which it counts."""
        match kind:
            case "cancel":
                faults, turn = self.profile.cancel, self.fleet.bump(key, CANCELS)
            case "search" | "get":
                faults, turn = self.profile.search, self.fleet.bump(key, SEARCHES)
            case "devices":
                faults, turn = self.profile.search, self.book.requests[kind]
            case _:
                faults = self.profile.token
                turn = self.book.requests["token"] + self.book.requests["refresh"]
        return decide(faults, self.seed, kind, key, turn)

    def cancel(
        self, orgId: str, device: Device, commandId: str | None, delivery: Delivery
    ) -> list[Cached]:
        """Cancel what is cached, or one command of it; newest first."""
        known = self.fleet.look(orgId, device)
        found = self.cached(known, commandId) if known else []
        if known and found:
            enter(found, CANCELLED, self.clock.monotonic())
            known.executed += tuple(
                Executed(self.book.next_order(), command.commandId, delivery) for command in found
            )
        self._perhaps_newcomer(orgId, device)
        return found

    def cached(self, known: Known, commandId: str | None = None) -> list[Cached]:
        """What a cancel would find now, newest first."""
        self._expire(known)
        found = [
            command
            for command in known.commands
            if command.state == CREATED and commandId in (None, command.commandId)
        ]
        return sorted(found, key=lambda c: (-c.created_ms, c.commandId))

    def search(
        self, orgId: str, device: Device, conditions: tuple[Comparison, ...]
    ) -> list[tuple[Cached, int]]:
        """What the index shows, newest first, each with the state that it shows."""
        known = self.fleet.look(orgId, device)
        if known is None:
            return []
        self._expire(known)
        at = self.clock.monotonic() - self._lag + _EDGE
        shown = [(command, command.indexed(at)) for command in known.commands]
        found = [
            (command, state)
            for command, state in shown
            if state is not None and all(c.holds(state, command.created_ms) for c in conditions)
        ]
        return sorted(found, key=_age)

    def get(self, orgId: str, device: Device, commandId: str) -> Cached | None:
        """One command as it is now."""
        known = self.fleet.look(orgId, device)
        if known is not None:
            self._expire(known)
        mine = known.commands if known is not None else []
        return next((c for c in mine if c.commandId == commandId), None)

    # ------------------------------------------------------------ the truth

    def truth(self) -> Truth:
        """What was seen and done up to now."""
        book = self.book
        return Truth(
            cancelled={k.who: k.executed for k in self.fleet.kept() if k.executed},
            requests=dict(book.requests),
            answers=dict(book.answers),
            faults=dict(book.faults),
            stray_count=book.stray_count,
            strays=tuple(book.strays),
            max_in_flight=book.max_in_flight,
            overlaps=book.overlaps,
            peak=book.peak,
            early=book.early,
            replays=book.replays,
        )

    def asked(self, orgId: str, device: Device) -> tuple[int, int]:
        """How many cancels and searches of a device got past authentication and rate limit."""
        key = self.fleet.key_of(orgId, device)
        return self.fleet.count(key, CANCELS), self.fleet.count(key, SEARCHES)

    def _expire(self, known: Known) -> None:
        now, now_ms = self.clock.monotonic(), self.now_ms()
        for command in known.commands:
            command.expire(now, now_ms)

    def _perhaps_newcomer(self, orgId: str, device: Device) -> None:
        if self.profile.newcomers == 0:
            return
        key = self.fleet.key_of(orgId, device)
        dice = Dice("newcomer", self.seed, key, self.fleet.bump(key, NEWCOMERS))
        if dice.share() < self.profile.newcomers:
            known = self.fleet.learn(orgId, device)
            if known is not None and known.room():
                self.cache_command(device, orgId=orgId)

    def _only_org(self) -> str:
        if len(self.orgs) != 1:
            raise ValueError("say which organization: there is not exactly one")
        return next(iter(self.orgs))


def _age(shown: tuple[Cached, int]) -> tuple[int, str]:
    command, _ = shown
    return -command.created_ms, command.commandId
