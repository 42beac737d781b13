"""Sockets that listen: bound before any server or worker exists, and handed to them.

A host name is each of its addresses, so `localhost` is reached by IPv4 and IPv6 alike, on one port.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import stat
from collections.abc import Sequence
from typing import NamedTuple

from filestoraged.daemon.values import Address
from filestoraged.errors import StartError

# Connections that may wait to be accepted: a burst of clients is not turned away while the threads are busy.
BACKLOG = 1024

# The first descriptor that a service manager hands over (sd_listen_fds(3)).
_FIRST = 3

# A port that is free on one address may be taken on the other. So many times another one is tried.
_ATTEMPTS = 20

# What a machine says that lacks IPv6, or the address.
_ABSENT = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


def listen(address: Address) -> list[socket.socket]:
    """Bind and listen. Raises StartError with a sentence for the operator."""
    try:
        return [_listen_unix(address.path)] if address.path else _listen_tcp(address)
    except (OSError, ValueError) as error:
        raise _refusal(address, error) from error


def address_of(listener: socket.socket) -> Address:
    """Where a socket listens, its port a number that was picked."""
    name = listener.getsockname()
    return Address("", 0, name) if listener.family == socket.AF_UNIX else Address(name[0], name[1])


def close(listeners: list[socket.socket]) -> None:
    """Close the sockets, and take the names of Unix sockets away."""
    for listener in listeners:
        if listener.family == socket.AF_UNIX and listener.fileno() >= 0:
            # Somebody else may have done so.
            with contextlib.suppress(OSError):
                os.unlink(listener.getsockname())
        listener.close()


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


def _listen_tcp(address: Address) -> list[socket.socket]:
    wanted = _places(address)
    for attempt in range(_ATTEMPTS):
        try:
            return _bind_all(wanted)
        except OSError as error:
            if address.port or error.errno != errno.EADDRINUSE or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable: the last attempt raises")


def resolve(address: Address) -> set[Address]:
    """Where sockets that listen on `address` are, port 0 standing for any. Raises StartError."""
    try:
        return {address} if address.path else {Address(host, port) for _, host, port in _places(address)}
    except (OSError, ValueError) as error:
        raise _refusal(address, error) from error


def _refusal(address: Address, error: Exception) -> StartError:
    # A ValueError is of a name that cannot be one, or a path that no system takes.
    return StartError(f"Cannot listen on {address}: {getattr(error, 'strerror', None) or error}.")


def _places(address: Address) -> list[tuple[int, str, int]]:
    """The addresses that a host has, each with its family and the port."""
    if address.host == "localhost":
        # Both, also where the machine's list of hosts names one of them alone (RFC 6761, section 6.3).
        return [(socket.AF_INET, "127.0.0.1", address.port), (socket.AF_INET6, "::1", address.port)]
    infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # In the resolver's order, each once.
    return list(dict.fromkeys((family, str(place[0]), address.port) for family, _, _, _, place in infos))


def _bind_all(wanted: Sequence[tuple[int, str, int]]) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    absent = OSError(errno.EADDRNOTAVAIL, "The machine has no such address")
    try:
        for family, host, port in wanted:
            try:
                # Port 0 is picked by the first and shared by the others.
                listeners.append(_bind(family, host, port or (listeners[0].getsockname()[1] if listeners else 0)))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
    except OSError:
        close(listeners)
        raise
    if not listeners:
        raise absent
    return listeners


def _bind(family: int, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A restart need not wait for the connections of the one before to be forgotten.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        if family == socket.AF_INET6:
            # Else [::] would take 0.0.0.0's port as well.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _listen_unix(path: str) -> socket.socket:
    _clear_away(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _clear_away(path: str) -> None:
    """Remove a socket that nobody listens on, left by a daemon that was killed. Raises OSError where one is alive."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "There is a file of that name")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # One that is alive but busy must not keep us here.
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except (TimeoutError, BlockingIOError):
            pass
    raise OSError(errno.EADDRINUSE, "A daemon is listening there")


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
