"""Objects that a diagnosis makes in an S3 store to see what becomes of them, and removes again.

All are below a prefix of their own, which no object of filestoraged has.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence

from filestoraged.errors import Error
from filestoraged.store.s3.answers import (
    Answer,
    ListedUpload,
    ListingPage,
    StoreRefusal,
    parse_upload_id,
    parse_uploads,
)
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.signing import EMPTY_SHA256
from filestoraged.store.s3.transport import NO_FIELDS, Body, S3Request

# Seconds for one request, with its repetitions. A store that answers later makes clients of filestoraged wait as long.
_TIMEOUT = 8.0

_PREFIX = ".filestoraged-s3-check"


class Probe:
    """One thread at a time calls it, except for `request`. Raises what the client does for connections that fail."""

    def __init__(self, client: S3Client, raise_if_stopped: Callable[[], None]) -> None:
        """`raise_if_stopped` is called before each request, and its exception ends the diagnosis."""
        self._client = client
        self._raise_if_stopped = raise_if_stopped
        self._prefix = f"{_PREFIX}/{secrets.token_hex(8)}/"

    def request(
        self,
        method: str,
        name: str = "",
        *,
        query: Sequence[tuple[str, str]] = (),
        fields: Mapping[str, str] = NO_FIELDS,
        body: Body = b"",
        sha256: str = EMPTY_SHA256,
    ) -> Answer:
        """Return what the store answers, also if it refuses. `name` is that of an object of the probe."""
        self._raise_if_stopped()
        key = self._prefix + name if name else ""
        return self._answer(S3Request(method, key, query, fields, body, sha256))

    def listing(self, prefix: str, *, after: str = "", delimiter: str = "", limit: int = 1000) -> ListingPage:
        """Names that begin with `prefix`. Raises the error of a refusal."""
        self._raise_if_stopped()
        after = self._prefix + after if after else ""
        listing = self._client.list(
            self._prefix + prefix, after=after, delimiter=delimiter, limit=limit, until=self._client.deadline(_TIMEOUT)
        )
        objects = [each._replace(key=each.key.removeprefix(self._prefix)) for each in listing.objects]
        prefixes = [each.removeprefix(self._prefix) for each in listing.prefixes]
        return listing._replace(objects=objects, prefixes=prefixes)

    def begin_parts(self, name: str) -> str | Answer:
        """Begin a multipart upload. Returns its id, or the refusal."""
        answer = self.request("POST", name, query=(("uploads", ""),))
        return parse_upload_id(answer) if answer.status == 200 else answer

    def uploads(self) -> list[ListedUpload] | None:
        """The multipart uploads of the probe that are not complete, None if the store does not list them."""
        return self._uploads()

    def reconnect(self) -> None:
        """Close connections: a load balancer may choose another node for the next request."""
        self._client.close()

    def remove_all(self) -> list[str]:
        """Remove everything that the probe has made. Returns the keys that are left."""
        for upload in self._uploads() or ():
            self._answer(S3Request("DELETE", upload.key, (("uploadId", upload.upload_id),)))
        for key in self._keys():
            self._answer(S3Request("DELETE", key))
        return [*self._keys(), *(upload.key for upload in self._uploads() or ())]

    def _keys(self) -> list[str]:
        # Less than one page.
        listing = self._client.list(self._prefix, until=self._client.deadline(_TIMEOUT))
        return [each.key for each in listing.objects]

    def _uploads(self) -> list[ListedUpload] | None:
        prefix = self._client.location.prefix
        query = (("prefix", prefix + self._prefix), ("uploads", ""))
        answer = self._answer(S3Request("GET", query=query))
        if answer.status != 200:
            # rclone answers so if there is none.
            return [] if answer.code == "NoSuchUpload" else None
        return [each for each in parse_uploads(answer, prefix) if each.key.startswith(self._prefix)]

    def _answer(self, request: S3Request) -> Answer:
        try:
            return self._client.send(request, until=self._client.deadline(_TIMEOUT))
        except Error as error:
            # One that is worth repeating, such as a 503.
            if isinstance(error.__cause__, StoreRefusal):
                return error.__cause__.answer
            raise
