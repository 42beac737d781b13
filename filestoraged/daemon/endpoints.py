"""Where the daemon listens and what it serves there: on sockets of its own, and on those that systemd hands over.

A reload keeps every socket that the new configuration wants as well, so no client is refused meanwhile.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from filestoraged.command_errors import StartError
from filestoraged.daemon import sockets
from filestoraged.daemon.config import DEFAULT_LISTEN, Config
from filestoraged.daemon.interfaces import OPERATIONS, parse_socket_name
from filestoraged.daemon.values import Address


class Endpoint(NamedTuple):
    """A listener, and the interfaces that it serves by their prefixes."""

    listener: socket.socket
    mounts: Mapping[str, str]
    # Whether it serves all operations, or /-/health alone.
    has_operations: bool

    @property
    def address(self) -> Address:
        return sockets.address_of(self.listener)

    @property
    def is_exposed(self) -> bool:
        """Whether other machines may reach it."""
        return self.listener.family != socket.AF_UNIX and not ipaddress.ip_address(self.address.host).is_loopback

    @property
    def is_admin(self) -> bool:
        """Whether it serves operations and no interface."""
        return not self.mounts

    def __str__(self) -> str:
        named = [f"{name} at {prefix}" for prefix, name in self.mounts.items()]
        return f"{self.address} for {', '.join(named) or OPERATIONS}"


class _Wanted(NamedTuple):
    """An address of a configuration."""

    is_admin: bool
    # How many times the configuration has named the address before: each time, port 0 is another port.
    repetition: int
    address: Address


class Endpoints:
    """The sockets of the master, through all reloads. Only the master calls it, but for `close_others`."""

    def __init__(self) -> None:
        """Take over the sockets that systemd has handed over. Raises StartError."""
        self._inherited = sockets.inherited_sockets()
        self._bound: dict[_Wanted, list[socket.socket]] = {}

    def open(self, config: Config) -> list[Endpoint]:
        """Return the endpoints of a configuration, bound by now. What it binds is kept until `keep_only`.

        Raises StartError and UsageError.
        """
        endpoints = [*self._open_inherited(config), *self._open_own(config)]
        for number, endpoint in enumerate(endpoints):
            if any(endpoint.listener is other.listener for other in endpoints[:number]):
                raise StartError(f"cannot listen on {endpoint.address} twice")
        return endpoints

    def keep_only(self, endpoints: Sequence[Endpoint]) -> None:
        """Close the sockets of our own that are none of these endpoints'."""
        kept = {endpoint.listener for endpoint in endpoints}
        for wanted, bound in list(self._bound.items()):
            if not kept.issuperset(bound):
                del self._bound[wanted]
                sockets.close([each for each in bound if each not in kept])

    def close_others(self, endpoints: Sequence[Endpoint]) -> None:
        """In a worker: close this process's copies of sockets that are none of these endpoints'."""
        kept = {endpoint.listener for endpoint in endpoints}
        for bound in self._bound.values():
            for each in bound:
                if each not in kept:
                    # Not by `sockets.close`, which unlinks Unix sockets: the master may still serve them.
                    each.close()

    def close(self) -> None:
        """Close all sockets of our own. Those of systemd go on listening."""
        self.keep_only([])

    def _open_inherited(self, config: Config) -> Iterator[Endpoint]:
        for name, listener in self._inherited:
            mounts = parse_socket_name(name, config.mounts)
            yield Endpoint(listener, mounts, not mounts or self._has_operations_everywhere(config))

    def _open_own(self, config: Config) -> Iterator[Endpoint]:
        everywhere = self._has_operations_everywhere(config)
        for repetition, address in _numbered(self._addresses(config)):
            bound = self._bind(_Wanted(False, repetition, address))
            yield from (Endpoint(each, config.mounts, everywhere) for each in bound)
        for repetition, address in _numbered(config.admin_listen):
            bound = self._bind(_Wanted(True, repetition, address))
            yield from (Endpoint(each, {}, True) for each in bound)

    def _bind(self, wanted: _Wanted) -> list[socket.socket]:
        if wanted not in self._bound:
            self._bound[wanted] = self._reuse(wanted.address) or sockets.listen(wanted.address)
        return self._bound[wanted]

    def _reuse(self, address: Address) -> list[socket.socket]:
        """Return the sockets of an address that is bound under another spelling or for another use.

        A host name may have further addresses, which are bound now. Returns [] where none of them is bound.
        """
        bound = {sockets.address_of(each): each for group in self._bound.values() for each in group}
        # Port 0 is a new port each time.
        wanted = sockets.resolve(address) if bound and (address.port or address.path) else set()
        if wanted.isdisjoint(bound):
            return []
        return [socket_ for each in wanted for socket_ in ([bound[each]] if each in bound else sockets.listen(each))]

    def _has_operations_everywhere(self, config: Config) -> bool:
        return not config.admin_listen and all(name != OPERATIONS for name, _ in self._inherited)

    def _addresses(self, config: Config) -> Sequence[Address]:
        """Return the addresses for the interfaces, without those that systemd listens on."""
        if not self._inherited:
            return config.listen or DEFAULT_LISTEN
        inherited = {sockets.address_of(listener) for _, listener in self._inherited}
        return [address for address in config.listen if not sockets.resolve(address) <= inherited]


def _numbered(addresses: Sequence[Address]) -> Iterator[tuple[int, Address]]:
    """Yield each address with the number of times that it came before."""
    for index, address in enumerate(addresses):
        yield addresses[:index].count(address), address
