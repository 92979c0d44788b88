"""What a failure of the HTTP library stands for, as one constant cause.

Both transports end here with its exceptions. They carry headers and URLs, so tokens, and invent
statuses for replies that were executed: only their class and errno are looked at.
"""

from __future__ import annotations

import errno
import ssl

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from worker.gateway import causes

EXPECTED = (aiohttp.ClientError, HttpProcessingError, OSError)  # all that an exchange can raise


def fault_of(error: BaseException, *, sent: bool) -> str:
    """The cause; `sent` says whether the request's headers were about to be written."""
    if isinstance(error, aiohttp.ClientHttpProxyError) and error.status == 407:
        return causes.PROXY_AUTH
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return causes.PROXY
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return causes.DNS
    if isinstance(error, aiohttp.ClientSSLError):
        return _handshake_fault(error.os_error)
    if isinstance(error, ssl.SSLError) and not sent:
        return _handshake_fault(error)
    if isinstance(error, aiohttp.ClientConnectorError) or not sent:
        return _connect_fault(error)
    if isinstance(error, aiohttp.ClientPayloadError):
        return causes.TRUNCATED
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return causes.MALFORMED_HTTP
    if isinstance(error, aiohttp.ClientConnectionError | OSError):
        return causes.DISCONNECTED
    return causes.CLIENT_ERROR


def _handshake_fault(error: BaseException) -> str:
    """A handshake that broke off proves nothing about certificates: try again."""
    broke_off = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
    return causes.REFUSED if broke_off else causes.TLS


def _connect_fault(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number in {errno.EMFILE, errno.ENFILE}:
        return causes.NO_DESCRIPTORS
    if number in {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN}:
        return causes.UNREACHABLE
    if number == errno.ETIMEDOUT:
        return causes.CONNECT_TIMEOUT
    if isinstance(error, OSError):
        return causes.REFUSED
    # Only a proxy says anything before it was asked for more than a way to the gateway.
    spoke = aiohttp.ServerDisconnectedError | aiohttp.ClientResponseError | HttpProcessingError
    return causes.PROXY if isinstance(error, spoke) else causes.CLIENT_ERROR
