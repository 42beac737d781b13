"""One process's share of the serving: a server with its loop on a thread of its own."""

from __future__ import annotations

import threading

from filestoraged.web.server import Server


class Worker:
    """Make it after the fork. `start`, then `drain`; both are called by the main thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, name="loop", daemon=True)

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def drain(self, timeout: float) -> bool:
        """Accept nothing more, and finish what is under way. Returns whether that took at most `timeout` seconds."""
        drained = self._server.drain(timeout)
        self._thread.join()
        return drained
