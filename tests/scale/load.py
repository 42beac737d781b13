"""Clients of all interfaces at the same time, which note what they were told."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import threading
import uuid
from collections.abc import Callable, Iterator

from tests.scale.ledger import DropRecord, Ledger
from tests.scale.program import PATIENCE
from tests.scale.requests import Record, Requests
from tests.support import in_threads
from tests.tus import OCTETS, VERSION

_FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n%b\r\n--x--\r\n'
_DROPS = "/vimeo/api/v1.0/file"

# Between two requests of one client: the point is what happens to each, not how many there are.
_PAUSE = 0.02


class Load:
    """Clients for the length of a block."""

    def __init__(self, requests: Requests, ledger: Ledger) -> None:
        self._requests = requests
        self._ledger = ledger
        self._ended = threading.Event()
        self._run = uuid.uuid4().hex[:8]
        self._repository = f"/data/load-{self._run}"
        # Two keys that are set now, and committed together.
        self._pair = self._keys(0)
        # Such a request may still be carried out, by a daemon that hung, between the two sets of a later pair.
        self._has_failed_commit = False
        clients = (
            *(self._upload, self._put, self._download, self._resume),
            *(self._write_keys, self._read_keys, self._drop, self._ask),
        )
        self._threads = [threading.Thread(target=self._repeat, args=(client,), daemon=True) for client in clients]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join(2 * PATIENCE)
            if any(thread.is_alive() for thread in self._threads):
                self._ledger.violate("a client hangs")

    def _repeat(self, client: Callable[[int], None]) -> None:
        for number in itertools.count():
            try:
                client(number)
            except Exception as error:
                self._ledger.violate(f"{client.__name__}: {error!r}")
                return
            if self._ended.wait(_PAUSE):
                return

    def _upload(self, number: int) -> None:
        data = os.urandom(_size(number))
        answer = self._requests.send("files put", "POST", "/", data)
        self._ledger.add_object(f"/{_digest(data)}", data, acknowledged=answer.status == 200)

    def _put(self, number: int) -> None:
        data = os.urandom(_size(number))
        answer = self._requests.send("repositories put", "PUT", self._repository, data)
        self._ledger.add_object(f"{self._repository}/{_digest(data)}", data, acknowledged=answer.status == 201)

    def _download(self, number: int) -> None:
        chosen = self._ledger.some_object(random.randrange(1_000_000))
        if chosen is None:
            return
        path, digest = chosen
        answer = self._requests.send("files get", "GET", path)
        if answer.status == 404:
            self._ledger.violate(f"lost: {path}")
        elif answer.status == 200 and _digest(answer.body) != digest:
            self._ledger.violate(f"wrong bytes: {path}")

    def _write_keys(self, number: int) -> None:
        """Set two new keys, the left one first, and commit them, each as often as it takes.

        A request that failed may still be carried out, and even after the next one. For a set, that changes nothing.
        """
        self._pair = keys = self._keys(number)
        for key in keys:
            self._insist("kv set", "/kv/set", json.dumps({key: number}).encode())
        if self._insist("kv commit", "/kv/commit", b""):
            self._ledger.commit(keys, number)

    def _insist(self, kind: str, path: str, body: bytes) -> bool:
        """Return whether the request succeeded before the end of the load."""
        while self._requests.send(kind, "POST", path, body).failed:
            self._has_failed_commit |= kind == "kv commit"
            if self._ended.wait(_PAUSE):
                return False
        return True

    def _keys(self, number: int) -> tuple[str, str]:
        return f"left-{self._run}-{number}", f"right-{self._run}-{number}"

    def _read_keys(self, number: int) -> None:
        """Read one key, then the other, which exists if the first does.

        A commit that is carried out late can show the left key alone, which was queued first, but not the right one.
        """
        first, second = self._pair if number % 2 else self._pair[::-1]
        was_committed = first in self._ledger.keys
        before = self._requests.send("kv get", "GET", f"/kv/{first}")
        after = self._requests.send("kv get", "GET", f"/kv/{second}")
        if was_committed and 404 in (before.status, after.status):
            self._ledger.violate(f"stale read of {first}, which was committed before")
        is_late_commit = self._has_failed_commit and first.startswith("left-")
        if (before.status, after.status) == (200, 404) and not is_late_commit:
            self._ledger.violate(f"half a commit: {first} without {second}")

    def _drop(self, number: int) -> None:
        """Create a drop, for which two clients race."""
        data = os.urandom(_size(number))
        fields = {"Content_Type": "multipart/form-data; boundary=x"}
        answer = self._requests.send("drops put", "PUT", _DROPS, _FORM % data, **fields)
        if answer.status == 201:
            drop = self._ledger.add_drop(json.loads(answer.body)["url"].partition(_DROPS)[2], data)
            in_threads(2, lambda _: claim(self._requests, self._ledger, drop))

    def _resume(self, number: int) -> None:
        """Upload in pieces, each from where the service says. An offset that was told is never taken back."""
        data = os.urandom(_size(number))
        created = self._requests.send(
            "uploads ask", "POST", "/uploads", b"", Tus_Resumable=VERSION, Upload_Length=str(len(data))
        )
        if created.status != 201:
            return
        path = "/uploads/" + created.fields["location"].rpartition("/")[2]
        offset = 0
        while offset < len(data) and not self._ended.is_set():
            told, offset = offset, self._append(path, offset, data[offset : offset + len(data) // 3 + 1])
            if offset < told:
                self._ledger.violate(f"an offset was taken back: {offset} after {told}")
        if offset == len(data):
            self._ledger.add_object(f"/{_digest(data)}", data, acknowledged=True)

    def _append(self, path: str, offset: int, piece: bytes) -> int:
        """Add a piece to an upload. Returns the offset that the service tells afterwards."""
        fields = {"Tus_Resumable": VERSION, "Upload_Offset": str(offset), "Content_Type": OCTETS}
        self._requests.send("uploads patch", "PATCH", path, piece, **fields)
        found = self._requests.send("uploads ask", "HEAD", path, Tus_Resumable=VERSION)
        if found.status != 200:
            self._ended.wait(_PAUSE)
            return offset
        return int(found.fields["upload-offset"])

    def _ask(self, number: int) -> None:
        self._requests.send("health", "GET", "/-/health")


def claim(requests: Requests, ledger: Ledger, drop: DropRecord) -> Record:
    """Fetch a drop, and note whether it was given."""
    answer = requests.send("drops get", "GET", f"{_DROPS}{drop.path}")
    if answer.status == 404:
        ledger.violate("lost: a drop")
    if answer.status == 200 and answer.body != drop.data:
        ledger.violate("wrong bytes: a drop")
    if answer.status == 200:
        drop.given.append(answer)
    return answer


def _size(number: int) -> int:
    """Sizes of small, staged and large objects in turn."""
    return (1000, 70_000, 10_000, 2_000_000)[number % 4]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
