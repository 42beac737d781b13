"""Requests of the tus protocol, as tests send them."""

from __future__ import annotations

import base64
from typing import Any

from tests.support import Answer, ServerCase

OCTETS = "application/offset+octet-stream"
VERSION = "1.0.0"


def metadata(**values: str) -> str:
    """The value of Upload-Metadata."""
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


class UploadsCase(ServerCase):
    """A server with resumable uploads. Names of fields are those of `ServerCase.request`."""

    interfaces = ("files", "repositories", "drops", "uploads")

    def tus(self, method: str, path: str, body: Any = None, **fields: Any) -> Answer:
        answer = self.request(method, path, body, **{"Tus_Resumable": VERSION, **fields})
        self.assertEqual(VERSION, answer.fields["tus-resumable"], answer)
        return answer

    def create(self, length: int | None, **fields: Any) -> Answer:
        about = {"Upload_Defer_Length": "1"} if length is None else {"Upload_Length": str(length)}
        return self.tus("POST", "/uploads", b"", **{**about, **fields})

    def created(self, length: int | None, **fields: Any) -> str:
        """Create an upload, and return its path."""
        answer = self.create(length, **fields)
        self.assertEqual(201, answer.status, answer.body)
        return answer.fields["location"]

    def append(self, path: str, offset: Any, body: Any, **fields: Any) -> Answer:
        return self.tus("PATCH", path, body, **{"Upload_Offset": str(offset), "Content_Type": OCTETS, **fields})

    def offset(self, path: str) -> int:
        answer = self.tus("HEAD", path)
        self.assertEqual(200, answer.status, answer)
        return int(answer.fields["upload-offset"])
