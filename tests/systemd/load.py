"""Clients that never rest: half of them keep their connections, the others have one for each request."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import threading
from collections import Counter
from collections.abc import Iterator

from tests.systemd.machine import PATIENCE, PORT, wait_until


class Load:
    """Uploads and downloads in turn, until `enough` and told to end.

    A connection that was kept and is closed before a byte of the answer came is no failure: a server may close one that
    rests while a request is on its way, and a client asks again on another one (RFC 9112, section 9.3.1).
    """

    def __init__(self, enough: int, clients: int = 8) -> None:
        self.enough = enough
        self._clients = clients
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._may_end = threading.Event()

    @property
    def done(self) -> int:
        return self.counts["GET"] + self.counts["PUT"]

    def __str__(self) -> str:
        again, failed = self.counts["asked again"], sum(self.faults.values())
        requests = f"{self.counts['PUT']} PUT and {self.counts['GET']} GET by {self.counts['connections']} connections"
        return f"{requests}, {again} asked again, {failed} failed"

    def wait_for(self, done: int) -> None:
        wait_until(f"{done} requests", lambda: self.done >= done, 6 * PATIENCE)

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        threads = [
            threading.Thread(target=self._work, args=(each % 2 == 0,), daemon=True) for each in range(self._clients)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._may_end.set()
            for thread in threads:
                thread.join(6 * PATIENCE)
            if any(thread.is_alive() for thread in threads):
                self.faults["a client hangs"] += 1

    def _work(self, keeps: bool) -> None:
        with contextlib.closing(_Client(keeps)) as client:
            while self.done < self.enough or not self._may_end.is_set():
                body = os.urandom(1024)
                oid = hashlib.sha256(body).hexdigest()
                self._ask(client, "PUT", "/data/load", body, oid.encode())
                self._ask(client, "GET", f"/data/load/{oid}", None, body)
                if sum(self.faults.values()) > 100:
                    return

    def _ask(self, client: _Client, method: str, path: str, body: bytes | None, wanted: bytes) -> None:
        """Ask, and see that it succeeds and that the answer has what is wanted."""
        fault = ""
        try:
            status, received = client.ask(method, path, body)
            if status not in (200, 201) or wanted not in received:
                fault = f"{method}: {status} {received[:200]!r}"
        except (OSError, http.client.HTTPException) as error:
            fault = f"{method}: {error!r}"
        with self._lock:
            self.counts[method] += 1
            self.counts["asked again"] += client.asked_again
            self.counts["connections"] += client.connections
            client.asked_again = client.connections = 0
            if fault:
                self.faults[fault] += 1


class _Client:
    def __init__(self, keeps: bool) -> None:
        self.keeps = keeps
        # Since somebody has counted them.
        self.asked_again = 0
        self.connections = 0
        self._connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            answer = self._begin(method, path, body)
            return answer.status, answer.read()
        except BaseException:
            self._connection.close()
            raise
        finally:
            if not self.keeps:
                self._connection.close()

    def close(self) -> None:
        self._connection.close()

    def _begin(self, method: str, path: str, body: bytes | None) -> http.client.HTTPResponse:
        was_kept = self._connection.sock is not None
        self.connections += not was_kept
        try:
            self._connection.request(method, path, body)
            return self._connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            if not was_kept:
                raise
        self._connection.close()
        self.asked_again += 1
        self.connections += 1
        self._connection.request(method, path, body)
        return self._connection.getresponse()
