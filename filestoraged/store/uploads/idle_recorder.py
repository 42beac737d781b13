"""Records what arrived of requests whose clients fell silent, so that it counts for the one that takes over.

A client whose network has gone is soon back by another way, and finds another daemon, which cannot read the file in
which the silent request has its last bytes.
"""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from filestoraged.clock import Clock
from filestoraged.store.serial_executor import start_thread

log = logging.getLogger(__name__)

# Seconds between two looks at them.
_INTERVAL = 0.5


class Recordable(Protocol):
    def record_if_idle(self) -> None: ...


class IdleRecorder:
    """One thread for all requests of a process; it ends when there are none. The lock guards their table."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._contents: dict[Recordable, None] = {}
        self._thread: threading.Thread | None = None

    def add(self, content: Recordable) -> None:
        """It has bytes that are not recorded."""
        with self._lock:
            self._contents[content] = None
            if self._thread is None:
                # If the system refuses a thread, the next call tries again.
                self._thread = start_thread(self._run, name="recorder")

    def discard(self, content: Recordable) -> None:
        with self._lock:
            self._contents.pop(content, None)

    def _run(self) -> None:
        while True:
            self._clock.sleep(_INTERVAL)
            with self._lock:
                contents = list(self._contents)
                if not contents:
                    self._thread = None
                    return
            for each in contents:
                _record(each)


def _record(content: Recordable) -> None:
    try:
        content.record_if_idle()
    except Exception:
        log.exception("cannot record what a silent request has sent")
