"""The quarantine of an S3 store: `quarantine/KEY` keeps a damaged object under the key that it had.

The store copies it, the copy is read and compared, and only then is the object deleted, if it is still the same. An
upload that replaces it between the last look and the deletion is lost, except in stores that delete conditionally
(If-Match); that takes one round trip.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from urllib.parse import quote

from filestoraged.check.s3_reader import Measured, ObjectReader
from filestoraged.errors import Error, NotFound, PreconditionFailed, StoreUnavailable
from filestoraged.store import layout
from filestoraged.store.s3.answers import error_of
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.transport import Request


class S3Quarantine:
    """Any thread calls it."""

    def __init__(self, client: S3Client, reader: ObjectReader) -> None:
        self._client = client
        self._reader = reader

    def move(self, key: str, found: Measured) -> str | None:
        """Move an object that had those digests. Returns its new key, None if it was replaced or removed meanwhile.

        Raises StoreUnavailable and StorageFull; the object is then where it was.
        """
        target = self._free_key(layout.quarantine_path(key))
        try:
            self._copy(key, target, found.etag)
            if self._digests(target, list(found.digests)) != found.digests:
                raise StoreUnavailable from OSError("the store's copy has other bytes")
            if not found.is_at(self._client.head(key)):
                raise PreconditionFailed("The object was replaced.")
        except (NotFound, PreconditionFailed):
            self._client.delete(target)
            return None
        except Error:
            self._client.delete(target)
            raise
        return target if self._is_deleted(key, target, found.etag) else None

    def _free_key(self, wanted: str) -> str:
        """The first key that is not in use. Two checks that repair at a time may choose the same for equal bytes."""
        for number in itertools.count():
            key = f"{wanted}.{number}" if number else wanted
            try:
                self._client.head(key)
            except NotFound:
                return key
        raise AssertionError("itertools.count() ended")

    def _copy(self, key: str, target: str, etag: str) -> None:
        location = self._client.location
        source = quote(f"/{location.bucket}/{location.prefix}{key}", safe="/-_.~")
        fields = {"x-amz-copy-source": source, "x-amz-copy-source-if-match": f'"{etag}"'}
        answer = self._client.send(Request("PUT", target, fields=fields))
        # An error may follow a head that says 200, since the store takes long and keeps the connection alive.
        if answer.status >= 300 or answer.code:
            raise error_of(answer, name=key)

    def _digests(self, key: str, algorithms: list[str]) -> Mapping[str, str]:
        recorded = self._reader.recorded(key) if algorithms == ["sha256"] else None
        return (recorded or self._reader.read(key, algorithms, lambda size: None)).digests

    def _is_deleted(self, key: str, target: str, etag: str) -> bool:
        """Delete the object. If that fails without an answer, both it and its copy may be there."""
        try:
            self._client.request(Request("DELETE", key, fields={"if-match": f'"{etag}"'}))
        except (NotFound, PreconditionFailed):
            self._client.delete(target)
            return False
        return True
