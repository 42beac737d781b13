"""Uploads that go on where they broke off: tus 1.0.0, at the daemon's interface `uploads`.

A file is sent by one request for as long as no connection breaks. A stream has no known length and cannot be read
twice, so it is sent in pieces that are kept until the daemon has acknowledged them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from filestoraged.client.refusals import UnexpectedResponse
from filestoraged.client.retries import PASSING, Retries
from filestoraged.client.sources import HashedSource
from filestoraged.client.transport import ClientResponse, ClientTransport
from filestoraged.digest import Bytes
from filestoraged.errors import (
    Conflict,
    Forbidden,
    Gone,
    ListingUnsupported,
    MethodNotAllowed,
    NotFound,
    PreconditionFailed,
    Unavailable,
    quoted,
)
from filestoraged.wire import tus

# What a daemon answers, or a proxy in front, where the interface is not mounted.
_NOT_MOUNTED = (NotFound, MethodNotAllowed, ListingUnsupported)

# What it answers for an upload that has expired, or was ended.
_LOST = (NotFound, Gone, Forbidden)

_ID = re.compile(r"[A-Za-z0-9_\-]+")
_NUMBER = re.compile(r"[0-9]{1,19}")
_DIGEST = re.compile(r"([a-z0-9_\-]+)=:([A-Za-z0-9+/]+={0,2}):")

# RFC 9530's names of algorithms, where they are not ours.
_NAMES = {"sha-256": "sha256", "sha-512": "sha512", "sha": "sha1"}


class UploadLost(Exception):
    """The daemon does not have the upload any more: it is begun again."""


class ResumableUpload:
    """An upload at the daemon. One thread uses it."""

    def __init__(self, transport: ClientTransport, retries: Retries, path: str) -> None:
        """`path` is that of the upload, below the location."""
        self.path = path
        # By which the daemon has computed the digest. Set by the response that completes the upload.
        self.algorithm: str | None = None
        self._transport = transport
        self._retries = retries

    def send(self, source: HashedSource, offset: int) -> None:
        """Send a source from `offset` on, which the daemon has told. Raises UploadLost."""
        # It is another upload's.
        if offset > source.size:
            raise UploadLost
        self._send(source.blocks, offset, source.size, {})

    def send_piece(self, data: bytes, start: int, *, length: int | None) -> None:
        """Send a piece of a stream, which begins at `start`; the last one with the `length` of the whole upload."""
        stop = start + len(data)
        late = {} if length is None else {"Upload-Length": str(length)}
        self._send(lambda offset: [data[offset - start :]], start, stop, late, checked=data)

    def find_offset(self) -> int:
        """Ask how many bytes the daemon has. Raises UploadLost."""
        try:
            return self._retries.run(lambda: self._take_offset(self._request("HEAD", {})))
        except _LOST as error:
            raise UploadLost from error

    def result(self) -> Mapping[str, Any]:
        """Return what the target has answered."""
        return self._retries.run(lambda: self._request("GET", {}).document())

    def _send(
        self,
        blocks: Callable[[int], Iterable[Bytes]],
        offset: int,
        stop: int,
        fields: Mapping[str, str],
        *,
        checked: bytes | None = None,
    ) -> None:
        start = furthest = offset
        attempts = self._retries.begin()
        while offset < stop:
            headers = {**fields, "Upload-Offset": str(offset), "Content-Type": tus.MEDIA_TYPE}
            if checked is not None:
                headers["Upload-Checksum"] = _checksum(checked[offset - start :])
            failure: Exception | None = None
            try:
                response = self._request("PATCH", headers, body=blocks(offset), size=stop - offset)
                reached = self._take_offset(response)
            except _LOST as error:
                raise UploadLost from error
            except (*PASSING, Conflict) as error:
                # Conflict: an answer was lost, and the daemon has more than this program knows.
                attempts.wait(error)
                failure, reached = error, self.find_offset()
            if not start <= reached <= stop:
                raise UnexpectedResponse(f"the server has {reached} bytes of the upload; expected {start} to {stop}")
            # An offset that was reached before is no progress: with it, a server could ask for the bytes for ever.
            if reached > furthest:
                attempts.progressed()
                furthest = reached
            elif failure is None:
                attempts.wait(Unavailable("The server takes none of the bytes."))
            offset = reached

    def _request(
        self, method: str, fields: Mapping[str, str], *, body: Iterable[Bytes] | None = None, size: int = 0
    ) -> ClientResponse:
        return self._transport.request(
            method, self.path, {"Tus-Resumable": tus.VERSION, **fields}, body=body, size=size
        )

    def _take_offset(self, response: ClientResponse) -> int:
        with response:
            response.discard()
            text = response.fields.get("upload-offset", "")
            if not _NUMBER.fullmatch(text):
                raise UnexpectedResponse(f"the server answered an upload without its offset: {quoted(text)}")
            self.algorithm = _algorithm(response.fields.get("repr-digest", "")) or self.algorithm
            return int(text)


def create(
    transport: ClientTransport, retries: Retries, mount: str, length: int | None, metadata: Mapping[str, str]
) -> ResumableUpload | None:
    """Create an upload at the interface `mount`; without a length it is told later. Returns None if it is not there."""
    about = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
    fields = {"Tus-Resumable": tus.VERSION, "Upload-Metadata": tus.format_metadata(metadata), **about}

    def ask() -> ResumableUpload:
        with transport.request("POST", mount, fields) as response:
            response.discard()
            return ResumableUpload(transport, retries, _path(response, mount))

    try:
        return retries.run(ask)
    except _NOT_MOUNTED:
        return None
    except PreconditionFailed as error:
        raise UnexpectedResponse("the server has another version of tus than 1.0.0") from error


def _path(response: ClientResponse, mount: str) -> str:
    """Return the path of a new upload.

    Only its id is used: behind a proxy, a daemon may name its own host, to which no token must go.
    """
    id_ = response.fields.get("location", "").rpartition("/")[2]
    if response.status != 201 or not _ID.fullmatch(id_):
        raise UnexpectedResponse(f"the server is no filestoraged: it answered {response.status} to a new upload")
    return f"{mount}/{id_}"


def _checksum(data: bytes) -> str:
    return f"sha256 {base64.b64encode(hashlib.sha256(data).digest()).decode()}"


def _algorithm(field: str) -> str | None:
    """Return our name of the algorithm of a Repr-Digest; None without a valid one."""
    matched = _DIGEST.fullmatch(field)
    if matched is None:
        return None
    name, encoded = matched.groups()
    try:
        base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    return _NAMES.get(name, name)
