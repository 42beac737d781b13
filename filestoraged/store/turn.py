"""Whose turn it is to write to a database, of all processes that share it, and how often something was committed."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from typing import Iterator

_COUNT_SIZE = 8


class Turn:
    """A small file beside the database: its lock, and a count of commits that every process reads as it reads memory.

    A with-block waits for the turn, in the kernel and in order, where SQLite's own lock is asked for again and again.
    Make it after the fork; one thread of a process takes turns, any reads the count.
    """

    def __init__(self, database: str) -> None:
        self._descriptor = os.open(database + ".turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.ftruncate(self._descriptor, _COUNT_SIZE)
        self._count = memoryview(mmap.mmap(self._descriptor, _COUNT_SIZE)).cast("Q")

    def __enter__(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    @property
    def commits(self) -> int:
        """As long as this stays the same and even, nothing was committed. Odd, a commit may be under way."""
        return self._count[0]

    @contextlib.contextmanager
    def committing(self) -> Iterator[None]:
        """Count a commit, before and behind it. Within the turn.

        Killed in between, a process leaves the count odd: nobody trusts what he remembers then, until the next commit.
        """
        self._count[0] |= 1
        yield
        self._count[0] += 1

    def close(self) -> None:
        os.close(self._descriptor)
