"""Connections to an S3 store by TLS. Loaded for https alone: `ssl` takes 1 MiB.

Certificates are checked against those of the system, or of the file that SSL_CERT_FILE names.
"""

from __future__ import annotations

import ssl

from filestoraged.store.s3.connection import StoreConnection
from filestoraged.store.s3.url import Location


class TLSConnector:
    """Makes connections with one context, which reads the certificates once."""

    def __init__(self) -> None:
        self._context = ssl.create_default_context()

    def __call__(self, location: Location) -> StoreConnection:
        return _TLSConnection(location, self._context)


class _TLSConnection(StoreConnection):
    # Not `http.client.HTTPSConnection`: a daemon imports `http.client` while `ssl` is hidden, and then has none.
    def __init__(self, location: Location, context: ssl.SSLContext) -> None:
        super().__init__(location)
        self._context = context

    def connect(self) -> None:
        super().connect()
        self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)
