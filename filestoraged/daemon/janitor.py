"""What is tidied up in the background: claims of the dead, bytes of drops that are gone, drops whose time is over."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Callable

from filestoraged.errors import NotFound
from filestoraged.store.contract import Store
from filestoraged.store.drops import Drops

log = logging.getLogger(__name__)

# Seconds between two rounds: the bytes of what was fetched are gone well within ten.
_PAUSE = 3.0


class Janitor:
    """A thread of each worker. Several do each other no harm, and none of them holds the database for long."""

    def __init__(self, drops: Drops, store: Store) -> None:
        """`store` has the bytes of the drops."""
        self._drops = drops
        self._store = store
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ends.set()
        self._thread.join()

    def tidy_up(self) -> None:
        """One round: all that there is to be done now, step by step."""
        steps: "tuple[Callable[[], int], ...]" = (
            lambda: self._drops.reap(self._remove),
            self._drops.expire,
            lambda: self._drops.remove(self._remove),
            self._drops.forget,
        )
        for step in steps:
            while not self._ends.is_set() and step():
                pass

    def _run(self) -> None:
        while True:
            try:
                self.tidy_up()
            except Exception as error:
                log.warning("tidying up failed, and is tried again: %s", error)
            if self._ends.wait(_PAUSE):
                return

    def _remove(self, id_: str) -> None:
        with contextlib.suppress(NotFound):
            self._store.remove(id_)
