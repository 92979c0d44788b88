"""What is true at the gateway: devices, their commands, who cancelled what, what a search shows.

A change is shown by searches only after the index caught up, each change with a lag of its own.
Moments are seconds of the world's true time.
"""

from __future__ import annotations

from math import inf

from msgspec import Struct

from tests.simulation.fates import Fate

Key = tuple[str, ...]  # (productKey, deviceKey) or (assetId,)

CACHED, CANCELLED, EXPIRED, RELEASED = 1, 2, 3, 4


class Cached(Struct, eq=False):
    """One command of one device."""

    commandId: str
    created: float
    created_ms: int  # the gateway's clock
    shown: float  # from then on a search shows it
    state: int = CACHED  # now
    shown_state: int = CACHED  # what searches showed before `visible`
    visible: float = -inf  # from then on they show `state`

    def seen(self, at: float) -> int | None:
        """The state that a search shows at that moment; None: not there yet."""
        if at < self.shown:
            return None
        return self.state if at >= self.visible else self.shown_state

    def change(self, state: int, at: float, lag: float) -> None:
        self.shown_state = self.state if at >= self.visible else self.shown_state
        self.state = state
        self.visible = max(at + lag, self.shown)


class Thing(Struct, eq=False):
    """A device."""

    index: int
    productKey: str
    deviceKey: str
    assetId: str
    commands: list[Cached] = []
    curse: str | None = None  # how every cancel of it is refused
    bug: bool = False  # a bug of ours strikes when it is called

    @property
    def by_keys(self) -> Key:
        return (self.productKey, self.deviceKey)

    @property
    def by_asset(self) -> Key:
        return (self.assetId,)

    def cached(self) -> list[Cached]:
        return [command for command in self.commands if command.state == CACHED]

    def shown(self, state: int, at: float) -> list[Cached]:
        """What a search for a state shows at that moment."""
        return [command for command in self.commands if command.seen(at) == state]

    def find(self, commandId: str) -> Cached | None:
        return next((c for c in self.commands if c.commandId == commandId), None)

    def struct(
        self, command: Cached, state: int, *, named: bool = True, names: str | None = None
    ) -> str:
        """The command as JSON, as the gateway writes it; names: members to write instead."""
        told = (command.commandId, command.created_ms, state)
        return struct_of(self, *told, named=named, names=names)


def struct_of(
    thing: Thing,
    commandId: str,
    created_ms: int,
    state: int,
    *,
    named: bool = True,
    names: str | None = None,
) -> str:
    whose = ""
    if named:
        whose = names or (
            f'"productKey":"{thing.productKey}","deviceKey":"{thing.deviceKey}",'
            f'"assetId":"{thing.assetId}",'
        )
        whose += '"orgId":"o1",'
    return (
        f'{{"commandId":"{commandId}",{whose}"createTime":{created_ms},"commandType":1,'
        f'"commandName":{{"defaultValue":"reboot"}},"timeout":30,"pendingTtl":6000,'
        f'"state":{state},"tslIdentifier":"reboot","inputData":222}}'
    )


class Exchange(Struct, eq=False):
    """One request and all that became of it."""

    number: int
    worker: int
    run: int
    kind: str  # cancel, search, token
    key: Key = ()  # the device as spelled
    thing: Thing | None = None
    commandId: str | None = None
    state: int = 0  # searched for
    page: int = 0
    begun: float = 0.0  # true time
    begun_loop: float = 0.0
    arrives: float = 0.0
    replies: float = 0.0  # when the client has all of what it gets
    arrived: bool = False
    effect: float | None = None  # when it is executed; None: never
    portion: float = 1.0  # of the commands that are executed
    limit: float = inf  # the effect must be seen by then, index lag included
    ended: float | None = None  # when the client knew, or gave up
    executed: list[str] = []
    delivered: tuple[str, ...] = ()  # ids in a reply that arrived
    fault: str = "ok"
    proof: str = "OK"  # NS, RJ, TR (refused for now), TK (token), OK, AM; None while it lasts
    row: int = 0
    anomaly: bool = False
    token: str = ""  # signed with, or given
    life: int = 0  # s, of a token that was given
    pass_no: int = 0  # of its target, as durably claimed
    stamp: int = 0  # apim-timestamp
    fate: Fate | None = None
    names: tuple[str, str, str] = ("", "", "")  # that its rows carry; none: all of its own
    named: tuple[str, ...] = ()  # of these, the spelling that was not asked for
    about: Thing | None = None  # whose rows it has, if not the device's
    rows: int = 0  # in the reply

    @property
    def call(self) -> tuple[Key, str | None]:
        return (self.key, self.commandId)
