"""Whom the transport trusts: always verifying, and there is no switch."""

from __future__ import annotations

import ssl

from yarl import URL

from worker.errors import UsageError
from worker.gateway.exchange import TransportSettings


def tls_for(settings: TransportSettings) -> ssl.SSLContext | None:
    """The context for the gateway of these settings; None where nothing asks for TLS.

    Raises UsageError when a file cannot be used.
    """
    files = (settings.ca_file, settings.client_cert_file, settings.client_key_file)
    if URL(settings.url).scheme == "https" or any(files):
        return tls_context(*files)
    return None  # all that the system trusts takes 20 ms to read


def tls_context(
    ca_file: str | None, client_cert_file: str | None, client_key_file: str | None
) -> ssl.SSLContext:
    """A context for the gateway; a ca_file replaces the system's authorities.

    Raises UsageError when a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # SSLError is one
        raise UsageError(f"{ca_file}: gateway.ca_file cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if client_cert_file is not None:
        try:
            context.load_cert_chain(client_cert_file, client_key_file)
        except OSError as error:
            raise UsageError(
                f"{client_cert_file}: gateway.client_cert_file"
                f" (with client_key_file) cannot be used: {error}"
            ) from error
    return context
