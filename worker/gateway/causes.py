"""Why an attempt came to what it came to: every constant that stands in a `cause` or a `rule`.

One table for reader and writer, so that a report can be read against it. Two causes carry a
number: `http_503` (the status that came) and `code_99500` (the code in the gateway's envelope).
"""

from __future__ import annotations

from typing import Final

# ---------------------------------------------------------------- where an exchange broke
# `Reply.fault`. Before anything was written it is the cause of a NotSent, after it of an Ambiguous.

REFUSED: Final = "refused"  # connection refused, or reset while it was being set up
UNREACHABLE: Final = "unreachable"  # no route, network down
DNS: Final = "dns"  # the host's name was not resolved
CONNECT_TIMEOUT: Final = "connect_timeout"  # DNS, TCP, proxy and TLS together took too long
POOL_TIMEOUT: Final = "pool_timeout"  # no connection became free before the deadline
TLS: Final = "tls"  # certificate or handshake turned down; never retried
PROXY: Final = "proxy"  # the proxy did not open a way to the gateway
PROXY_AUTH: Final = "proxy_auth"  # HTTP 407; never retried
NO_DESCRIPTORS: Final = "no_descriptors"  # EMFILE, ENFILE
CLIENT_ERROR: Final = "client_error"  # any other failure the HTTP library reported
CUT: Final = "cut"  # ended by `Transport.cut`: the run drains
DISCONNECTED: Final = "disconnected"  # closed or reset after the request went out
REQUEST_TIMEOUT: Final = "request_timeout"  # the deadline passed after the request went out
TRUNCATED: Final = "truncated"  # the body broke off
MALFORMED_HTTP: Final = "malformed_http"  # not HTTP; whatever status the library invents for it
TOO_LONG: Final = "too_long"  # more than 1 MiB of body

# ---------------------------------------------------------------- proven not executed

NO_TOKEN: Final = "no_token"  # noqa: S105 - nothing to sign with; as a rule: none to be had
STOPPING: Final = "stopping"  # the run ends; no token is fetched any more
BAD_REQUEST: Final = "bad_request"  # code 99400, HTTP 400
FORBIDDEN: Final = "forbidden"  # code 99403, HTTP 403
NOT_FOUND: Final = "not_found"  # code 99404 or 11404
WRONG_PATH: Final = "wrong_path"  # HTTP 404 without an EnOS envelope
THROTTLED: Final = "throttled"  # HTTP 429
TOKEN: Final = "token"  # noqa: S105 - HTTP 401, or 1203 as code or status
NOT_THE_GATEWAY: Final = "not_the_gateway"  # an HTML page with 4xx or 5xx

# ---------------------------------------------------------------- HTTP 200, and yet no proof

REDIRECT: Final = "redirect"  # any 3xx; also a rule
NOT_JSON: Final = "not_json"  # the body is no strict JSON object (strict_json.py)
BAD_CODE: Final = "bad_code"  # `code` is missing or no integer
NO_DATA: Final = "no_data"  # code 0, but `data` is no list
MALFORMED_DATA: Final = "malformed_data"  # an element of `data` is no object
OTHER_SPELLING: Final = "other_spelling"  # a row names the device, and not as it was asked for
PARTIAL_REPLY: Final = "partial_reply"  # the body broke off; `partial` has what was complete
OTHER_STATE: Final = "other_state"  # a search showed commands in a state that was not asked for
NO_TOTAL: Final = "no_total"  # a search did not say how many there are
INCONSISTENT: Final = "inconsistent_page"  # a search counted rows that it did not show

# ---------------------------------------------------------------- anomalies and warnings

OTHER_DEVICE: Final = "other_device"
OTHER_COMMAND: Final = "other_command"
MALFORMED_ID: Final = "malformed_id"
TOO_MANY: Final = "too_many_commands"  # more than a cache could ever hold
IDENTITY_MISSING: Final = "identity_missing"
NUMERIC_ID: Final = "numeric_id"
REPEATED_ID: Final = "repeated_id"
OVER_50: Final = "over_50"

# ---------------------------------------------------------------- rules that stop a run

RULE_TLS: Final = "tls"
RULE_AUTH: Final = "auth"  # bad keys, or a fresh token turned down
RULE_NO_TOKEN: Final = "no_token"  # noqa: S105 - a rule's name
RULE_REDIRECT: Final = "redirect"


def http(status: int) -> str:
    """The cause that names an HTTP status."""
    return f"http_{status}"


def code(number: int) -> str:
    """The cause that names a code of the gateway's envelope."""
    return f"code_{number}"
