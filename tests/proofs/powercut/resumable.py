"""Resumable uploads in a power cut: an offset that was acknowledged is never taken back."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Iterator

from tests.proofs.powercut.load import KIB, MIB, Client, Connection, body_of
from tests.proofs.powercut.record import Record, Resumable, State
from tests.tus import OCTETS, VERSION

_SIZES = (100 * KIB, MIB, 3 * MIB)
_PIECES = (KIB, 64 * KIB, 700 * KIB)


class ResumingClient(Client):
    """Uploads one object after the other in pieces, and leaves some unfinished."""

    def step(self) -> None:
        self._bodies += 1
        name, size = f"{self.name}.{self._bodies}", self.random.choice(_SIZES)
        body = body_of(name, size)
        path = self._create(size)
        if path is None:
            return
        upload = self.record.uploads[path] = Resumable(name, size)
        leave_at = self.random.randrange(size) if self.random.random() < 0.3 else size
        while upload.offset < leave_at and not self.stop.is_set():
            if not self._append(path, upload, body):
                return

    def _create(self, size: int) -> str | None:
        status, fields = _ask(self.connection, "POST", "/uploads", {"Upload-Length": str(size)})
        return fields["Location"] if self.is_acknowledged(status, 201, "created uploads") else None

    def _append(self, path: str, upload: Resumable, body: bytes) -> bool:
        piece = body[upload.offset :][: self.random.choice(_PIECES)]
        is_last = upload.offset + len(piece) == upload.size
        target = object_path(body)
        if is_last:
            self.record.begin_upload(target)
        fields = {"Upload-Offset": str(upload.offset), "Content-Type": OCTETS}
        status, _ = _ask(self.connection, "PATCH", path, fields, piece)
        if not self.is_acknowledged(status, 204, "pieces of uploads"):
            return False
        upload.offset += len(piece)
        if is_last:
            self.record.objects[target] = State.STORED
        return True


def verify_uploads(connection: Connection, record: Record) -> Iterator[str]:
    """Ask for the offset of each upload, send what is missing, and compare the object. Forgets them."""
    for path, upload in record.uploads.items():
        body = body_of(upload.name, upload.size)
        status, fields = _ask(connection, "HEAD", path, {})
        if status != 200:
            yield f"an upload with {upload.offset} acknowledged bytes: status {status}"
            continue
        offset = int(fields["Upload-Offset"])
        if offset < upload.offset:
            yield f"taken back: an upload has {offset} bytes, and {upload.offset} were acknowledged"
        named = {"Upload-Offset": str(offset), "Content-Type": OCTETS}
        status, fields = _ask(connection, "PATCH", path, named, body[offset:])
        if status != 204 or fields["Content-Location"] != object_path(body):
            yield f"other bytes: an upload of {upload.size} bytes from {offset} on, status {status}"
        record.objects[object_path(body)] = State.STORED
    record.uploads.clear()


def object_path(body: bytes) -> str:
    return f"/{hashlib.sha256(body).hexdigest()}"


def _ask(
    connection: Connection, method: str, path: str, fields: dict[str, str], body: bytes = b""
) -> tuple[int, http.client.HTTPMessage]:
    return connection.exchange(method, path, body, {"Tus-Resumable": VERSION, **fields})
