"""Which system calls of a simulated machine fail, by the seed."""

from __future__ import annotations

import errno
from random import Random

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

# What a call may fail with. The standard library repeats a call that a signal interrupts, except those of ctypes.
_ERRORS: dict[str, tuple[int, ...]] = {
    "open": (errno.EMFILE, errno.EIO),
    "create": (errno.EMFILE, *_FULL),
    "write": _FULL,
    "pwrite": _FULL,
    "link": _FULL,
    "rename": _FULL,
    "mkdir": _FULL,
    "unlink": (errno.EIO,),
    "rmdir": (errno.EIO,),
    "stat": (errno.EIO,),
    "lstat": (errno.EIO,),
    "listdir": (errno.EIO, errno.EMFILE),
    "read": (errno.EIO,),
    "pread": (errno.EIO,),
    "preadv": (errno.EAGAIN, errno.EIO),
    "fsync": _FULL,
    "fdatasync": _FULL,
    "syncfs": (errno.EIO, errno.ENOSPC, errno.EINTR),
}


class Faults:
    """Lets each call fail with a chance, and none by default. `kinds` are the calls that may."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._kinds: dict[str, float] = {}
        # How many have failed.
        self.count = 0
        # The chance that a write is cut short, and that a sync that fails ends the file system.
        self.short_writes = 0.0
        self.aborts = 0.0

    def allow(self, *kinds: str, chance: float) -> None:
        self._kinds.update(dict.fromkeys(kinds or _ERRORS, chance))

    def stop(self) -> None:
        self._kinds.clear()
        self.short_writes = self.aborts = 0.0

    def choose(self, call: str) -> int:
        """The error of a call, 0 for none."""
        chance = self._kinds.get(call)
        if not chance or self._random.random() >= chance:
            return 0
        self.count += 1
        return self._random.choice(_ERRORS[call])

    def is_abort(self) -> bool:
        """Whether a sync fails because the journal of the file system cannot be written."""
        if not self.aborts or self._random.random() >= self.aborts:
            return False
        self.count += 1
        return True

    def length(self, size: int) -> int:
        """How many of so many bytes are written by one call."""
        if size > 1 and self.short_writes and self._random.random() < self.short_writes:
            return self._random.randrange(1, size)
        return size
