"""What a reply said, in words for people: the gateway's own, with control characters escaped."""

from __future__ import annotations

from worker.model import Ambiguous, NotSent, Refused
from worker.run.auth import turned_down
from worker.text import escaped

_BAD_REQUEST, _FORBIDDEN = "bad_request", "forbidden"  # causes


def in_words(reply: NotSent | Refused | Ambiguous) -> str:
    """Status, code and message of a reply that is no answer; its cause where it has no message."""
    if isinstance(reply, NotSent):
        return escaped(reply.message or f"not sent: {reply.cause}")
    status = f"HTTP {reply.status}" if reply.status else ""
    code = f"code {reply.code}" if reply.code else ""
    where = ", ".join(filter(None, (status, code)))
    return escaped(": ".join(filter(None, (where, reply.message or reply.cause))))


def requested(reply: Refused | Ambiguous) -> str:
    """The requestId of a reply in brackets, or nothing where it has none."""
    return f" (requestId {escaped(reply.requestId)})" if reply.requestId else ""


def advice(refused: Refused, orgId: str) -> str:
    """What to look at first when a search was refused."""
    if turned_down(refused):
        return "Are the keys for this gateway, is this machine's clock right?"
    if refused.cause == _BAD_REQUEST:
        return f"Is orgId {orgId} right?"
    if refused.cause == _FORBIDDEN:
        return f"Ask for the permission to search commands for orgId {orgId}"
    return "Is gateway.url right, and the organization?"
