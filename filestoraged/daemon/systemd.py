"""Notifications to the service manager, by the protocol of sd_notify(3): one datagram to the socket that it names."""

from __future__ import annotations

import logging
import math
import os
import socket

log = logging.getLogger(__name__)


def notify(*states: str) -> None:
    """Send states such as `READY=1` and `STATUS=…`, where there is a service manager."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    # "@" stands for the zero byte that begins a name in the abstract name space.
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.sendto("\n".join(states).encode(), address)
    except OSError as error:
        log.warning("cannot notify the service manager: %s", error)


def watchdog_timeout() -> float:
    """Return the seconds that the manager waits for a `WATCHDOG=1`; infinity where it has no watchdog for this process.

    See sd_watchdog_enabled(3).
    """
    micros, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not micros.isdecimal() or pid not in ("", str(os.getpid())):
        return math.inf
    return int(micros) / 1_000_000
