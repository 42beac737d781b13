"""What the service manager is told, by sd_notify(3)'s protocol: one datagram to a socket that it names."""

from __future__ import annotations

import logging
import math
import os
import socket

log = logging.getLogger(__name__)


def notify(*states: str) -> None:
    """Send `READY=1`, `STATUS=…` and the like; nothing where no manager listens."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    # "@" stands for the abstract name space, which begins with a zero byte.
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.sendto("\n".join(states).encode(), address)
    except OSError as error:
        log.warning("cannot notify the service manager: %s", error)


def watchdog_timeout() -> float:
    """Seconds that the manager waits for a `WATCHDOG=1`; infinite where it does not wait (sd_watchdog_enabled(3))."""
    micros, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not micros.isdecimal() or pid not in ("", str(os.getpid())):
        return math.inf
    return int(micros) / 1_000_000
