"""A server that answers as a test says, for what no daemon answers."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.support import PATIENCE


class Received(NamedTuple):
    """A request. Names of fields are in lower case."""

    line: str
    fields: dict[str, str]
    body: bytes


# Bytes of a response, or a function that gets the request and returns them. The connection closes behind it.
Script = bytes | Callable[[Received], bytes]


class ScriptedServer:
    """Listens on a free port of 127.0.0.1. Connections get the scripts in turn, the last one again and again."""

    def __init__(self, scripts: Sequence[Script]) -> None:
        self.requests: list[Received] = []
        self._scripts = list(scripts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes `accept`, which `close` would not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(PATIENCE)
                with connection, contextlib.suppress(OSError):
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        received = _receive(connection)
        if received is None:
            return
        self.requests.append(received)
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        connection.sendall(script if isinstance(script, bytes) else script(received))


def answer(status: int, body: bytes = b"", *, length: int | None = None, **fields: str) -> bytes:
    """Return a response. Underscores in names of fields stand for hyphens."""
    lines = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body


def document(status: int, value: object, **fields: str) -> bytes:
    return answer(status, json.dumps(value).encode(), length=None, Content_Type="application/json", **fields)


def _receive(connection: socket.socket) -> Received | None:
    with connection.makefile("rb") as stream:
        line = stream.readline().decode().strip()
        if not line:
            return None
        fields = {}
        while text := stream.readline().decode("latin-1").strip():
            name, _, value = text.partition(":")
            fields[name.lower()] = value.strip()
        return Received(line, fields, stream.read(int(fields.get("content-length", "0"))))
