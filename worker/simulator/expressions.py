"""The filter language of the searches, as far as the documentation shows it.

Commands: comparisons of state and createTime joined by `and`. Devices: `=` and `in` on quoted
values, joined by `and` and `or` (`and` binds tighter). Anything else is a ValueError, because
a filter that is misread could select what nobody asked for.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping

from msgspec import Struct

_SIGNS: dict[str, Callable[[int, int], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COMPARISON = re.compile(r"(state|createTime) *(<=|>=|=|<|>) *([0-9]{1,19})")
_VALUE = r"'[^'\\\"]+'"
_CONDITION = re.compile(rf"([A-Za-z]+) *(?:= *({_VALUE})|in *\( *({_VALUE}(?: *, *{_VALUE})*) *\))")
_DEVICE_FIELDS = ("productKey", "deviceKey", "assetId", "status")


class Comparison(Struct, frozen=True):
    field: str  # state | createTime
    sign: str
    value: int

    def holds(self, state: int, created_ms: int) -> bool:
        return _SIGNS[self.sign](state if self.field == "state" else created_ms, self.value)


def read_command_filter(expression: str) -> tuple[Comparison, ...]:
    """All of these must hold; an empty expression selects every command."""
    if not expression.strip():
        return ()
    found = []
    for part in re.split(r" +and +", expression.strip()):
        match = _COMPARISON.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"cannot read the condition {part!r}")
        found.append(Comparison(match[1], match[2], int(match[3])))
    return tuple(found)


DeviceCase = Mapping[str, frozenset[str]]  # field -> the values it may have


def read_device_filter(expression: str) -> tuple[DeviceCase, ...]:
    """One of these cases must hold; an empty expression is one case without conditions."""
    if not expression.strip():
        return ({},)
    return tuple(_case(part) for part in re.split(r" +or +", expression.strip()))


def _case(text: str) -> DeviceCase:
    case: dict[str, frozenset[str]] = {}
    for part in re.split(r" +and +", text):
        match = _CONDITION.fullmatch(part.strip())
        if match is None or match[1] not in _DEVICE_FIELDS:
            raise ValueError(f"cannot read the condition {part!r}")
        values = frozenset(re.findall(r"'([^']*)'", match[2] or match[3]))
        case[match[1]] = case.get(match[1], values) & values
    return case
