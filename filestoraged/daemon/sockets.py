"""Listening sockets: those that this daemon binds, and those that systemd hands over.

They are there before any worker is. A host name means all of its addresses, so `localhost` is reached by IPv4 and IPv6,
on one port.
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

from filestoraged.command_errors import StartError
from filestoraged.daemon.values import Address

# Connections that may wait to be accepted: a burst of clients is not refused while the loop is busy.
LISTEN_BACKLOG = 1024

# The first descriptor that a service manager hands over (sd_listen_fds(3)).
_FIRST_INHERITED = 3

# How many ports are tried for port 0: one that is free on one address may be taken on the other.
_PORT_ATTEMPTS = 20

# Errors of a machine that lacks IPv6, or the address.
_ABSENT = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


def listen(address: Address) -> list[socket.socket]:
    """Bind and listen on all addresses of a host, or on a Unix socket. Raises StartError."""
    try:
        return [_listen_unix(address.path)] if address.path else _listen_tcp(address)
    except (OSError, ValueError) as error:
        raise _cannot_listen(address, error) from error


def address_of(listener: socket.socket) -> Address:
    """Return where a socket listens. Port 0 is by now the port that the system chose."""
    name = listener.getsockname()
    return Address("", 0, name) if listener.family == socket.AF_UNIX else Address(name[0], name[1])


def close(listeners: list[socket.socket]) -> None:
    """Close the sockets, and unlink Unix sockets."""
    for listener in listeners:
        if listener.family == socket.AF_UNIX and listener.fileno() >= 0:
            # The file may have been removed by another process.
            with contextlib.suppress(OSError):
                os.unlink(listener.getsockname())
        listener.close()


class InheritedSocket(NamedTuple):
    # The FileDescriptorName= of the socket unit.
    name: str
    listener: socket.socket


def inherited_sockets() -> list[InheritedSocket]:
    """Take over the sockets of systemd, once, by the protocol of sd_listen_fds(3).

    They stay open when the daemon stops, and clients wait for the next one. Raises StartError where one is not a
    listening socket.
    """
    count, pid, names = (os.environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"))
    if not count.isdecimal() or pid != str(os.getpid()):
        return []
    # systemd itself uses this name for a socket without one.
    socket_names = itertools.chain(names.split(":") if names else [], itertools.repeat("unknown"))
    inherited = range(_FIRST_INHERITED, _FIRST_INHERITED + int(count))
    return [InheritedSocket(next(socket_names), _take_over(descriptor)) for descriptor in inherited]


def _listen_tcp(address: Address) -> list[socket.socket]:
    wanted = _addresses(address)
    for attempt in range(_PORT_ATTEMPTS):
        try:
            return _bind_all(wanted)
        except OSError as error:
            if address.port or error.errno != errno.EADDRINUSE or attempt == _PORT_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable: the last attempt raises")


def resolve(address: Address) -> set[Address]:
    """Return the addresses of the sockets that `listen` makes; port 0 stays 0. Raises StartError."""
    try:
        return {address} if address.path else {Address(host, port) for _, host, port in _addresses(address)}
    except (OSError, ValueError) as error:
        raise _cannot_listen(address, error) from error


def _cannot_listen(address: Address, error: Exception) -> StartError:
    # A ValueError comes from an invalid host name, or a path with a NUL character.
    return StartError(f"cannot listen on {address}: {getattr(error, 'strerror', None) or error}")


def _addresses(address: Address) -> list[tuple[int, str, int]]:
    """Return the addresses of a host, each with its family and the port."""
    if address.host == "localhost":
        # Both, even where /etc/hosts names only one of them (RFC 6761, section 6.3).
        return [(socket.AF_INET, "127.0.0.1", address.port), (socket.AF_INET6, "::1", address.port)]
    infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # In the order of the resolver, without duplicates.
    return list(dict.fromkeys((family, str(name[0]), address.port) for family, _, _, _, name in infos))


def _bind_all(wanted: Sequence[tuple[int, str, int]]) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    absent = OSError(errno.EADDRNOTAVAIL, "this machine has no such address")
    try:
        for family, host, port in wanted:
            try:
                # The system chooses a port for the first socket; the others get the same.
                listeners.append(_bind(family, (host, port or (listeners[0].getsockname()[1] if listeners else 0))))
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


def _bind(family: int, name: tuple[str, int] | str) -> socket.socket:
    """Bind a socket to a host and a port, or to a path, and listen."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            # A restart need not wait until the connections of the process before have left TIME_WAIT.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        if family == socket.AF_INET6:
            # Otherwise [::] would take the port of 0.0.0.0 as well.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
        listener.bind(name)
        listener.listen(LISTEN_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _listen_unix(path: str) -> socket.socket:
    _remove_stale_socket(path)
    return _bind(socket.AF_UNIX, path)


def _remove_stale_socket(path: str) -> None:
    """Remove the socket of a daemon that was killed. Raises OSError for a socket in use, and for any other file."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "the file exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A listener that is busy must not delay the start.
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except (TimeoutError, BlockingIOError):
            pass
    raise OSError(errno.EADDRINUSE, "another process listens there")


def _take_over(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
    except OSError as error:
        raise StartError(
            f"LISTEN_FDS names descriptor {descriptor}, which is not open: the service manager did not pass it on"
        ) from error
    try:
        listener = socket.socket(fileno=descriptor)
        listens = listener.type == socket.SOCK_STREAM and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listens = False
    if not listens:
        raise StartError(f"descriptor {descriptor} of the service manager is not a listening socket: set Accept=no")
    return listener
