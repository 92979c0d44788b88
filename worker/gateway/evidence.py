"""What one reply proves: not sent, refused, answered, or nothing. Pure, and the heart of it all.

A claim is only as good as this reading, so it is strict where strictness costs a look-up and
generous nowhere. Order matters: what the HTTP status proves comes before what the body says, and
a body says nothing unless it is complete. causes.py has every cause this module can give.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from msgspec.structs import replace

from worker.gateway import causes
from worker.gateway.command import Structs, integer, read_structs, text
from worker.gateway.exchange import Reply
from worker.gateway.headers import retry_after
from worker.gateway.spelling import PAGE_SIZE
from worker.gateway.strict_json import Digits, NotStrictError, read_broken_off, read_object
from worker.gateway.usual import usual_answer
from worker.model import (
    Ambiguous,
    Answered,
    AssetId,
    CancelCall,
    CancelOne,
    Command,
    Device,
    Evidence,
    NotSent,
    Page,
    Refused,
    SearchReply,
)
from worker.text import capped

# Statuses that a server gives before it executes anything.
_REFUSED_STATUSES: Final = frozenset(
    {400, 401, 403, 404, 405, 407, 411, 413, 414, 415, 421, 429, 431}
)
# Codes of the envelope that are reviewed to mean the same.
_REFUSED_CODES: Final = {
    99400: causes.BAD_REQUEST,
    99403: causes.FORBIDDEN,
    99404: causes.NOT_FOUND,
    11404: causes.NOT_FOUND,
}
_TOKEN_CODE: Final = 1203
_ALWAYS_MEANS: Final = {404: causes.WRONG_PATH, 407: causes.PROXY_AUTH}  # whoever says it
_USUALLY_MEANS: Final = {400: causes.BAD_REQUEST, 403: causes.FORBIDDEN}
_NOT_RETRYABLE: Final = frozenset({causes.TLS, causes.PROXY_AUTH})


def read_cancel(call: CancelCall, reply: Reply, refused_codes: Collection[int] = ()) -> Evidence:
    """What the reply to a cancel proves; `refused_codes` adds to the reviewed list."""
    usual = reply.status == 200 and reply.fault is None
    answer = usual_answer(call, reply.body) if usual else None
    return answer or read_carefully(call, reply, refused_codes)


def read_carefully(call: CancelCall, reply: Reply, refused_codes: Collection[int] = ()) -> Evidence:
    """The same without the short way of usual.py."""
    read = _read(reply, refused_codes)
    if isinstance(read, Ambiguous) and reply.status == 200:
        return _with_partial(read, call, reply.body)
    if not isinstance(read, dict):
        return read
    structs = _structs(read, reply)
    if isinstance(structs, Ambiguous):
        return structs
    said = read_structs(structs, call.device, call.orgId)
    anomaly = _anomaly(said, call)
    if said.other_spelling and anomaly is None:
        unasked = _ambiguous(causes.OTHER_SPELLING, reply, read)
        partial = _believable(structs, call)
        return replace(unasked, partial=partial, message=_not_as_asked(call.device))
    return Answered(
        commands=said.commands,
        requestId=text(read.get("requestId")),
        anomaly=anomaly,
        warnings=said.warnings,
    )


def read_search(
    device: Device,
    orgId: str,
    state: int,
    page: int,
    reply: Reply,
    refused_codes: Collection[int] = (),
) -> SearchReply:
    """One page of a search, or why it settles nothing.

    A page that contradicts itself or what was asked is Ambiguous too: an outcome may hang on it.
    """
    read = _read(reply, refused_codes)
    if not isinstance(read, dict):
        return read
    structs = _structs(read, reply)
    if isinstance(structs, Ambiguous):
        return structs
    said = read_structs(structs, device, orgId)
    total = _total(read, page, len(structs))
    cause = _flaw(said, state, page, len(structs), total)
    if cause == causes.OTHER_SPELLING:
        return replace(_ambiguous(cause, reply, read), message=_not_as_asked(device))
    if cause is not None or total is None:
        return _ambiguous(cause or causes.NO_TOTAL, reply, read)
    return Page(commands=said.commands, total=total, requestId=text(read.get("requestId")))


# ---------------------------------------------------------------- what status and envelope prove


def _read(
    reply: Reply, refused_codes: Collection[int]
) -> NotSent | Refused | Ambiguous | dict[str, Any]:
    """The class of the reply; the envelope itself when it is a success, its data not yet judged."""
    if not reply.sent and reply.status is None:
        return _not_sent(reply.fault or causes.CLIENT_ERROR)
    if reply.status is None:
        return Ambiguous(cause=reply.fault or causes.DISCONNECTED)
    if 300 <= reply.status <= 399:
        return _ambiguous(causes.REDIRECT, reply, {}, rule=causes.RULE_REDIRECT)
    envelope = _envelope(reply)
    code = _code(envelope)
    if reply.status < 300 and reply.status != 200:
        return _ambiguous(causes.http(reply.status), reply, envelope or {})
    refusal = _refusal(reply, reply.status, code, refused_codes)
    if refusal is not None:
        return _refused(refusal, reply, envelope or {}, refused_codes)
    if reply.status != 200:
        page = causes.NOT_THE_GATEWAY if envelope is None and _is_page(reply) else None
        return _ambiguous(page or causes.http(reply.status), reply, envelope or {})
    if reply.fault is not None:
        return _ambiguous(reply.fault, reply, {})
    if envelope is None:
        return _ambiguous(causes.NOT_JSON, reply, {})
    if code is None:
        return _ambiguous(causes.BAD_CODE, reply, envelope)
    return envelope if code == 0 else _ambiguous(causes.code(code), reply, envelope)


def _not_sent(fault: str) -> NotSent:
    return NotSent(
        cause=fault,
        retryable=fault not in _NOT_RETRYABLE,
        rule=causes.RULE_TLS if fault == causes.TLS else None,
    )


def _refusal(
    reply: Reply, status: int, code: int | None, refused_codes: Collection[int]
) -> str | None:
    """Why it is certain that nothing was executed; None: it is not."""
    if status == 401 or code == _TOKEN_CODE:
        return causes.TOKEN
    if status == 429:
        return causes.THROTTLED
    if code in _REFUSED_CODES:
        return _REFUSED_CODES[code]
    if code is not None and code != 0 and code in refused_codes:
        return causes.code(code)
    if status not in _REFUSED_STATUSES:
        return None
    if code is not None:
        return causes.code(code)
    if status in _ALWAYS_MEANS:
        return _ALWAYS_MEANS[status]
    if _is_page(reply):
        return causes.NOT_THE_GATEWAY
    return _USUALLY_MEANS.get(status, causes.http(status))


def _refused(
    cause: str, reply: Reply, envelope: Mapping[str, Any], refused_codes: Collection[int]
) -> Refused:
    code = _code(envelope)
    status = reply.status or 0
    added = code in refused_codes and code not in _REFUSED_CODES and cause != causes.TOKEN
    return Refused(
        status=status,
        code=code,
        cause=cause,
        transient=cause in (causes.THROTTLED, causes.TOKEN) or (added and status >= 500),
        retry_after=_wait(reply),
        message=_message(reply, envelope),
        requestId=text(envelope.get("requestId")),
    )


def _ambiguous(
    cause: str, reply: Reply, envelope: Mapping[str, Any], rule: str | None = None
) -> Ambiguous:
    return Ambiguous(
        cause=cause,
        status=reply.status,
        code=_code(envelope),
        retry_after=_wait(reply),
        message=_message(reply, envelope),
        requestId=text(envelope.get("requestId")),
        rule=rule,
    )


def _envelope(reply: Reply) -> dict[str, Any] | None:
    """The body as one strict object; None when it broke off or is anything else."""
    if reply.fault is not None:
        return None
    try:
        return read_object(reply.body)
    except NotStrictError:
        return None


def _code(envelope: Mapping[str, Any] | None) -> int | None:
    """The envelope's code, which is an integer or nothing; 1203 may stand in `status` instead."""
    if not envelope:
        return None
    code = _whole(envelope.get("code"))
    return _TOKEN_CODE if code is None and _whole(envelope.get("status")) == _TOKEN_CODE else code


