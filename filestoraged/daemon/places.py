"""Where the daemon listens, and what is mounted there: sockets of its own, and those that systemd hands over.

What a new configuration wants as the old one did is kept as it is: nobody who connects meanwhile is refused.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Dict, List, Mapping, NamedTuple, Set

from filestoraged.daemon import activation, listeners
from filestoraged.daemon.config import DEFAULT_LISTEN, OPERATIONS, Address, Config, parse_socket_name
from filestoraged.errors import StartError, UsageError


class Place(NamedTuple):
    """A listener, and the interfaces there by their prefixes."""

    listener: socket.socket
    mounts: Mapping[str, str]
    # Whether all operations are there, and not only whether the daemon is alive.
    operations: bool

    @property
    def address(self) -> Address:
        return listeners.address_of(self.listener)

    @property
    def is_open(self) -> bool:
        """Whether other machines may reach it."""
        return self.listener.family != socket.AF_UNIX and not ipaddress.ip_address(self.address.host).is_loopback

    def __str__(self) -> str:
        named = [f"{name} at {prefix}" for prefix, name in self.mounts.items()]
        return f"{self.address} for {', '.join(named) or OPERATIONS}"


class Places:
    """All by the main thread of the master."""

    def __init__(self) -> None:
        """Take what systemd has handed over. Raises StartError."""
        self._inherited = activation.inherited_sockets()
        self._bound: Dict[Address, List[socket.socket]] = {}

    def find(self, config: Config) -> List[Place]:
        """Return where `config` is to be served: bound by now, where that was not so before. Raises StartError."""
        before = set(self._bound)
        try:
            return self._find(config)
        except (StartError, UsageError):
            self._close(set(self._bound) - before)
            raise

    def settle(self, config: Config) -> None:
        """Close what `config` does not want any more."""
        self._close(set(self._bound) - {*_wanted(config, self._inherited), *config.admin_listen})

    def close(self) -> None:
        """Close all that is ours. What systemd has goes on listening."""
        self._close(set(self._bound))

    def _find(self, config: Config) -> List[Place]:
        is_ours = not config.admin_listen and all(name != OPERATIONS for name, _ in self._inherited)
        places = []
        for name, listener in self._inherited:
            mounts = parse_socket_name(name, config.mounts)
            places.append(Place(listener, mounts, operations=is_ours or not mounts))
        for address in _wanted(config, self._inherited):
            places += [Place(each, config.mounts, operations=is_ours) for each in self._bind(address)]
        for address in config.admin_listen:
            places += [Place(each, {}, operations=True) for each in self._bind(address)]
        return places

    def _bind(self, address: Address) -> List[socket.socket]:
        if address not in self._bound:
            self._bound[address] = listeners.listen(address)
        return self._bound[address]

    def _close(self, addresses: Set[Address]) -> None:
        for address in addresses:
            listeners.close(self._bound.pop(address))


def _wanted(config: Config, inherited: List[activation.Named]) -> List[Address]:
    """The addresses that are for the interfaces, but for those where systemd listens."""
    if not inherited:
        return list(config.listen or DEFAULT_LISTEN)
    taken = {listeners.address_of(listener) for _, listener in inherited}
    return [address for address in config.listen if not _has_all(taken, address)]


def _has_all(taken: Set[Address], address: Address) -> bool:
    # A name is all of its addresses.
    each = {address} if address.path else {Address(host, port) for _, host, port in listeners.places(address)}
    return each <= taken
