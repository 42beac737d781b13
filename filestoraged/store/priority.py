"""Threads that leave the processors to others."""

from __future__ import annotations

import contextlib
import os
import threading


def stand_back(nice: int) -> None:
    """Lower the priority of the thread that calls this: of Linux's threads, each has one of its own. 19 is the lowest.

    A service manager may forbid it; then there is no more to it than that.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
