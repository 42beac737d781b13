"""Passwords: kept as salted scrypt, compared in constant time, and computed so that guessing starves nobody."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, TypeVar

from filestoraged.errors import Unavailable
from filestoraged.store.priority import stand_back

_Result = TypeVar("_Result")

# Some 50 ms and 16 MiB each.
_COST, _BLOCK = 2**14, 8
_MEMORY = 64 * 1024 * 1024
_SALT_SIZE = 16

# At once in one process: more would take the processors, and 16 MiB each, from everybody else.
_AT_ONCE = 2

# Behind these: some five seconds' worth.
_WAITING = 200


def kept(password: str) -> bytes:
    """What is kept of a password: a salt, and the hash."""
    salt = secrets.token_bytes(_SALT_SIZE)
    return salt + _hash(password, salt)


def matches(password: str, kept_: bytes) -> bool:
    salt, hash_ = kept_[:_SALT_SIZE], kept_[_SALT_SIZE:]
    return hmac.compare_digest(_hash(password, salt), hash_)


class Guard:
    """Does what takes a hash, on two threads that leave the processors to others. Make it after the fork."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_AT_ONCE, "password", initializer=stand_back, initargs=(10,))
        self._room = threading.Semaphore(_WAITING)

    def submit(self, work: Callable[[], _Result]) -> "Future[_Result]":
        """Raises Unavailable where many wait already."""
        if not self._room.acquire(blocking=False):
            raise Unavailable("Too many passwords are being checked.")
        result = self._threads.submit(work)
        result.add_done_callback(lambda _: self._room.release())
        return result


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=_COST, r=_BLOCK, p=1, maxmem=_MEMORY)
