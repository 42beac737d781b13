"""A TCP proxy that cuts connections after so many bytes from the client."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from pathlib import Path

from tests.support import wait_until


class CuttingProxy:
    """Listens on a free port of 127.0.0.1. `sent` counts the bytes of clients that were passed on."""

    def __init__(self, port: int, *, every: int, cuts: int, waits: bool = True) -> None:
        """`port` is the server's. Cuts a connection after each `every` bytes, `cuts` times in all.

        If `waits`, the server has received what was sent before a cut, so that it does not depend on the machine how
        much is sent again.
        """
        self.server_port = port
        self.sent = 0
        self.cuts = 0
        self._every = every
        self._max_cuts = cuts
        self._waits = waits
        self._lock = threading.Lock()
        self._since = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes `accept`, which `close` would not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        address = ("127.0.0.1", self.server_port)
        with client, contextlib.suppress(OSError), socket.create_connection(address) as server:
            self._forward(client, server)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        with selectors.DefaultSelector() as selector:
            for each in other:
                selector.register(each, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    if key.fileobj is client and self._is_cut(len(data)):
                        if self._waits:
                            wait_until_received(server)
                        return
                    other[key.fileobj].sendall(data)  # type: ignore[index]

    def _is_cut(self, size: int) -> bool:
        with self._lock:
            self._since += size
            if self._since < self._every or self.cuts == self._max_cuts:
                self.sent += size
                return False
            self._since = 0
            self.cuts += 1
            return True


def wait_until_received(connection: socket.socket) -> None:
    """Wait until the peer, on this machine, has taken from the kernel what was sent over IPv4."""
    near, far = (address[1] for address in (connection.getsockname(), connection.getpeername()))
    wait_until("it is received", lambda: not _unreceived(near, far))


def _unreceived(near: int, far: int) -> int:
    """Bytes on the way from one port to another: those that the sender holds, and those that the receiver holds."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        sender, receiver = (int(field.rpartition(":")[2], 16) for field in fields[1:3])
        unacknowledged, unread = (int(size, 16) for size in fields[4].split(":"))
        if (sender, receiver) == (near, far):
            total += unacknowledged
        elif (sender, receiver) == (far, near):
            total += unread
    return total
