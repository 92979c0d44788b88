"""One struct of the gateway's `data`, read by meaning, not by shape, and whose it is.

Optional fields come and go and change their types between versions: what cannot be read is
None, never an error. The id is the evidence, so it alone is judged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

from msgspec import Struct

from worker.gateway import causes
from worker.gateway.strict_json import Digits, Fraction, write
from worker.model import AssetId, Command, Device

MAX_CACHED = 50  # commands a device can have cached
_BELIEVABLE = 1_000  # structs in one reply
_LONGEST_TEXT = 512  # characters kept of what somebody else wrote
_ID = re.compile(r"[0-9]{1,32}")
_SMALL_INTEGER = re.compile(r"[0-9]{1,18}")


class Structs(Struct, frozen=True):
    """What a list of structs says, each id once and as received."""

    commands: tuple[Command, ...]
    foreign: bool = False  # a struct belongs to another device than asked
    other_spelling: bool = False  # a struct names its device, and not by the identity asked for
    too_many: bool = False  # more than any cache holds
    malformed: bool = False  # an id is not a string or integer of 1 to 32 digits
    warnings: tuple[str, ...] = ()


def read_structs(structs: Sequence[dict[str, Any]], device: Device, orgId: str) -> Structs:
    """Every struct as a command, with all that is odd about them."""
    commands: dict[str, Command] = {}
    foreign = other_spelling = malformed = False
    odd: set[str] = {causes.OVER_50} if len(structs) > MAX_CACHED else set()
    for struct in structs:
        command = read_command(struct)
        given = struct.get("commandId")
        malformed |= not _well_formed(given)
        if isinstance(given, Digits):
            odd.add(causes.NUMERIC_ID)
        if command.commandId in commands:
            odd.add(causes.REPEATED_ID)
        commands.setdefault(command.commandId, command)
        match _whose(command, device, orgId):
            case Whose.FOREIGN:
                foreign = True
            case Whose.OTHER_SPELLING:
                other_spelling = True
            case Whose.UNNAMED:
                odd.add(causes.IDENTITY_MISSING)
    return Structs(
        tuple(commands.values()),
        foreign,
        other_spelling,
        len(structs) > _BELIEVABLE,
        malformed,
        tuple(sorted(odd)),
    )


def read_command(struct: dict[str, Any]) -> Command:
    """One struct; a numeric or malformed id keeps the characters it came with."""
    given = struct.get("commandId")
    tslIdentifier = text(struct.get("tslIdentifier"))
    names = struct.get("commandName")
    default = text(names.get("defaultValue")) if isinstance(names, dict) else None
    return Command(
        commandId=_id(given),
        orgId=_identity(struct.get("orgId")),
        productKey=_identity(struct.get("productKey")),
        deviceKey=_identity(struct.get("deviceKey")),
        assetId=_identity(struct.get("assetId")),
        created_ms=integer(struct.get("createTime")),
        type=integer(struct.get("commandType")),
        name=tslIdentifier or default,
        tslIdentifier=tslIdentifier,
        state=integer(struct.get("state")),
        timeout=integer(struct.get("timeout")),
        pendingTtl=integer(struct.get("pendingTtl")),
        inputData=write(struct["inputData"]).encode() if "inputData" in struct else None,
    )


def text(value: object) -> str | None:
    """A JSON string, at most 512 characters of it; None for an empty one and anything else."""
    if type(value) is not str or not value:
        return None
    return _encodable(value[:_LONGEST_TEXT])


def integer(value: object) -> int | None:
    """A JSON integer, or a string of digits; None for anything else."""
    if (
        isinstance(value, str)
        and not isinstance(value, Fraction)
        and _SMALL_INTEGER.fullmatch(value)
    ):
        return int(value)
    return None


def _well_formed(commandId: object) -> bool:
    is_text = isinstance(commandId, str) and not isinstance(commandId, Fraction)
    return is_text and _ID.fullmatch(str(commandId)) is not None


def _id(given: object) -> str:
    if given is None:
        return ""
    # str(): Digits and Fraction carry their characters, and leave their type here.
    return _encodable((str(given) if isinstance(given, str) else write(given))[:_LONGEST_TEXT])


def _identity(value: object) -> str | None:
    """A string, or a number by its digits; never shortened, because it is compared."""
    return _encodable(str(value)) if isinstance(value, str) and value else None


class Whose(Enum):
    """Whose command a struct is, by the names that it carries."""

    ASKED = auto()  # the device's, by the identity that was asked for
    UNNAMED = auto()  # no name at all
    OTHER_SPELLING = auto()  # names, and none of the identity that was asked for
    FOREIGN = auto()  # another device's or organization's


def _whose(command: Command, device: Device, orgId: str) -> Whose:
    if command.orgId not in {None, orgId}:
        return Whose.FOREIGN
    names = (command.productKey, command.deviceKey, command.assetId)
    if isinstance(device, AssetId):
        pairs = [(command.assetId, device.assetId)]
    else:
        pairs = [(command.productKey, device.productKey), (command.deviceKey, device.deviceKey)]
    if any(given not in {None, asked} for given, asked in pairs):
        return Whose.FOREIGN
    if pairs[-1][0] is not None:
        return Whose.ASKED
    if pairs[0][0] is not None and command.assetId is None:
        return Whose.ASKED  # beside an assetId a productKey names the product, not the device
    return Whose.UNNAMED if names == (None, None, None) else Whose.OTHER_SPELLING


def _encodable(value: str) -> str:
    """The text without lone surrogates, which JSON can spell and no file can hold."""
    if value.isascii():
        return str(value)
    return value.encode("utf-8", "backslashreplace").decode()
