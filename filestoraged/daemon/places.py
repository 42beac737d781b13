"""Where the daemon listens, and what is mounted there: sockets of its own, and those that systemd hands over.

What a new configuration wants as the old one did is kept as it is: nobody who connects meanwhile is refused.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Dict, Iterator, List, Mapping, NamedTuple, Sequence, Set, Tuple

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


# One address that is wanted: whether for operations, for the how manieth time (port 0 is another one each time), where.
_Wanted = Tuple[bool, int, Address]


class Places:
    """All by the main thread of the master."""

    def __init__(self) -> None:
        """Take what systemd has handed over. Raises StartError."""
        self._inherited = activation.inherited_sockets()
        self._bound: Dict[_Wanted, List[socket.socket]] = {}

    def find(self, config: Config) -> List[Place]:
        """Return where `config` is to be served: bound by now, where that was not so before. Raises StartError."""
        before = set(self._bound)
        try:
            return [*self._find_inherited(config), *self._find_own(config)]
        except (StartError, UsageError):
            self._close(set(self._bound) - before)
            raise

    def settle(self, config: Config) -> None:
        """Close what `config` does not want any more."""
        self._close(set(self._bound) - set(self._wanted(config)))

    def close(self) -> None:
        """Close all that is ours. What systemd has goes on listening."""
        self._close(set(self._bound))

    def _find_inherited(self, config: Config) -> Iterator[Place]:
        for name, listener in self._inherited:
            mounts = parse_socket_name(name, config.mounts)
            yield Place(listener, mounts, operations=not mounts or self._has_operations_everywhere(config))

    def _find_own(self, config: Config) -> Iterator[Place]:
        for wanted in self._wanted(config):
            is_admins, _, address = wanted
            if wanted not in self._bound:
                self._bound[wanted] = listeners.listen(address)
            operations = is_admins or self._has_operations_everywhere(config)
            for listener in self._bound[wanted]:
                yield Place(listener, {} if is_admins else config.mounts, operations=operations)

    def _has_operations_everywhere(self, config: Config) -> bool:
        return not config.admin_listen and all(name != OPERATIONS for name, _ in self._inherited)

    def _wanted(self, config: Config) -> List[_Wanted]:
        return [*_numbered(self._addresses(config), is_admins=False), *_numbered(config.admin_listen, is_admins=True)]

    def _addresses(self, config: Config) -> Sequence[Address]:
        """Those for the interfaces, but for where systemd listens."""
        if not self._inherited:
            return config.listen or DEFAULT_LISTEN
        taken = {listeners.address_of(listener) for _, listener in self._inherited}
        return [address for address in config.listen if not _has_all(taken, address)]

    def _close(self, wanted: Set[_Wanted]) -> None:
        for each in wanted:
            listeners.close(self._bound.pop(each))


def _numbered(addresses: Sequence[Address], *, is_admins: bool) -> Iterator[_Wanted]:
    for index, address in enumerate(addresses):
        yield is_admins, addresses[:index].count(address), address


def _has_all(taken: Set[Address], address: Address) -> bool:
    # A name is all of its addresses.
    each = {address} if address.path else {Address(host, port) for _, host, port in listeners.places(address)}
    return each <= taken
