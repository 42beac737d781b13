"""Which segments of an upload become one, so that a client of small requests does not leave an object for each.

Every request reads the rows of all segments. With one for each byte, the cost of an upload would grow as the square of
its requests, and its removal would take as many requests to the S3 store.
"""

from __future__ import annotations

from collections.abc import Sequence

# Fewer than this are left: each byte is stored again once for so many times as many bytes.
_MIN_SEGMENTS = 8

# What one request reads at most, one segment after the other. More are left to the next request.
_MAX_SEGMENTS = 64

# In bytes. A request waits while so many are read and stored. Segments of more than an eighth of it stay as they are:
# an upload has about one for each 4 MiB.
_MAX_SIZE = 32 * 1024 * 1024


def count_to_join(sizes: Sequence[int]) -> int:
    """Return how many segments at the end become one, 0 for none.

    None is larger than all behind it, so that what was joined is not joined again for each byte.
    """
    total = count = 0
    for size in reversed(sizes[-_MAX_SEGMENTS:]):
        if (count and size > total) or total + size > _MAX_SIZE:
            break
        total += size
        count += 1
    return count if count >= _MIN_SEGMENTS else 0
