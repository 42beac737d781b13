"""The staging of an object whose digest and size were announced: streamed to the store as it comes, nothing is kept.

The last bytes are held back until our own hash is known to be right. A body that breaks off, or that has another
digest, leaves a request without its end, of which the store makes nothing visible, whether it checks digests or not.
"""

from __future__ import annotations

from collections.abc import Sequence

from filestoraged.digest import Bytes, Digest, Expected
from filestoraged.future import Future
from filestoraged.store.contract import Staging, Store, completed
from filestoraged.store.s3.client import S3Client, checksum_field
from filestoraged.store.s3.staging import check_missing, object_key
from filestoraged.store.s3.transfers import PutTransfer


class StreamedStaging(Staging):
    """It can be committed under the announced digest alone."""

    def __init__(
        self,
        store: Store,
        size: int,
        expected: Sequence[Expected],
        *,
        client: S3Client,
        prefix: str,
        sha256: str,
    ) -> None:
        """`prefix` is that of the namespace's keys, `sha256` the announced digest."""
        super().__init__(store, size, expected)
        self._client = client
        self._prefix = prefix
        self._sha256 = sha256
        self._declared = size
        self._upload: PutTransfer | None = None
        # The last bytes, once all have come.
        self._last: bytes | None = None

    def _write(self, data: Bytes) -> None:
        if self.size > self._declared:
            raise ValueError(f"an upload of {self._declared} bytes has more")
        if self._upload is None:
            key = object_key(self._prefix, self._sha256)
            self._upload = self._client.begin_put(key, self._declared, self._sha256, checksum_field(self._sha256))
        self._hasher.update(data)
        if self.size == self._declared:
            self._last = bytes(data)
        else:
            self._upload.write(data)

    def _publish(self, name: str | None, digest: Digest, *, replace: bool) -> Future[Digest]:
        if not replace:
            # The request has begun without a condition. `stage_new` is for uploads that need one.
            check_missing(self._client, self._prefix, digest, self._client.deadline())
        if name not in (None, digest):
            raise ValueError(f"an upload streamed to {digest!r} cannot be stored as {name!r}")
        if self._upload is None or self._last is None:
            raise ValueError(f"an upload of {self._declared} bytes has only {self.size}")
        self._upload.finish(self._last)
        return completed(digest)

    def _discard(self) -> None:
        upload, self._upload = self._upload, None
        self._last = None
        if upload is not None:
            upload.abort()
