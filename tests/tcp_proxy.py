"""A TCP proxy that breaks connections when a test wants, in the middle of what passes."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.support import free_port


class TcpProxy:
    """Passes bytes on between clients and the server at a port of 127.0.0.1."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._is_cut = False
        # What the server must not answer: the connections of a client that sends it are broken behind it.
        self._trigger: bytes | None = None
        # What that connection has sent before.
        self._before = b""
        self.triggered = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def break_behind(self, text: bytes, *, before: bytes = b"") -> None:
        """The server gets the next message that has the text, and its answer is lost with the connection.

        Only a connection counts that has sent `before` until then.
        """
        self.triggered.clear()
        self._before = before
        self._trigger = text

    def cut(self) -> None:
        """Break all connections, and refuse others."""
        with self._lock:
            self._is_cut = True
        self._break_all()

    def mend(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        self._listener.close()
        self._break_all()

    def _break_all(self) -> None:
        with self._lock:
            broken, self._sockets = self._sockets, set()
        for each in broken:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            with self._lock:
                # It may have been cut since.
                is_cut = self._is_cut
                if not is_cut:
                    self._sockets |= {client, server}
            if is_cut:
                client.close()
                server.close()
                continue
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_client: bool) -> None:
        is_meant = False
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                is_meant = is_meant or (self._trigger is not None and self._before in data)
                if is_client and is_meant and self._trigger is not None and self._trigger in data:
                    self._trigger = None
                    # Nothing comes back: the answer is not read any more.
                    with contextlib.suppress(OSError):
                        source.shutdown(socket.SHUT_RDWR)
                    target.sendall(data)
                    self.triggered.set()
                    # The server sees the end after it has done the work.
                    break
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_WR)
        with self._lock:
            self._sockets -= {source}
        source.close()
