"""Changes of keys that wait for the writer of a database, and who submits them, whichever database has the keys."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod

from filestoraged.future import Future


class JobKind(enum.Enum):
    SET = "set"
    DELETE = "delete"
    COMMIT = "commit"
    PROBE = "probe"


class KeyJob(Future[bool]):
    """A change of one caller. A set has a key and a value, a deletion a key.

    The result of a set is whether the commit will create the key.
    """

    __slots__ = ("key", "kind", "value")

    def __init__(self, kind: JobKind, key: bytes = b"", value: bytes | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.key = key
        self.value = value


class KeyChanges(ABC):
    """Keys are strings that UTF-8 can encode, values are bytes. Any thread calls it.

    Methods that return a future raise StoreUnavailable if the job cannot be queued.
    """

    def set(self, key: str, value: bytes) -> Future[bool]:
        """Queue a value. The future has whether the commit will create the key."""
        return self._queued(KeyJob(JobKind.SET, key.encode(), value))

    def delete(self, key: str) -> Future[bool]:
        """Queue a deletion. The key may be missing."""
        return self._queued(KeyJob(JobKind.DELETE, key.encode()))

    def commit(self) -> Future[bool]:
        """Make all queued changes visible, in their order."""
        return self._queued(KeyJob(JobKind.COMMIT))

    def _queued(self, job: KeyJob) -> KeyJob:
        self._submit(job)
        return job

    @abstractmethod
    def _submit(self, job: KeyJob) -> None:
        """Queue a job. Raises StoreUnavailable."""
