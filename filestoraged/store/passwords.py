"""Passwords: kept as salted scrypt, compared in constant time, and computed so that guessing starves nobody."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from filestoraged.errors import Unavailable
from filestoraged.store.priority import stand_back

_Result = TypeVar("_Result")

# Some 50 ms and 16 MiB each.
_COST, _BLOCK = 2**14, 8
_MEMORY = 64 * 1024 * 1024
_SALT_SIZE = 16

# Jobs of one client that wait: 5 s of work. And of all clients: each waits for one job of every other client.
_WAITING_OF_ONE = 100
_WAITING = 500

# Below the server's threads, so that hashing uses the processors that they leave.
_NICE = 10

# A thread that gets nothing for so many seconds ends.
_PATIENCE = 5.0


def kept(password: str) -> bytes:
    """What is kept of a password: a salt, and the hash."""
    salt = secrets.token_bytes(_SALT_SIZE)
    return salt + _hash(password, salt)


def matches(password: str, kept_: bytes) -> bool:
    salt, hash_ = kept_[:_SALT_SIZE], kept_[_SALT_SIZE:]
    return hmac.compare_digest(_hash(password, salt), hash_)


class Guard:
    """Two queues, each with a thread of its own: guesses do not delay uploads. Make it after the fork.

    More threads would take the processors, and 16 MiB each, from all other requests.
    """

    def __init__(self) -> None:
        self.uploads = FairQueue()
        self.guesses = FairQueue()


class _Job(NamedTuple):
    work: Callable[[], Any]
    done: Future[Any]


class FairQueue:
    """Does one job at a time, of one client after the other, on a thread that leaves the processors to others.

    A client is known by any text, such as its address. The lock guards what follows.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # By client, in the order in which they are served; none is empty.
        self._waiting: dict[str, deque[_Job]] = {}
        self._size = 0
        self._thread: threading.Thread | None = None

    def submit(self, client: str, work: Callable[[], _Result]) -> Future[_Result]:
        """Raises Unavailable where many wait already, of this client or of all."""
        job = _Job(work, Future())
        with self._changed:
            own = self._waiting.get(client, ())
            if len(own) >= _WAITING_OF_ONE or self._size >= _WAITING:
                raise Unavailable("Too many passwords are being checked; retry later.")
            self._ensure_thread()
            self._waiting.setdefault(client, deque()).append(job)
            self._size += 1
            self._changed.notify()
        return job.done

    def _ensure_thread(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="password", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise Unavailable("No thread can be started to check passwords; retry later.") from error
        self._thread = thread

    def _run(self) -> None:
        stand_back(_NICE)
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._waiting, _PATIENCE):
                    self._thread = None
                    return
                job = self._next()
            try:
                job.done.set_result(job.work())
            except Exception as error:
                job.done.set_exception(error)

    def _next(self) -> _Job:
        client = next(iter(self._waiting))
        jobs = self._waiting.pop(client)
        job = jobs.popleft()
        self._size -= 1
        if jobs:
            # Behind all others.
            self._waiting[client] = jobs
        return job


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=_COST, r=_BLOCK, p=1, maxmem=_MEMORY)