def _whole(value: object) -> int | None:
    """A JSON integer: no string, no fraction, no boolean."""
    return integer(value) if isinstance(value, Digits) else None


def _wait(reply: Reply) -> float | None:
    if reply.status not in {429, 503}:
        return None
    return retry_after(reply.headers.get("retry-after"), reply.headers.get("date"))


def _message(reply: Reply, envelope: Mapping[str, Any]) -> str | None:
    """What the gateway says, or what kind of page came instead; never the page."""
    if reply.status is not None and 300 <= reply.status < 400:
        return f"the gateway answered with a redirect (HTTP {reply.status}): check gateway.url"
    words = (text(envelope.get("msg")) or text(envelope.get("message")), envelope.get("submsg"))
    said = capped(": ".join(filter(None, map(text, words)))) or None
    if said is None and not envelope and reply.body:
        kind = text(reply.headers.get("content-type")) or "no content type"
        said = f"{kind}, {len(reply.body)} bytes"
    return said


def _is_page(reply: Reply) -> bool:
    kind = reply.headers.get("content-type", "").lower()
    return "html" in kind or reply.body.lstrip()[:1] == b"<"


# ---------------------------------------------------------------- what the data proves


def _structs(envelope: dict[str, Any], reply: Reply) -> list[dict[str, Any]] | Ambiguous:
    data = envelope.get("data")
    if not isinstance(data, list):
        return _ambiguous(causes.NO_DATA, reply, envelope)
    if not all(isinstance(struct, dict) for struct in data):
        return _ambiguous(causes.MALFORMED_DATA, reply, envelope)
    return data


