"""Which URLs are accepted for the gateway, its proxy and the ledger.

Stands apart because each rule here keeps a secret or a command from going where it should not.
No message repeats a URL: what was meant for elsewhere may hold a password.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from worker.config.kinds import Origin, UnfitError, is_utf8
from worker.model import Secret

_LOOPBACK = IPv4Network("127.0.0.0/8")
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_KEYS_ELSEWHERE = "keys never stand in a URL"

GATEWAY_PATTERN = "^https?://[^@?#\\s]+$"
PROXY_PATTERN = "^https?://[^@/?#\\s]+/?$"
LEDGER_PATTERN = "^sqlite:///[^?]+$"


def gateway_url(text: str, _origin: Origin) -> str:
    """The gateway's base URL without a slash at its end; the path's prefix is kept."""
    parts = _split(text, "https://apim.example.com")
    if parts.username is not None or "@" in parts.netloc:
        remedy = "remove it; give access_key_file and secret_key_file"
        raise UnfitError(f"holds user information, {_KEYS_ELSEWHERE}", remedy)
    if "?" in text or "#" in text:
        raise UnfitError("holds a query or fragment", "end it with the path")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine: localhost, 127.0.0.0/8 or ::1."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv4Address):
        return address in _LOOPBACK
    return address == IPv6Address("::1")


def proxy_url(text: str, origin: Origin) -> Secret:
    """The proxy's URL; user and password only where the origin may hold them."""
    parts = _split(text, "http://proxy.example.com:3128")
    if parts.netloc.count("@") > 1:
        raise UnfitError("holds more than one @", "write an @ of the password as %40")
    if "@" in parts.netloc and not origin.may_hold_password:
        raise UnfitError(
            "holds user information, credentials never stand in the configuration",
            "set CANCEL_WORKER_GATEWAY_PROXY in the environment",
        )
    if parts.path not in ("", "/") or "?" in text or "#" in text:
        raise UnfitError("holds a path, query or fragment", "end it with the port")
    return Secret(text)


def without_user(url: str) -> str:
    """Scheme, host and port of the URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def ledger_url(text: str, origin: Origin) -> str:
    """The ledger's URL for SQLAlchemy, its path absolute; so far SQLite only."""
    remedy = "write sqlite:////absolute/path/ledger.db"
    scheme, colon, rest = text.partition("://")
    if not colon or not text.isprintable():
        raise UnfitError("is not a URL", remedy)
    foreign = not scheme.startswith("sqlite")
    if foreign and re.search(":.*@|password=", rest) and not origin.may_hold_password:
        raise UnfitError(
            "holds a password, which never stands in a flag or the configuration",
            "remove it; use PGPASSFILE or CANCEL_WORKER_LEDGER_URL in the environment",
        )
    if scheme.startswith("postgres"):
        raise UnfitError("PostgreSQL is not supported yet", remedy)
    if scheme not in ("sqlite", "sqlite+pysqlite"):
        raise UnfitError("is not a URL of SQLite", remedy)
    if not rest.startswith("/"):
        problem = "names a host, not a path" if rest else "keeps nothing, it is in memory"
        raise UnfitError(problem, remedy)
    if "?" in rest:
        raise UnfitError("holds options", "end it with the path; a ? in the path is %3F")
    path = unquote(rest[1:])
    if path in ("", ":memory:"):
        raise UnfitError("keeps nothing, it is in memory", remedy)
    if path.startswith("file:") or not path.isprintable():
        raise UnfitError("does not name a file", remedy)
    return sqlite_url(origin.folder / path)


def sqlite_url(path: Path) -> str:
    """SQLAlchemy's URL of the file; UnfitError for a path that no record could hold."""
    if not is_utf8(str(path.absolute())):
        raise UnfitError("is not UTF-8", "name the folder in UTF-8")
    return f"sqlite:///{quote(str(path.absolute()))}"


def _split(text: str, example: str) -> SplitResult:
    """The parts of an http or https URL that names a host."""
    remedy = f"write it like {example}"
    if not re.fullmatch(r"[!-\[\]-~]+", text):  # printable ASCII without space and backslash
        raise UnfitError("is not a URL, it holds a character that none may", remedy)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise UnfitError("is not a URL", remedy) from None
    if parts.scheme not in ("http", "https"):
        raise UnfitError("is not an https URL", remedy)
    host = parts.netloc.rpartition("@")[2]
    if not _is_host(parts.hostname or "") or port == 0 or host.endswith(":"):
        raise UnfitError("names no usable host and port", remedy)
    return parts


def _is_host(host: str) -> bool:
    if ":" in host:  # an IPv6 address, checked by urlsplit only in newer releases
        try:
            ip_address(host)
        except ValueError:
            return False
        return "%" not in host
    return _HOST.fullmatch(host) is not None
