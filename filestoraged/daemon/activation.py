"""The sockets that systemd listens on for us, by sd_listen_fds(3)'s protocol.

They stay open when the daemon stops, so that who connects meanwhile waits for the next one.
"""

from __future__ import annotations

import itertools
import os
import socket
from typing import NamedTuple

from filestoraged.errors import StartError

_FIRST = 3


class Named(NamedTuple):
    # What the socket unit's FileDescriptorName= says.
    name: str
    listener: socket.socket


def inherited_sockets() -> list[Named]:
    """Take over what was handed to this process, once. Raises StartError where one is not for listening."""
    count, pid, names = (os.environ.pop(f"LISTEN_{what}", "") for what in ("FDS", "PID", "FDNAMES"))
    if not count.isdecimal() or pid != str(os.getpid()):
        return []
    # Where there are no names, they are unknown.
    named = itertools.chain(names.split(":") if names else [], itertools.repeat("unknown"))
    return [Named(next(named), _take(descriptor)) for descriptor in range(_FIRST, _FIRST + int(count))]


def _take(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
    except OSError as error:
        raise StartError(
            f"LISTEN_FDS names descriptor {descriptor}, which is not open: the service manager did not pass it on."
        ) from error
    try:
        taken = socket.socket(fileno=descriptor)
        listens = taken.type == socket.SOCK_STREAM and taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listens = False
    if not listens:
        raise StartError("The service manager handed over what is no listening socket: it needs Accept=no.")
    return taken
