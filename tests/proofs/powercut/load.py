"""The clients of a round: each sends requests one after the other until the power is cut."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from tests.daemon.process import PATIENCE
from tests.proofs.powercut.record import Drop, Keys, Record, State

KIB = 1024
MIB = 1024 * KIB

# Small uploads wait for one flush together.
_SMALL_SIZES = (KIB, 64 * KIB)
_MAX_LARGER_SIZE = 5 * MIB

# Several clients upload the same objects, which nobody removes.
_SHARED_BODIES = 200

# One upload that is in flight while the others are, in pieces at 48 MiB/s, so that some are complete before the cut.
_SLOW_SIZE = 64 * MIB
_SLOW_PIECE = MIB
_SLOW_PAUSE = 1 / 48

# Of a client to each daemon, whose workers accept any of them.
_CONNECTIONS = 2

_KEYS_PER_CLIENT = 8
_DROPS = "/vimeo/api/v1.0/file"

# Random bytes from which bodies are cut.
_NOISE = random.Random("noise").randbytes(_MAX_LARGER_SIZE)

_NO_FIELDS: Mapping[str, str] = {}


class _Stopped(Exception):
    """A client that is to stop is in the middle of a request."""


class Connection:
    """Kept-alive connections to each port, made again after an error. A request takes any of them."""

    def __init__(self, ports: Sequence[int], random_: random.Random | None = None) -> None:
        self._random = random_ or random.Random()
        self._clients = [
            http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            for port in ports
            for _ in range(_CONNECTIONS)
        ]

    def ask(
        self, method: str, path: str, body: bytes | Iterator[bytes] = b"", fields: Mapping[str, str] = _NO_FIELDS
    ) -> tuple[int, bytes]:
        status, _, answer = self._request(method, path, body, fields)
        return status, answer

    def exchange(
        self, method: str, path: str, body: bytes, fields: Mapping[str, str]
    ) -> tuple[int, http.client.HTTPMessage]:
        """As `ask` does, for the header fields of the response."""
        status, found, _ = self._request(method, path, body, fields)
        return status, found

    def _request(
        self, method: str, path: str, body: bytes | Iterator[bytes], fields: Mapping[str, str]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        client = self._random.choice(self._clients)
        try:
            client.request(method, path, body, fields)
            response = client.getresponse()
            return response.status, response.headers, response.read()
        except BaseException:
            client.close()
            raise

    def close(self) -> None:
        for client in self._clients:
            client.close()


class Client(ABC):
    """One thread runs it. `name` is used by no other client of any round."""

    def __init__(self, ports: Sequence[int], record: Record, name: str, random_: random.Random) -> None:
        self.connection = Connection(ports, random_)
        self.record = record
        self.name = name
        self.random = random_
        self.stop = threading.Event()
        self._bodies = 0

    def run(self, stop: threading.Event) -> None:
        """Send requests until `stop` is set."""
        self.stop = stop
        while not self.is_done():
            try:
                self.step()
            except _Stopped:
                break
            except (OSError, http.client.HTTPException) as error:
                self.record.refuse(f"{type(self).__name__}: {error!r}")
                stop.wait(0.01)
        self.connection.close()

    def is_done(self) -> bool:
        return self.stop.is_set()

    @abstractmethod
    def step(self) -> None:
        """Send one request and record the response."""

    def new_body(self, size: int) -> bytes:
        self._bodies += 1
        return body_of(f"{self.name}.{self._bodies}", size)

    def is_acknowledged(self, status: int, expected: int, what: str) -> bool:
        if status != expected:
            self.record.refuse(f"{what}: status {status}, expected {expected}")
            return False
        return self.record.acknowledge(what)


class ObjectClient(Client):
    """Uploads to files and to repositories, of which half are new, and removes some of what it has uploaded."""

    def __init__(self, ports: Sequence[int], record: Record, name: str, random_: random.Random) -> None:
        super().__init__(ports, record, name, random_)
        # Bodies by the path of their objects, which no other client uploads.
        self._own: dict[str, bytes] = {}
        self._removed: dict[str, bytes] = {}

    def step(self) -> None:
        chance = self.random.random()
        if self._own and chance < 0.2:
            self._remove()
        elif self._removed and chance < 0.25:
            self._upload_again()
        elif chance < 0.35:
            self._upload_shared()
        else:
            body = self.new_body(self.new_size())
            self._upload(self._new_place(), body, self._own)

    def new_size(self) -> int:
        return self.random.choice(_SMALL_SIZES)

    def _new_place(self) -> str:
        """The path to upload to: files, a repository of all clients, or a new one."""
        return self.random.choice(("/", "/", "/data/shared", f"/data/r{self.name}.{self._bodies}"))

    def _upload(self, place: str, body: bytes, owned: dict[str, bytes] | None) -> None:
        """Upload a body, and put it into `owned` if it is acknowledged."""
        path = f"{place.rstrip('/')}/{hashlib.sha256(body).hexdigest()}"
        self.record.begin_upload(path)
        method, expected = ("POST", 200) if place == "/" else ("PUT", 201)
        status, _ = self.connection.ask(method, place, body)
        if self.is_acknowledged(status, expected, f"uploads of {describe_size(len(body))}"):
            self.record.objects[path] = State.STORED
            if owned is not None:
                owned[path] = body

    def _upload_shared(self) -> None:
        number = self.random.randrange(_SHARED_BODIES)
        self._upload("/", body_of(f"shared {number}", _SMALL_SIZES[number % 2]), None)

    def _upload_again(self) -> None:
        path = self.random.choice(list(self._removed))
        self._upload(path[: path.rindex("/")] or "/", self._removed.pop(path), self._own)

    def _remove(self) -> None:
        path = self.random.choice(list(self._own))
        body = self._own.pop(path)
        self.record.begin_removal(path)
        status, _ = self.connection.ask("DELETE", path)
        if self.is_acknowledged(status, 200, "removals"):
            self.record.objects[path] = State.REMOVED
            self._removed[path] = body


class LargerObjectClient(ObjectClient):
    def new_size(self) -> int:
        return int(64 * KIB * (_MAX_LARGER_SIZE / (64 * KIB)) ** self.random.random())


class SlowClient(ObjectClient):
    """Uploads one large object after the other, slowly, and removes each that is stored."""

    def step(self) -> None:
        self._upload_slowly()
        if self._own:
            self._remove()

    def _upload_slowly(self) -> None:
        first = self.new_body(_SLOW_PIECE)
        hasher = hashlib.sha256()
        for _ in range(_SLOW_SIZE // _SLOW_PIECE):
            hasher.update(first)
        path = f"/data/large/{hasher.hexdigest()}"
        self.record.begin_upload(path)
        fields = {"Content-Length": str(_SLOW_SIZE)}
        status, _ = self.connection.ask("PUT", "/data/large", self._pieces(first), fields)
        if self.is_acknowledged(status, 201, f"uploads of {describe_size(_SLOW_SIZE)}"):
            self.record.objects[path] = State.STORED
            self._own[path] = b""

    def _pieces(self, piece: bytes) -> Iterator[bytes]:
        for _ in range(_SLOW_SIZE // _SLOW_PIECE):
            yield piece
            if self.stop.wait(_SLOW_PAUSE):
                # The upload breaks off, with the connection.
                raise _Stopped


class DropClient(Client):
    def __init__(self, ports: Sequence[int], record: Record, name: str, random_: random.Random) -> None:
        super().__init__(ports, record, name, random_)
        self._own: list[str] = []

    def step(self) -> None:
        if self._own and self.random.random() < 0.4:
            self._fetch()
        else:
            self._upload()

    def _upload(self) -> None:
        body = self.new_body(self.random.choice((KIB, 64 * KIB, MIB)))
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="name"\r\n\r\n'
        fields = {"Content-Type": "multipart/form-data; boundary=b"}
        status, answer = self.connection.ask("PUT", _DROPS, head + body + b"\r\n--b--\r\n", fields)
        if self.is_acknowledged(status, 201, "drops"):
            id_ = json.loads(answer)["url"].rpartition("/")[2]
            self.record.drops[id_] = Drop(hashlib.sha256(body).hexdigest())
            self._own.append(id_)

    def _fetch(self) -> None:
        id_ = self._own.pop(self.random.randrange(len(self._own)))
        drop = self.record.drops[id_]
        drop.state = State.EITHER
        status, body = self.connection.ask("GET", f"{_DROPS}/{id_}")
        if hashlib.sha256(body).hexdigest() != drop.digest:
            self.record.refuse(f"a drop was not sent whole: status {status}, {len(body)} bytes")
        elif self.is_acknowledged(status, 200, "fetched drops"):
            drop.state, drop.fetched = State.REMOVED, time.monotonic()


class KeyClient(Client):
    """Sets and deletes keys of its own, and commits. Stops at the first error: its change may be queued or not."""

    def __init__(self, ports: Sequence[int], record: Record, name: str, random_: random.Random) -> None:
        super().__init__(ports, record, name, random_)
        self._keys = record.keys[name] = Keys()
        self._is_certain = True

    def is_done(self) -> bool:
        return super().is_done() or not self._is_certain

    def step(self) -> None:
        self._is_certain = False
        chance = self.random.random()
        if chance < 0.3:
            self._commit()
        elif chance < 0.4:
            self._change("DELETE", None)
        else:
            self._change("POST", {"number": self._bodies, "padding": "x" * int(2 ** self.random.uniform(0, 14))})
        self._bodies += 1

    def _commit(self) -> None:
        covered = len(self._keys.changes)
        status, _ = self.connection.ask("POST", "/kv/commit")
        if self.is_acknowledged(status, 204, "commits"):
            self._keys.committed = covered
            self._is_certain = True

    def _change(self, method: str, value: object) -> None:
        key = f"{self.name}-{self.random.randrange(_KEYS_PER_CLIENT)}"
        self._keys.changes.append((key, value))
        body = json.dumps(key if value is None else {key: value}).encode()
        status, _ = self.connection.ask(method, "/kv/set", body)
        # 201 announces a new key.
        self._is_certain = self.is_acknowledged(200 if status == 201 else status, 200, "queued keys")


# The clients of a round.
_CLIENTS: tuple[type[Client], ...] = (
    *(16 * (ObjectClient,)),
    *(2 * (LargerObjectClient,)),
    SlowClient,
    *(2 * (DropClient,)),
    *(2 * (KeyClient,)),
)


class Load:
    """All clients of a round, each on a thread. As a context, stops them at the end."""

    def __init__(self, ports: Sequence[int], record: Record, name: str, more: Sequence[type[Client]] = ()) -> None:
        """`more` are clients besides those of this module."""
        self._stop = threading.Event()
        clients = [
            client(ports, record, f"{name}.{number}", random.Random(f"{name}.{number}"))
            for number, client in enumerate((*_CLIENTS, *more))
        ]
        self._threads = [threading.Thread(target=client.run, args=(self._stop,)) for client in clients]
        # Its requests are answered after all others.
        self._last = ObjectClient(ports, record, f"{name}.last", random.Random(name))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Wait until the requests in flight are answered or have failed."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def finish_with_one(self) -> None:
        """Wait until no request is in flight, and then for one small upload."""
        self.finish()
        self._last.step()
        self._last.connection.close()


def body_of(name: str, size: int) -> bytes:
    """A body of `size` bytes that no other name has."""
    mark = f"{name} ".encode()
    return mark + _NOISE[: size - len(mark)]


def describe_size(size: int) -> str:
    """The class of a size in the counts."""
    if size in _SMALL_SIZES:
        return f"{size // KIB} KiB"
    return f"{size // MIB} MiB" if size > _MAX_LARGER_SIZE else "up to 5 MiB"
