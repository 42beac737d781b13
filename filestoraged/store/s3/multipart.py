"""Objects that are larger than one PUT may be: uploaded in parts, each signed by its SHA-256, and completed at once.

Nothing is visible before the completion. An upload that fails is aborted; one of a process that died is swept: it is
among those that the store lists as unfinished.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO
from xml.sax.saxutils import escape

from filestoraged.digest import new_hash
from filestoraged.errors import Error, StoreFailed
from filestoraged.net.connection import FilePart
from filestoraged.store.hashing import COPY_SIZE
from filestoraged.store.s3.answers import ListedUpload, check_completion, error_of, parse_upload_id, parse_uploads
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.transport import S3Request

log = logging.getLogger(__name__)

# Of a single PUT, in bytes: the limit of S3.
MAX_PUT_SIZE = 5 * 1024**3

# Of a part, in bytes: a failure repeats as much. S3 allows 5 MiB to 5 GiB, and 10,000 parts.
PART_SIZE = 64 * 1024 * 1024
_MAX_PARTS = 10_000

# Characters. All of them are sent in one document; those of stores have less than 80.
_MAX_ETAG = 256

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"

# Seconds. A store may join the parts, and sends spaces meanwhile.
_COMPLETION_TIMEOUT = 300.0

# Seconds after which an upload without an end is one of a process that died: the parts of a live one take less.
_ABANDONED_AFTER = 24 * 3600


class PartedUpload:
    """The upload of a file under a key, in parts. One thread calls it."""

    def __init__(self, client: S3Client, key: str, fields: Mapping[str, str]) -> None:
        """Begin it, with the header fields of the object."""
        self._client = client
        self._key = key
        begun = client.request(S3Request("POST", key, [("uploads", "")], fields))
        self._upload_id = parse_upload_id(begun)
        self._upload = [("uploadId", self._upload_id)]

    def put(self, file: BinaryIO, size: int, *, sha256: str, part_size: int) -> list[str]:
        """Upload all parts. Returns their ETags. Raises StoreFailed if the file's bytes do not have the digest."""
        whole = new_hash("sha256")
        etags = []
        step = max(part_size, -(-size // _MAX_PARTS))
        for number, start in enumerate(range(0, size, step), start=1):
            part = FilePart(file, start, min(step, size - start))
            query = [("partNumber", str(number)), *self._upload]
            answer = self._client.put(self._key, part, sha256=_hash_part(part, whole), query=query)
            etags.append(answer.fields.get("etag", "")[:_MAX_ETAG])
        if whole.hexdigest() != sha256:
            # The disk has returned other bytes than it was given.
            raise StoreFailed
        return etags

    def complete(self, etags: Sequence[str], condition: Mapping[str, str]) -> None:
        """Make the object visible. `condition` are header fields."""
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
            for number, etag in enumerate(etags, start=1)
        )
        body = f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{parts}</CompleteMultipartUpload>'.encode()
        digest = hashlib.sha256(body).hexdigest()
        request = S3Request("POST", self._key, self._upload, condition, body, digest)
        check_completion(self._client.request(request, until=self._client.deadline(_COMPLETION_TIMEOUT)))

    def abort(self) -> None:
        """Make the store forget the parts."""
        _try_to_abort(self._client, ListedUpload(self._key, self._upload_id, 0))


def sweep_uploads(client: S3Client, *, now: float, until: float) -> int:
    """Abort the uploads of dead processes. Returns their number.

    `now` is in seconds since 1970; the listing ends at `until` on the monotonic clock.
    """
    return sum(
        _try_to_abort(client, each)
        for each in list_uploads(client, until=until)
        if each.initiated < now - _ABANDONED_AFTER
    )


def list_uploads(client: S3Client, *, until: float | None = None) -> Iterator[ListedUpload]:
    """All such uploads below the location's prefix. Raises StoreUnavailable.

    Each of its requests ends at `until` on the monotonic clock, or after the client's own time.
    """
    last: ListedUpload | None = None
    page = _page(client, (), until)
    # A store that ignores the markers repeats its first page, or another one.
    while page and page[-1] != last and (last is None or page[-1].key >= last.key):
        yield from page
        last = page[-1]
        markers = (("key-marker", client.location.prefix + last.key), ("upload-id-marker", last.upload_id))
        page = _page(client, markers, until)


def abort_upload(client: S3Client, upload: ListedUpload) -> None:
    """Raises NotFound and StoreUnavailable."""
    client.request(S3Request("DELETE", upload.key, (("uploadId", upload.upload_id),)))


def _page(client: S3Client, markers: Sequence[tuple[str, str]], until: float | None) -> list[ListedUpload]:
    prefix = client.location.prefix
    query = [("uploads", ""), ("encoding-type", "url"), ("prefix", prefix), *markers]
    answer = client.send(S3Request("GET", query=query), until=until)
    if answer.code == "NoSuchUpload":
        # rclone answers so where there is none.
        return []
    if answer.status >= 300:
        raise error_of(answer)
    return parse_uploads(answer, prefix)


def _try_to_abort(client: S3Client, upload: ListedUpload) -> bool:
    """Abort an upload. A failure is logged: the next sweep aborts it, or a rule of the bucket."""
    try:
        abort_upload(client, upload)
    except Error as error:
        log.warning("cannot abort an upload in parts: %s", error.__cause__ or error)
        return False
    return True


def _hash_part(part: FilePart, whole: hashlib._Hash) -> str:
    own = new_hash("sha256")
    part.file.seek(part.start)
    left = part.size
    while left:
        data = part.file.read(min(COPY_SIZE, left))
        if not data:
            raise StoreFailed
        own.update(data)
        whole.update(data)
        left -= len(data)
    return own.hexdigest()
