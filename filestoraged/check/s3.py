"""An S3 store as a check reads it: the digests that the store has computed itself, else all bytes.

An object is moved by a copy of the store's, which is read and compared; only then is the object deleted, if it is still
the same. An upload that replaces it between the last look and the deletion is lost, except in stores that delete
conditionally (If-Match); that takes one round trip.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from filestoraged.check.findings import HALF_MADE, UNREADABLE, Finding
from filestoraged.check.inventory import (
    UNKNOWN_NAME,
    CheckedStore,
    Item,
    ItemKind,
    ItemStatus,
    OpenItem,
    files_of,
    is_in_shard,
)
from filestoraged.check.rows import DROP_BYTES, NAMED_BYTES, NAMED_GRACE, SEGMENT_BYTES, ComparedRows, RowRegistry
from filestoraged.check.store_check import StoreCheck
from filestoraged.check.throttle import Throttle
from filestoraged.digest import new_hash
from filestoraged.errors import Error, NotFound, PreconditionFailed, StorageFull, StoreUnavailable
from filestoraged.net.connection import FAILURES
from filestoraged.store import layout
from filestoraged.store.s3.answers import Answer, ListedUpload, StoreRefusal, error_of
from filestoraged.store.s3.client import CHECKSUM_FIELD, ObjectHead, S3Client, parse_head
from filestoraged.store.s3.listing import list_objects
from filestoraged.store.s3.multipart import abort_upload, list_uploads
from filestoraged.store.s3.transfers import GetTransfer
from filestoraged.store.s3.transport import S3Request

# Requests at the same time: they wait for the network more than for the processor.
_THREADS = 8

# Seconds after which an upload in parts is one of a process that died: those of a live one take less.
_FORGOTTEN_AFTER = 24 * 3600.0

# In bytes. Hashing releases Python's lock meanwhile.
_READ_SIZE = 256 * 1024

# How often an object is read whose connection fails.
_ATTEMPTS = 3

# What has other names below `uploads/` is not reported: the prefix is reserved.
_UNCHECKED = (layout.QUARANTINE, layout.UPLOADS)


def check_s3(
    client: S3Client,
    *,
    throttle: Throttle,
    drops: RowRegistry | None = None,
    segments: RowRegistry | None = None,
    names: RowRegistry | None = None,
    forgotten_after: float = _FORGOTTEN_AFTER,
    algorithm: str,
    repair: bool = False,
    threads: int = _THREADS,
) -> StoreCheck:
    """The check of all objects of a store. The registries are None if they are not at hand."""
    rows = [] if drops is None else [ComparedRows(DROP_BYTES, drops)]
    if segments is not None:
        rows.append(ComparedRows(SEGMENT_BYTES, segments, grace=forgotten_after))
    if names is not None:
        rows.append(ComparedRows(NAMED_BYTES, names, grace=NAMED_GRACE))
    return StoreCheck(
        lambda: CheckedS3(client, throttle, forgotten_after),
        rows,
        algorithm=algorithm,
        throttle=throttle,
        repair=repair,
        threads=threads,
    )


class CheckedS3(CheckedStore):
    """Any thread calls it."""

    def __init__(self, client: S3Client, throttle: Throttle, forgotten_after: float = _FORGOTTEN_AFTER) -> None:
        """Uploads in parts that began `forgotten_after` seconds ago are those of dead processes."""
        self.client = client
        self._throttle = throttle
        self._forgotten_after = forgotten_after

    def items(self) -> Iterator[Item]:
        """The uploads in parts together, and all objects in the order of their keys."""
        yield Item(ItemKind.STAGING, "")
        for listed in list_objects(self.client):
            kind = classify(listed.key)
            if kind is not None:
                yield Item(kind, listed.key, UNKNOWN_NAME if kind is ItemKind.FOREIGN else "")

    def objects_of(self, repository: str) -> Iterator[Item]:
        for listed in list_objects(self.client, f"{layout.REPOSITORIES}/{repository}/"):
            if classify(listed.key) is ItemKind.OID:
                yield Item(ItemKind.OID, listed.key, status=ItemStatus(listed.size, listed.modified))

    def status(self, path: str) -> ItemStatus:
        head = self.client.head(path)
        return ItemStatus(head.size, head.modified)

    def open(self, path: str) -> S3Item:
        return S3Item(self.client, self._throttle, path, _head(self.client, path))

    def failure(self, path: str, error: Exception) -> Finding:
        if isinstance(error, (StoreUnavailable, StorageFull)) and isinstance(error.__cause__, StoreRefusal):
            return Finding(UNREADABLE, path, f"it cannot be read: {error.__cause__}")
        raise error

    def examine(self, item: Item, *, repair: bool) -> Iterator[Finding]:
        before = self._throttle.clock.date() - self._forgotten_after
        for upload in list_uploads(self.client):
            if upload.initiated < before:
                yield self._forgotten(upload, repair=repair)

    def _forgotten(self, upload: ListedUpload, *, repair: bool) -> Finding:
        finding = Finding(
            HALF_MADE, upload.key, f"its upload in parts {upload.upload_id} was neither completed nor aborted"
        )
        if not repair:
            return finding
        try:
            abort_upload(self.client, upload)
        except Error as error:
            return finding._replace(reason=f"{finding.reason}, and cannot be: {error.__cause__ or error}")
        return finding._replace(remedy="removed")


class _Measured(NamedTuple):
    """What an object was when its digests, by algorithm, were computed."""

    digests: Mapping[str, str]
    head: ObjectHead


class S3Item(OpenItem):
    """An object. A later upload of equal bytes has the same ETag and another time."""

    def __init__(self, client: S3Client, throttle: Throttle, key: str, answer: Answer) -> None:
        """`answer` is that of `_head`."""
        self._client = client
        self._throttle = throttle
        self._key = key
        head = parse_head(answer.fields)
        self.status = ItemStatus(head.size, head.modified)
        # The SHA-256 that the store itself computed when it received the object, if it keeps one.
        digest = _full_sha256(answer.fields)
        self._found = _Measured({} if digest is None else {"sha256": digest}, head)

    def has_digest(self, digest: str, algorithms: list[str], count: Callable[[int], None]) -> bool:
        if "sha256" in algorithms and self._found.digests.get("sha256") == digest:
            count(self.status.size)
            return True
        if self._read(algorithms[:1], count).digests[algorithms[0]] == digest:
            return True
        # Once more: another algorithm may have named it, or the network have changed its bytes.
        self._found = self._read(algorithms, _ignore)
        return digest in self._found.digests.values()

    def is_in_place(self) -> bool:
        try:
            head = self._client.head(self._key)
        except NotFound:
            return False
        return (head.etag, head.modified) == (self._found.head.etag, self._found.head.modified)

    def move_aside(self, suffix: str = "") -> str | None:
        """As the contract says. If it raises an Error, the object is where it was."""
        if not self._found.digests:
            self._found = self._read(["sha256"], _ignore)
        target = self._free_key(layout.quarantine_path(self._key) + suffix)
        try:
            self._copy(target)
            if not self._is_copied(target):
                raise StoreUnavailable from OSError("the store's copy has other bytes")
            if not self.is_in_place():
                raise PreconditionFailed("The object was replaced.")
        except (NotFound, PreconditionFailed):
            self._client.delete(target)
            return None
        except Error:
            self._client.delete(target)
            raise
        return target if self._is_deleted(target) else None

    def _read(self, algorithms: Sequence[str], count: Callable[[int], None], key: str = "") -> _Measured:
        """Read all bytes of this object, or of its copy under a `key`, and hash them by each of the algorithms."""
        failure: BaseException | None = None
        for _ in range(_ATTEMPTS):
            self._throttle.raise_if_stopped()
            download = self._client.get(key or self._key)
            try:
                return self._hash(download, algorithms, count)
            except FAILURES as error:
                failure = error
            finally:
                download.close()
        raise StoreUnavailable from failure

    def _hash(self, download: GetTransfer, algorithms: Sequence[str], count: Callable[[int], None]) -> _Measured:
        hashes = {algorithm: new_hash(algorithm) for algorithm in algorithms}
        while data := download.read(self._throttle.read_size(_READ_SIZE)):
            for each in hashes.values():
                each.update(data)
            count(len(data))
            self._throttle.pay(len(data))
        return _Measured({name: each.hexdigest() for name, each in hashes.items()}, parse_head(download.fields))

    def close(self) -> None:
        """Nothing is open between two requests."""

    # The steps of a move.

    def _free_key(self, wanted: str) -> str:
        """The first key that is not in use. Two checks that repair at a time may choose the same for equal bytes."""
        for number in itertools.count():
            key = f"{wanted}.{number}" if number else wanted
            try:
                self._client.head(key)
            except NotFound:
                return key
        raise AssertionError("itertools.count() ended")

    def _copy(self, target: str) -> None:
        location = self._client.location
        source = quote(f"/{location.bucket}/{location.prefix}{self._key}", safe="/-_.~")
        fields = {"x-amz-copy-source": source, "x-amz-copy-source-if-match": f'"{self._found.head.etag}"'}
        answer = self._client.send(S3Request("PUT", target, fields=fields))
        # An error may follow a head that says 200, since the store takes long and keeps the connection alive.
        if answer.status >= 300 or answer.code:
            raise error_of(answer, name=self._key)

    def _is_copied(self, target: str) -> bool:
        """Whether the copy has the same digests: by the store's own of it, if that is all that is compared."""
        wanted = self._found.digests
        if list(wanted) == ["sha256"]:
            digest = _full_sha256(_head(self._client, target).fields)
            if digest is not None:
                return digest == wanted["sha256"]
        return self._read(list(wanted), _ignore, target).digests == wanted

    def _is_deleted(self, target: str) -> bool:
        """Delete the object. If that fails without an answer, both it and its copy may be there."""
        try:
            self._client.request(S3Request("DELETE", self._key, fields={"if-match": f'"{self._found.head.etag}"'}))
        except (NotFound, PreconditionFailed):
            self._client.delete(target)
            return False
        return True


def classify(key: str) -> ItemKind | None:
    """What the object under a key is; None for what is not checked."""
    top, separator, _ = key.partition("/")
    directory, _, name = key.rpartition("/")
    kind, names = files_of(directory) or (ItemKind.FOREIGN, None)
    if names is None or not names.fullmatch(name) or not is_in_shard(directory, name):
        kind = ItemKind.FOREIGN
    if top in _UNCHECKED and separator:
        return kind if kind is ItemKind.SEGMENT else None
    in_repositories = (ItemKind.OID, ItemKind.NAMED, ItemKind.CONFIG)
    if kind in in_repositories and not layout.is_repository(directory.split("/")[1]):
        return ItemKind.FOREIGN
    return kind


def _head(client: S3Client, key: str) -> Answer:
    """The answer to a HEAD with the store's own digest. Raises NotFound and StoreUnavailable."""
    answer = client.send(S3Request("HEAD", key, fields={"x-amz-checksum-mode": "ENABLED"}))
    if answer.status >= 300:
        raise error_of(answer, name=key)
    return answer


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


def _ignore(size: int) -> None:
    pass