def _anomaly(said: Structs, call: CancelCall) -> str | None:
    """How the answer breaks the contract, the worst first."""
    if said.foreign:
        return causes.OTHER_DEVICE
    if said.malformed:
        return causes.MALFORMED_ID
    if said.too_many:
        return causes.TOO_MANY
    if isinstance(call, CancelOne) and any(c.commandId != call.commandId for c in said.commands):
        return causes.OTHER_COMMAND
    return None


def _with_partial(read: Ambiguous, call: CancelCall, body: bytes) -> Ambiguous:
    """What a body that broke off still proves: whole structs of this device, after a code 0."""
    try:
        envelope, elements = _what_arrived(body)
    except NotStrictError:
        return read
    if _whole(envelope.get("code")) != 0 or not isinstance(elements, list):
        return read
    commands = _believable(elements, call)
    if not commands:
        return read
    return Ambiguous(
        cause=causes.PARTIAL_REPLY,
        status=read.status,
        code=0,
        partial=commands,
        message=read.message,
        requestId=text(envelope.get("requestId")),
    )


def _believable(elements: list[Any], call: CancelCall) -> tuple[Command, ...]:
    """Of a reply that proves nothing as a whole, the structs that are certain, each id once."""
    commands: dict[str, Command] = {}
    for struct in elements:
        if isinstance(struct, dict):
            said = read_structs([struct], call.device, call.orgId)
            if _anomaly(said, call) is None and not said.other_spelling:
                commands.setdefault(said.commands[0].commandId, said.commands[0])
    return tuple(commands.values())


def _not_as_asked(device: Device) -> str:
    """What the rows lack, for people."""
    if isinstance(device, AssetId):
        return "the reply's rows name productKey and deviceKey, and not the assetId asked for"
    return "the reply's rows name an assetId, and not the productKey and deviceKey asked for"


def _what_arrived(body: bytes) -> tuple[dict[str, Any], Any]:
    """Envelope and data: of a whole body under a broken exchange, or of what is left of one."""
    try:
        envelope = read_object(body)
    except NotStrictError:
        return read_broken_off(body, "data")
    return envelope, envelope.get("data")


def _total(envelope: Mapping[str, Any], page: int, rows: int) -> int | None:
    """How many rows all pages have; a page that is not full is the last one and tells it too."""
    pagination = envelope.get("pagination")
    total = integer(pagination.get("totalSize")) if isinstance(pagination, dict) else None
    seen = (page - 1) * PAGE_SIZE + rows
    if total is None:
        return seen if rows < PAGE_SIZE else None
    return max(total, seen if rows else 0)


def _flaw(said: Structs, state: int, page: int, rows: int, total: int | None) -> str | None:
    """Why a page may not be believed."""
    if said.foreign:
        return causes.OTHER_DEVICE
    if said.other_spelling:
        return causes.OTHER_SPELLING
    if said.malformed:
        return causes.MALFORMED_ID
    if any(c.state not in {None, state} for c in said.commands):
        return causes.OTHER_STATE
    if total is not None and rows < min(PAGE_SIZE, total - (page - 1) * PAGE_SIZE):
        return causes.INCONSISTENT
    return None
