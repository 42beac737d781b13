"""The limit of open descriptors of this process: what a daemon needs, and how many connections it allows for."""

from __future__ import annotations

import contextlib
import resource

from filestoraged.command_errors import StartError

# Descriptors for listeners, the log, databases, and files that threads open for a moment. Where there are few, a
# quarter of them.
_RESERVED_DESCRIPTORS = 256

# A connection takes one descriptor, the object that it stores or fetches another, and the lock of a resumable upload a
# third.
_PER_CONNECTION = 3

# What a process has open without databases and clients: standard streams, the log, epoll, shared memory, pipes between
# its threads, the store's directory, and the locks that show that it is alive. 20 were counted in a worker.
_PER_PROCESS = 24

# Of SQLite, a writer and a reader, each with the file and its log, their shared memory, and the write lock twice.
# PostgreSQL has fewer.
_PER_DATABASE = 8

# Both ends of the pipe by which the others wake a worker; see web.connection_limit.
_PER_WORKER = 2

# A thread opens a directory beside the object, or another reader of a database with its log.
_PER_THREAD = 2

# Clients at the same time, such as two users, the check of a proxy and an operator.
_MIN_CONNECTIONS = 4


def raise_limit() -> int:
    """Raise the soft limit to the hard one. Returns the limit that then holds."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        # Refused where the hard limit exceeds the kernel's own; the soft limit then stays.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def require(limit: int, *, workers: int, threads: int, listeners: int, databases: int) -> None:
    """Raise StartError where a daemon could not serve a few clients, or not start all of its workers."""
    # Each connection occupies one thread at most.
    clients = _MIN_CONNECTIONS * _PER_CONNECTION + min(threads, _MIN_CONNECTIONS) * _PER_THREAD
    worker = databases * _PER_DATABASE + clients + workers * _PER_WORKER
    # The master keeps the reader of each worker's status pipe besides, and no database.
    needed = _PER_PROCESS + listeners + max(worker, workers * (_PER_WORKER + 1))
    if limit < needed:
        raise StartError(f"the limit of open descriptors is {limit}, and this configuration needs {needed} at least")


def connections(descriptors: int) -> int:
    """Return how many connections a worker with so many descriptors can serve: at least 1."""
    return max(1, (descriptors - min(_RESERVED_DESCRIPTORS, descriptors // 4)) // _PER_CONNECTION)
