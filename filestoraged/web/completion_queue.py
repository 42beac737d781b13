"""Connections that wait for a result of somebody else's, and those whose result has come."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from filestoraged.web.connection import Connection

log = logging.getLogger(__name__)


class CompletionQueue:
    """Whoever has a connection hands it over by `expect`; the server's loop gets it back when `bell` can be read."""

    def __init__(self) -> None:
        # Those that still wait.
        self.expected: set[Connection] = set()
        self._woken: deque[Connection] = deque()
        self._rung = False
        self.bell, self._ringer = os.pipe()
        os.set_blocking(self.bell, False)

    def expect(self, connection: Connection, result: Future[Any]) -> None:
        """Have the connection go on when there is a result. From any thread, which has it no longer."""
        self.expected.add(connection)
        result.add_done_callback(lambda _: self._wake(connection))

    def take(self) -> list[Connection]:
        """Those whose results have come. By the loop."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.bell, 64)
        # Before the first is taken: who comes behind the last one rings again.
        self._rung = False
        woken = [self._woken.popleft() for _ in range(len(self._woken))]
        self.expected.difference_update(woken)
        return woken

    @property
    def waiting(self) -> bool:
        """Whether results have come that the loop has not taken yet."""
        return bool(self._woken)

    def ring(self) -> None:
        """Have the loop look around. From any thread. Where that fails, the loop looks by itself before long."""
        if not self._rung:
            self._rung = True
            try:
                os.write(self._ringer, b"!")
            except OSError as error:
                self._rung = False
                log.warning("cannot ring for the server's loop: %s", error.strerror)

    def close(self) -> None:
        # A result may still come, and must not be rung on a descriptor that is something else by then.
        self._rung = True
        os.close(self.bell)
        os.close(self._ringer)

    def _wake(self, connection: Connection) -> None:
        self._woken.append(connection)
        self.ring()
