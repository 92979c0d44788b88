"""The settings of each part, merged from file, environment and flags, checked as a whole.

The gateway's section and keys are optional here: a command that sends asks for them with
`require_gateway`, so that all others need no secrets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from worker.config.file import PLACES, VARIABLE, find
from worker.config.keys import KeySource, read_credentials
from worker.config.kinds import UnfitError
from worker.config.limits import Ceiling, Limits
from worker.config.options import (
    KEYS,
    GatewayOptions,
    LogOptions,
    Options,
    build,
)
from worker.config.places import Place, raise_any
from worker.config.sources import Node, Sources, variable
from worker.config.urls import is_loopback, sqlite_url, without_user
from worker.errors import InvalidInputError, RefusedError, UsageError
from worker.gateway.token import Credentials
from worker.gateway.transport import TransportSettings
from worker.run.reconcile import LookupRules
from worker.run.retry import RetryRules

DEFAULTS = "defaults"  # the source of settings without a file


class Gateway(Struct, frozen=True):
    """The gateway that commands are sent to."""

    name: str
    url: str
    options: GatewayOptions
    access_key: KeySource
    secret_key: KeySource
    guarded: tuple[tuple[str, Place], ...] = ()  # further secret files

    def check_org(self, orgId: str) -> None:
        """Raise RefusedError when jobs of this organization are not allowed here."""
        orgs = self.options.orgs
        if orgs and orgId not in orgs:
            raise RefusedError(
                f"orgId {orgId} is not allowed on gateway {self.name}:"
                f" gateway.orgs has {', '.join(orgs)}"
            )

    def credentials(self) -> Credentials:
        """The keys, read now; InvalidInputError with all that is wrong with them."""
        return read_credentials(self.access_key, self.secret_key, self.guarded)

    def files(self) -> dict[str, str]:
        """The files of keys and certificates: path and what it is."""
        options = self.options
        named = {
            self.access_key.file: "the file of the access key",
            self.secret_key.file: "the file of the secret key",
            options.ca_file: "gateway.ca_file",
            options.client_cert_file: "gateway.client_cert_file",
            options.client_key_file: "gateway.client_key_file",
        }
        return {path: what for path, what in named.items() if path is not None}

    def transport(self, connections: int) -> TransportSettings:
        """What the transport needs; connections is how many requests are in flight at most."""
        return TransportSettings(
            url=self.url,
            connect_timeout=self.options.timeout.connect,
            ca_file=self.options.ca_file,
            client_cert_file=self.options.client_cert_file,
            client_key_file=self.options.client_key_file,
            proxy=self.options.proxy,
            keepalive=self.options.keepalive,
            connections=connections,
        )


class Ledger(Struct, frozen=True):
    """Where the record is."""

    url: str  # of SQLAlchemy, the path absolute
    keep_input: bool


class Settings(Struct, frozen=True):
    """All that file, environment and flags say, checked."""

    source: str  # the file that was used, or DEFAULTS
    gateway: Gateway | None  # None without gateway.url
    ledger: Ledger
    limits: Limits
    ceiling: Ceiling
    retry: RetryRules
    lookup: LookupRules
    drain: float  # seconds
    log: LogOptions
    warnings: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # what a command that sends would still need
    distrust: str | None = None  # why the file may not be used to send

    def require_gateway(self) -> Gateway:
        """The gateway, for a command that sends; UsageError says what to give first."""
        if self.distrust is not None:
            raise UsageError(self.distrust)
        if self.gateway is None or self.missing:
            lacking = "\n".join(f"  {line}" for line in self.missing)
            raise UsageError(
                f"the gateway is not configured (configuration: {self.source}):\n{lacking}"
            )
        return self.gateway

    def files(self) -> dict[str, str]:
        """The files that the settings came from or name: path and what it is."""
        found = {} if self.source == DEFAULTS else {self.source: "the configuration"}
        if self.gateway is not None:
            found |= self.gateway.files()
        return found

    def public(self) -> dict[str, Any]:
        """What the record keeps of the settings: plain JSON values, no secrets."""
        parts = ("limits", "ceiling", "retry", "lookup", "drain", "log", "ledger")
        shown = {part: msgspec.to_builtins(getattr(self, part)) for part in parts}
        return {"source": self.source, "gateway": _public(self.gateway), **shown}


def load_settings(
    load: Callable[[Path], Node],
    environ: MutableMapping[str, str],
    *,
    config: str | None = None,
    flags: Mapping[str, str | None] | None = None,
    also_known: Collection[str] = (),
    places: Sequence[Path] = PLACES,
) -> Settings:
    """Merge file, environment and flags; a later one wins.

    load reads YAML strictly, with positions. config is the value of `--config`; flags hold text by
    dotted path (`ledger.url`), None for a flag not given; also_known are further variables that
    the program reads. The variables that hold secrets are removed from environ.
    Raises InvalidInputError with everything that is wrong, UsageError for a named file that is
    missing.
    """
    path, distrust = find(config, environ.get(VARIABLE, ""), places)
    sources = Sources()
    if path is not None:
        sources.read_file(path, load)
    sources.read_environment(environ, also_known)
    sources.read_flags(flags or {})
    _check(sources, build(sources.values))
    raise_any(sources.findings, sources.more)
    settings = _settings(sources, str(path) if path is not None else DEFAULTS, environ)
    return msgspec.structs.replace(settings, distrust=distrust)


def _check(sources: Sources, options: Options) -> None:
    """Find the values that are fine alone and wrong together."""
    gateway, retry = options.gateway, options.retry
    if (
        gateway.url is not None
        and gateway.url.startswith("http:")
        and not gateway.allow_http
        and not is_loopback(gateway.url)
    ):
        remedy = "write https; for an Edge gateway set gateway.allow_http: true"
        sources.refuse("gateway.url", "http would show the keys to the network", remedy)
    if gateway.client_key_file is not None and gateway.client_cert_file is None:
        remedy = "give gateway.client_cert_file too"
        sources.refuse("gateway.client_key_file", "there is no certificate to it", remedy)
    if retry.wait_initial > retry.wait_max:
        first = next(p for p in ("retry.wait_initial", "retry.wait_max") if p in sources.places)
        problem = "retry.wait_initial is longer than retry.wait_max"
        sources.refuse(first, problem, "make it at most as long")


def _settings(sources: Sources, source: str, environ: Mapping[str, str]) -> Settings:
    options = build(sources.values)
    keys = [_key(sources, path, sources.values.get(f"{path}_file")) for path in KEYS]
    missing = [key.missing for key in keys]
    if options.gateway.url is None:
        missing.insert(0, f"gateway.url: write it, or set {variable('gateway.url')}")
    for key in keys:
        if key.variable is not None and key.file is not None:
            sources.warnings.append(f"{key.name} is set: gateway.{key.option}_file is not read")
    return Settings(
        source=source,
        gateway=_gateway(sources, options.gateway, *keys),
        ledger=Ledger(options.ledger.url or _default_ledger(environ), options.ledger.keep_input),
        limits=options.limits,
        ceiling=options.ceiling,
        retry=options.retry,
        lookup=options.lookup,
        drain=options.drain,
        log=options.log,
        warnings=tuple(sources.warnings),
        missing=tuple(line for line in missing if line is not None),
    )


def _key(sources: Sources, path: str, file: str | None) -> KeySource:
    place = sources.places.get(f"{path}_file")
    return KeySource(path.rpartition(".")[2], sources.keys.get(path), file, place)


def _gateway(
    sources: Sources, options: GatewayOptions, access_key: KeySource, secret_key: KeySource
) -> Gateway | None:
    if options.url is None:
        return None
    name = options.name or urlsplit(options.url).hostname or ""
    guarded: tuple[tuple[str, Place], ...] = ()
    private = "client_cert_file" if options.client_key_file is None else "client_key_file"
    file = getattr(options, private)
    if file is not None:  # a certificate's file without a second one holds the private key too
        guarded = ((file, sources.places[f"gateway.{private}"]),)
    return Gateway(name, options.url, options, access_key, secret_key, guarded)


def _default_ledger(environ: Mapping[str, str]) -> str:
    """ledger.db where the service manager, XDG or the home says that state belongs."""
    if environ.get("STATE_DIRECTORY"):
        name = "STATE_DIRECTORY"
        folder = Path(environ[name].split(":")[0])  # systemd may give several
    elif environ.get("XDG_STATE_HOME", "").startswith("/"):  # a relative one does not count
        name = "XDG_STATE_HOME"
        folder = Path(environ[name]) / "cancel-worker"
    else:
        name = "HOME"
        home = environ.get(name) or os.path.expanduser("~")  # noqa: PTH111 - never raises
        folder = Path("/" if home == "~" else home) / ".local/state/cancel-worker"
    try:
        return sqlite_url(folder / "ledger.db")
    except UnfitError as error:
        raise InvalidInputError([Place(name).finding(error)]) from None


def _public(gateway: Gateway | None) -> dict[str, Any] | None:
    if gateway is None:
        return None
    bare = msgspec.structs.replace(
        gateway.options, name=gateway.name, proxy=None, access_key_file=None, secret_key_file=None
    )
    shown: dict[str, Any] = msgspec.to_builtins(bare)
    del shown["access_key_file"], shown["secret_key_file"]
    proxy = gateway.options.proxy
    return {**shown, "proxy": without_user(proxy.reveal()) if proxy is not None else None}
