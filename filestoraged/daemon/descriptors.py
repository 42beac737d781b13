"""How many descriptors this process may have open, and how many connections that is enough for."""

from __future__ import annotations

import contextlib
import resource

# For the listeners, the log, databases and the like, and for whatever the threads have open for a moment. Where there
# are few, a quarter of them.
_RESERVED = 256

# A connection is one, what it stores or fetches another.
_EACH = 2


def raise_limit() -> int:
    """Raise the limit as far as it may be. Returns how many this process may open now."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        # Refused where the hard one is higher than the kernel's own; then the soft one is what there is.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def enough_for(descriptors: int) -> int:
    """How many connections a worker with so many descriptors can serve; one at least."""
    return max(1, (descriptors - min(_RESERVED, descriptors // 4)) // _EACH)
