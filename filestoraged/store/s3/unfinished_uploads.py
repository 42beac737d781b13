"""Uploads in parts that are neither completed nor aborted: of live processes, and of those that died."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from filestoraged.store.s3.answers import ListedUpload, error_of, parse_uploads
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.transport import Request


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
    client.request(Request("DELETE", upload.key, (("uploadId", upload.upload_id),)))


def _page(client: S3Client, markers: Sequence[tuple[str, str]], until: float | None) -> list[ListedUpload]:
    prefix = client.location.prefix
    query = [("uploads", ""), ("encoding-type", "url"), ("prefix", prefix), *markers]
    answer = client.send(Request("GET", query=query), until=until)
    if answer.code == "NoSuchUpload":
        # rclone answers so where there is none.
        return []
    if answer.status >= 300:
        raise error_of(answer)
    return parse_uploads(answer, prefix)
