"""Passwords: stored as salted scrypt hashes, compared in constant time, hashed by a queue that is fair to clients."""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from filestoraged.errors import Unavailable
from filestoraged.future import Future
from filestoraged.store.serial_executor import Call, SerialExecutor, lower_priority, start_thread

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

# About 50 ms and 16 MiB for each hash.
_COST, _BLOCK = 2**14, 8
_SCRYPT_MEMORY = 64 * 1024 * 1024
_SALT_SIZE = 16

# Queued jobs of one client, which are 5 s of work, and of all clients. A client waits for one job of each other client.
_MAX_QUEUED_PER_CLIENT = 100
_MAX_QUEUED_JOBS = 500

# Lower than the priority of the server's threads, so that hashing uses the processors that they leave idle.
_NICE = 10

# Seconds without a job after which the thread ends.
_PASSWORD_IDLE_TIMEOUT = 5.0


class Passwords:
    """The form in which passwords are stored: a salt, and the hash. `cost` is that of scrypt, and not stored."""

    def __init__(self, *, cost: int = _COST) -> None:
        self._cost = cost

    def kept(self, password: str) -> bytes:
        salt = secrets.token_bytes(_SALT_SIZE)
        return salt + self._hash(password, salt)

    def matches(self, password: str, kept: bytes) -> bool:
        salt, hash_ = kept[:_SALT_SIZE], kept[_SALT_SIZE:]
        return hmac.compare_digest(self._hash(password, salt), hash_)

    def _hash(self, password: str, salt: bytes) -> bytes:
        return hashlib.scrypt(password.encode(), salt=salt, n=self._cost, r=_BLOCK, p=1, maxmem=_SCRYPT_MEMORY)


PASSWORDS = Passwords()


class Guard:
    """Two queues, each with a thread of its own: guesses do not delay uploads. Make it after the fork.

    More threads would take the processors, and 16 MiB each, from all other requests.
    """

    def __init__(self, passwords: Passwords) -> None:
        self.passwords = passwords
        self.uploads = FairQueue()
        self.guesses = FairQueue()

    def keep(self, client: str, password: str) -> Future[bytes]:
        """Queue the making of the form in which a password is stored."""
        return self.uploads.submit(client, functools.partial(self.passwords.kept, password))


class FairQueue(SerialExecutor):
    """Runs one job at a time, of each client in turn, on a thread of low priority.

    A client is identified by any text, such as its address. Any thread calls it.
    """

    def __init__(self) -> None:
        self._jobs = _JobsByClient()
        super().__init__(self._jobs, idle_timeout=_PASSWORD_IDLE_TIMEOUT)

    def submit(self, client: str, work: Callable[[], _Result]) -> Future[_Result]:
        """Queue a job. Raises Unavailable if too many are queued, of this client or of all clients."""
        done: Future[_Result] = Future()
        with self.changed:
            if self._jobs.count(client) >= _MAX_QUEUED_PER_CLIENT or len(self._jobs) >= _MAX_QUEUED_JOBS:
                raise Unavailable("Too many passwords are being checked; retry later.")
            if not self.ensure_thread():
                raise Unavailable("No thread can be started to check passwords; retry later.")
            self._jobs.append(client, functools.partial(_run, work, done))
            self.changed.notify()
        return done

    def _start(self, run: Call) -> threading.Thread | None:
        def run_at_low_priority() -> None:
            lower_priority(_NICE)
            run()

        return start_thread(run_at_low_priority, name="password")

    def _on_error(self, error: BaseException) -> None:
        log.error("a password job failed", exc_info=error)


class _JobsByClient:
    """Queued jobs. `popleft` takes one job of each client in turn."""

    def __init__(self) -> None:
        # In the order in which the clients are served. No deque is empty.
        self._jobs: dict[str, deque[Call]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def count(self, client: str) -> int:
        return len(self._jobs.get(client, ()))

    def append(self, client: str, job: Call) -> None:
        self._jobs.setdefault(client, deque()).append(job)
        self._size += 1

    def popleft(self) -> Call:
        client = next(iter(self._jobs))
        jobs = self._jobs.pop(client)
        job = jobs.popleft()
        self._size -= 1
        if jobs:
            # Behind all other clients.
            self._jobs[client] = jobs
        return job


def _run(work: Callable[[], _Result], done: Future[_Result]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:
        done.set_exception(error)
