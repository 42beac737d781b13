"""The limit of open descriptors of this process, and how many connections it allows for."""

from __future__ import annotations

import contextlib
import resource

# Descriptors for listeners, the log, databases, and files that threads open for a moment. Where there are few, a
# quarter of them.
_RESERVED_DESCRIPTORS = 256

# A connection takes one descriptor, the object that it stores or fetches another, and the lock of a resumable upload a
# third.
_PER_CONNECTION = 3


def raise_limit() -> int:
    """Raise the soft limit to the hard one. Returns the limit that then holds."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        # Refused where the hard limit exceeds the kernel's own; the soft limit then stays.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connections(descriptors: int) -> int:
    """Return how many connections a worker with so many descriptors can serve: at least 1."""
    return max(1, (descriptors - min(_RESERVED_DESCRIPTORS, descriptors // 4)) // _PER_CONNECTION)
