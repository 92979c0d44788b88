"""Every option of the configuration, once: its type, default, bounds and one line for people.

The types below are the file's tree. Reading, variables, JSON Schema and the test of the example
all walk them, so a new option is one field here and one line in `config.example.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from inspect import getdoc
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

from msgspec import Struct
from msgspec.structs import fields

from worker.config.kinds import Choice, Duration, File, Flag, Kind, Many, Name, Share, Url, Whole
from worker.config.limits import Ceiling, Limits
from worker.config.urls import (
    GATEWAY_PATTERN,
    LEDGER_PATTERN,
    PROXY_PATTERN,
    gateway_url,
    ledger_url,
    proxy_url,
)
from worker.gateway.transport import TransportSettings
from worker.model import Secret
from worker.run.reconcile import LookupRules
from worker.run.retry import RetryRules

#: Options of coming releases: refused by name, so that nobody believes that they work already.
LATER = (
    "gateway.never_cancel",
    "ledger.keep_targets",
    "ledger.keep_cancelled",
    "ledger.min_free",
    "require",
    "notify",
)
#: What people write where a key file belongs.
KEYS = ("gateway.access_key", "gateway.secret_key")

_RETRY, _LOOKUP = RetryRules(), LookupRules()
_TRANSPORT = TransportSettings(url="")
_HOUR = 3600.0  # seconds
_CODE = Whole("An EnOS code.", 1)

Format = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error"]
CancelAllBy = Literal["direct", "by_id"]


class TimeoutOptions(Struct, frozen=True):
    """How long the gateway may take."""

    connect: Annotated[float, Duration("Until a connection stands.", 0.001, _HOUR)] = (
        _TRANSPORT.connect_timeout
    )
    request: Annotated[float, Duration("Until an answer is complete.", 0.001, _HOUR)] = 30.0


class GatewayOptions(Struct, frozen=True):
    """The EnOS gateway; only commands that send need it."""

    name: Annotated[
        str | None, Name("What people call it, in records and messages; its host when left out.")
    ] = None
    url: Annotated[
        str | None,
        Url("Its base URL: https, or http where allowed.", gateway_url, GATEWAY_PATTERN),
    ] = None
    access_key_file: Annotated[
        str | None, File("Holds the access key; or set CANCEL_WORKER_GATEWAY_ACCESS_KEY.")
    ] = None
    secret_key_file: Annotated[
        str | None, File("Holds the secret key; or set CANCEL_WORKER_GATEWAY_SECRET_KEY.")
    ] = None
    orgs: Annotated[
        tuple[str, ...],
        Many("Organizations that jobs may name; empty for any.", Name("An orgId.")),
    ] = ()
    allow_http: Annotated[
        bool, Flag("Allow an http URL, for Edge gateways; loopback is always allowed.")
    ] = False
    cancel_all: Annotated[
        CancelAllBy,
        Choice(
            "by_id for gateways that require a commandId: search, then cancel each.",
            ("direct", "by_id"),
        ),
    ] = "direct"
    refused_codes: Annotated[
        tuple[int, ...],
        Many("Further codes that are known to mean: refused before execution.", _CODE),
    ] = ()
    timeout: TimeoutOptions = TimeoutOptions()
    keepalive: Annotated[float, Duration("How long an idle connection is kept.", 0.001, _HOUR)] = (
        _TRANSPORT.keepalive
    )
    ca_file: Annotated[str | None, File("Certificates to trust instead of the system's, PEM.")] = (
        None
    )
    client_cert_file: Annotated[str | None, File("Certificate of this client, PEM.")] = None
    client_key_file: Annotated[
        str | None, File("Its private key, PEM; guarded like a key file.")
    ] = None
    proxy: Annotated[
        Secret | None,
        Url(
            "HTTP proxy; one with a password only in CANCEL_WORKER_GATEWAY_PROXY.",
            proxy_url,
            PROXY_PATTERN,
        ),
    ] = None


class LedgerOptions(Struct, frozen=True):
    """The record of all runs."""

    url: Annotated[
        str | None,
        Url(
            "Default: ledger.db in $STATE_DIRECTORY, else in $XDG_STATE_HOME/cancel-worker.",
            ledger_url,
            LEDGER_PATTERN,
        ),
    ] = None
    keep_input: Annotated[
        bool, Flag("Keep the input data of cancelled commands, to issue them again.")
    ] = True


class RetryOptions(RetryRules, frozen=True):
    """How often a request is repeated that is proven not executed."""

    attempts: Annotated[int, Whole("Of one call in one pass, the first included.", 1, 100)] = (
        _RETRY.attempts
    )
    wait_initial: Annotated[
        float, Duration("Before the second attempt; doubled at each further one.", 0.001, _HOUR)
    ] = _RETRY.wait_initial
    wait_max: Annotated[float, Duration("Between two attempts, at most.", 0.001, _HOUR)] = (
        _RETRY.wait_max
    )
    elapsed: Annotated[float, Duration("From a call's first attempt to its last.")] = _RETRY.elapsed
    ambiguous_window: Annotated[
        float, Duration("How long a cancel-all that may have been executed may be sent again.")
    ] = _RETRY.ambiguous_window
    retry_after_max: Annotated[float, Duration("A longer Retry-After stops the run.")] = (
        _RETRY.retry_after_max
    )
    budget: Annotated[float, Share("Share of the calls that may be repetitions.")] = _RETRY.budget
    budget_reserve: Annotated[int, Whole("Repetitions of a run beside the budget.")] = (
        _RETRY.budget_reserve
    )
    passes: Annotated[int, Whole("Later passes over what is proven unsent.", 0, 100)] = (
        _RETRY.passes
    )
    cooldown: Annotated[float, Duration("Before a later pass.")] = _RETRY.cooldown


class LookupOptions(LookupRules, frozen=True):
    """How a call that may have been executed is looked up."""

    wait: Annotated[float, Duration("Before each try: searches lag behind.")] = _LOOKUP.wait
    tries: Annotated[int, Whole("Tries before the outcome stays unknown.", 1, 100)] = _LOOKUP.tries


class LogOptions(Struct, frozen=True):
    """The log."""

    format: Annotated[
        Format,
        Choice("auto: console on a terminal, else json.", ("auto", "json", "console")),
    ] = "auto"
    level: Annotated[
        Level, Choice("The least level that is written.", ("debug", "info", "warning", "error"))
    ] = "info"
    file: Annotated[
        str | None, File("Written instead of stderr, then always json; reopened on SIGHUP.")
    ] = None


class Options(Struct, frozen=True):
    """Configuration of cancel-worker."""

    gateway: GatewayOptions = GatewayOptions()
    ledger: LedgerOptions = LedgerOptions()
    limits: Limits = Limits()
    ceiling: Ceiling = Ceiling()
    retry: RetryOptions = RetryOptions()
    lookup: LookupOptions = LookupOptions()
    drain: Annotated[
        float, Duration("How long a stopping run waits for what is in flight.", 0.0, _HOUR)
    ] = 8.0
    log: LogOptions = LogOptions()


class Option(NamedTuple):
    """One option."""

    path: str  # dotted
    kind: Kind
    default: Any


Tree = dict[str, "Option | Tree"]


@cache
def tree(section: type[Struct] = Options, prefix: str = "") -> Tree:
    """The options of a section by key, sections within it as trees of their own."""
    hints = get_type_hints(section, include_extras=True)
    found: Tree = {}
    for field in fields(section):
        path, hint = f"{prefix}{field.name}", hints[field.name]
        if isinstance(hint, type) and issubclass(hint, Struct):
            found[field.name] = tree(hint, f"{path}.")
        else:
            found[field.name] = Option(path, hint.__metadata__[0], field.default)
    return found


@cache
def options() -> Mapping[str, Option]:
    """Every option by its dotted path."""
    return {option.path: option for option in _flat(tree())}


def build(values: Mapping[str, Any]) -> Options:
    """The options of these values by path, defaults for the others."""
    built: Options = _built(Options, values, "")
    return built


def config_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the configuration file, from the types above."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Configuration"}
    return {**dialect, **_section_schema(Options)}


def _flat(section: Tree) -> Iterator[Option]:
    for item in section.values():
        if isinstance(item, Option):
            yield item
        else:
            yield from _flat(item)


def _built(section: Any, values: Mapping[str, Any], prefix: str) -> Any:
    given: dict[str, Any] = {}
    for field in fields(section):
        path = f"{prefix}{field.name}"
        if isinstance(field.default, Struct):
            given[field.name] = _built(type(field.default), values, f"{path}.")
        elif path in values:
            given[field.name] = values[path]
    return section(**given)


def _section_schema(section: type[Struct], prefix: str = "") -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for field in fields(section):
        path = f"{prefix}{field.name}"
        if isinstance(field.default, Struct):
            properties[field.name] = _section_schema(type(field.default), f"{path}.")
            continue
        option = options()[path]
        properties[field.name] = {**option.kind.schema(), "description": option.kind.doc}
        default = option.kind.written(option.default)
        if default is not None:
            properties[field.name]["default"] = default
    return {
        "type": "object",
        "description": (getdoc(section) or "").partition("\n")[0],
        "properties": properties,
        "additionalProperties": False,
    }
