"""Digests of objects in an S3 store: the store's own where it has them, else by reading all bytes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from filestoraged.check.throttle import Throttle
from filestoraged.digest import new_hash
from filestoraged.errors import StoreUnavailable
from filestoraged.net.connection import FAILURES
from filestoraged.store.s3.answers import error_of
from filestoraged.store.s3.client import CHECKSUM_FIELD, Head, S3Client, parse_head
from filestoraged.store.s3.transfers import Download
from filestoraged.store.s3.transport import Request

# In bytes. Hashing releases Python's lock meanwhile.
_READ_SIZE = 256 * 1024

# How often an object is read whose connection fails.
_ATTEMPTS = 3


class Measured(NamedTuple):
    """What an object was when its digests were computed. `size` is in bytes, `modified` in seconds since 1970."""

    # By algorithm.
    digests: Mapping[str, str]
    size: int
    etag: str
    modified: int

    def is_at(self, head: Head) -> bool:
        """Whether the object is still the same. A later upload of equal bytes has the same ETag and another time."""
        return (head.etag, head.modified) == (self.etag, self.modified)


class ObjectReader:
    """Any thread calls it. Raises NotFound, StoreUnavailable and CheckStopped."""

    def __init__(self, client: S3Client, throttle: Throttle) -> None:
        self._client = client
        self._throttle = throttle

    def recorded(self, key: str) -> Measured | None:
        """The SHA-256 that the store itself computed when it received the object; None if it keeps none."""
        answer = self._client.send(Request("HEAD", key, fields={"x-amz-checksum-mode": "ENABLED"}))
        if answer.status >= 300:
            raise error_of(answer, name=key)
        digest = _full_sha256(answer.fields)
        head = parse_head(answer.fields)
        return None if digest is None else Measured({"sha256": digest}, head.size, head.etag, head.modified)

    def read(self, key: str, algorithms: Sequence[str], count: Callable[[int], None]) -> Measured:
        """Read all bytes, and hash them by each of the algorithms. `count` gets the size of each read."""
        failure: BaseException | None = None
        for _ in range(_ATTEMPTS):
            self._throttle.raise_if_stopped()
            download = self._client.get(key)
            try:
                return self._hash(download, algorithms, count)
            except FAILURES as error:
                failure = error
            finally:
                download.close()
        raise StoreUnavailable from failure

    def _hash(self, download: Download, algorithms: Sequence[str], count: Callable[[int], None]) -> Measured:
        hashes = {algorithm: new_hash(algorithm) for algorithm in algorithms}
        size = 0
        while data := download.read(self._throttle.read_size(_READ_SIZE)):
            for each in hashes.values():
                each.update(data)
            size += len(data)
            count(len(data))
            self._throttle.pay(len(data))
        digests = {algorithm: each.hexdigest() for algorithm, each in hashes.items()}
        head = parse_head(download.fields)
        return Measured(digests, size, head.etag, head.modified)


def _full_sha256(fields: Mapping[str, str]) -> str | None:
    """The digest as lower-case hex, if it is one of all bytes.

    That of an upload in parts is one of the digests of the parts (COMPOSITE). A store that says no type may only repeat
    what a client had sent.
    """
    if fields.get("x-amz-checksum-type", "").upper() != "FULL_OBJECT":
        return None
    try:
        digest = base64.b64decode(fields.get(CHECKSUM_FIELD, ""), validate=True)
    except ValueError:
        # Also for characters that are not ASCII.
        return None
    return digest.hex() if len(digest) == 32 else None
