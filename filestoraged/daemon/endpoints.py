"""Where the daemon listens, and what is mounted there: sockets of its own, and those that systemd hands over.

What a new configuration wants as the old one did is kept as it is: nobody who connects meanwhile is refused.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from filestoraged.daemon import sockets
from filestoraged.daemon.values import DEFAULT_LISTEN, OPERATIONS, Address, Config, parse_socket_name
from filestoraged.errors import StartError


class Endpoint(NamedTuple):
    """A listener, and the interfaces there by their prefixes."""

    listener: socket.socket
    mounts: Mapping[str, str]
    # Whether all operations are there, and not only whether the daemon is alive.
    operations: bool

    @property
    def address(self) -> Address:
        return sockets.address_of(self.listener)

    @property
    def is_open(self) -> bool:
        """Whether other machines may reach it."""
        return self.listener.family != socket.AF_UNIX and not ipaddress.ip_address(self.address.host).is_loopback

    def __str__(self) -> str:
        named = [f"{name} at {prefix}" for prefix, name in self.mounts.items()]
        return f"{self.address} for {', '.join(named) or OPERATIONS}"


# One address that is wanted: whether for operations, for the how manieth time (port 0 is another one each time), where.
_Wanted = tuple[bool, int, Address]


class Endpoints:
    """All by the main thread of the master, but for `forget_others`."""

    def __init__(self) -> None:
        """Take what systemd has handed over. Raises StartError."""
        self._inherited = sockets.inherited_sockets()
        self._bound: dict[_Wanted, list[socket.socket]] = {}

    def find(self, config: Config) -> list[Endpoint]:
        """Return where `config` is to be served: bound by now, where that was not so before.

        Raises StartError and UsageError. What it has bound is kept until `settle`.
        """
        places = [*self._find_inherited(config), *self._find_own(config)]
        for number, place in enumerate(places):
            if any(place.listener is other.listener for other in places[:number]):
                raise StartError(f"Cannot listen on {place.address} twice.")
        return places

    def settle(self, places: Sequence[Endpoint]) -> None:
        """Close what is none of those."""
        kept = {place.listener for place in places}
        for wanted, bound in list(self._bound.items()):
            if not kept.issuperset(bound):
                del self._bound[wanted]
                sockets.close([each for each in bound if each not in kept])

    def forget_others(self, places: Sequence[Endpoint]) -> None:
        """In a worker: close this process's copies of sockets that others serve, or served before a reload."""
        kept = {place.listener for place in places}
        for bound in self._bound.values():
            for each in bound:
                if each not in kept:
                    # Not by `sockets.close`: the name of a Unix socket is the master's.
                    each.close()

    def close(self) -> None:
        """Close all that is ours. What systemd has goes on listening."""
        self.settle([])

    def _find_inherited(self, config: Config) -> Iterator[Endpoint]:
        for name, listener in self._inherited:
            mounts = parse_socket_name(name, config.mounts)
            yield Endpoint(listener, mounts, operations=not mounts or self._has_operations_everywhere(config))

    def _find_own(self, config: Config) -> Iterator[Endpoint]:
        everywhere = self._has_operations_everywhere(config)
        for wanted in _numbered(self._addresses(config), is_admins=False):
            yield from (Endpoint(each, config.mounts, operations=everywhere) for each in self._bind(wanted))
        for wanted in _numbered(config.admin_listen, is_admins=True):
            yield from (Endpoint(each, {}, operations=True) for each in self._bind(wanted))

    def _bind(self, wanted: _Wanted) -> list[socket.socket]:
        if wanted not in self._bound:
            address = wanted[-1]
            self._bound[wanted] = self._find_bound(address) or sockets.listen(address)
        return self._bound[wanted]

    def _find_bound(self, address: Address) -> list[socket.socket]:
        """Sockets that are there by another spelling, or for something else; with those that lack beside them."""
        there = {sockets.address_of(each): each for bound in self._bound.values() for each in bound}
        # Port 0 is another one.
        wanted = sockets.resolve(address) if there and (address.port or address.path) else set()
        if wanted.isdisjoint(there):
            return []
        return [socket_ for each in wanted for socket_ in ([there[each]] if each in there else sockets.listen(each))]

    def _has_operations_everywhere(self, config: Config) -> bool:
        return not config.admin_listen and all(name != OPERATIONS for name, _ in self._inherited)

    def _addresses(self, config: Config) -> Sequence[Address]:
        """Those for the interfaces, but for where systemd listens."""
        if not self._inherited:
            return config.listen or DEFAULT_LISTEN
        taken = {sockets.address_of(listener) for _, listener in self._inherited}
        return [address for address in config.listen if not sockets.resolve(address) <= taken]


def _numbered(addresses: Sequence[Address], *, is_admins: bool) -> Iterator[_Wanted]:
    for index, address in enumerate(addresses):
        yield is_admins, addresses[:index].count(address), address
