"""Notifications to the service manager, by the protocol of sd_notify(3): one datagram to the socket that it names.

A manager that does not read them, because it hangs or is being executed anew, never keeps this process waiting.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections import deque
from collections.abc import Mapping

log = logging.getLogger(__name__)


class ServiceManager:
    """The service manager, where there is one. The master's main thread calls it.

    The manager acts on the states READY, RELOADING and STOPPING. Those that its socket did not take wait, in their
    order, for `flush`.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte that begins a name in the abstract name space.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._unsent: deque[bytes] = deque()
        # Seconds that the manager waits for a `WATCHDOG=1`; infinite where it has no watchdog for this process.
        self.watchdog_timeout = _watchdog_timeout(environment)

    def report_ready(self, status: str) -> None:
        self._report("READY=1", f"STATUS={status}")

    def report_reloading(self) -> None:
        # What waits says what was before: the manager gets another READY=1.
        self._unsent.clear()
        self._report("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def report_stopping(self, status: str) -> None:
        self._unsent.clear()
        self._report("STOPPING=1", f"STATUS={status}")

    def feed_watchdog(self) -> None:
        """Send a sign of life. One that the socket does not take is dropped: the next one says the same."""
        self._send(b"WATCHDOG=1")

    def flush(self) -> None:
        """Send the states that wait, as many as the socket takes. Called at intervals."""
        while self._unsent and self._send(self._unsent[0]):
            self._unsent.popleft()

    def _report(self, *states: str) -> None:
        self._unsent.append("\n".join(states).encode())
        self.flush()
        if self._unsent:
            log.warning("the service manager does not read notifications; %s waits", states[0])

    def _send(self, message: bytes) -> bool:
        """Send a message without waiting. Returns False where the socket is full."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
                manager.sendto(message, socket.MSG_DONTWAIT, self._address)
        except BlockingIOError:
            return False
        except OSError as error:
            # There is no manager, or none any more.
            log.warning("cannot notify the service manager: %s", error)
        return True


def _watchdog_timeout(environment: Mapping[str, str]) -> float:
    """See sd_watchdog_enabled(3)."""
    micros, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not micros.isdecimal() or pid not in ("", str(os.getpid())):
        return math.inf
    return int(micros) / 1_000_000
