"""The address of a client behind proxies: X-Forwarded-For, of trusted proxies alone."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Sequence

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# The address of all clients on Unix sockets, which have none.
UNIX = "unix"

# Fields that are read once, and the longest that is remembered, in characters: half a mebibyte.
_CACHED_FIELDS = 1024
_MAX_CACHED_LENGTH = 256

# Some proxies add the client's port.
_WITH_PORT = re.compile(r"\[([^\[\]]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")


class TrustedProxies:
    """Networks whose hosts are trusted, and UNIX where all clients on Unix sockets are. Any thread asks."""

    def __init__(self, trusted: Sequence[IPNetwork | str] = ()) -> None:
        self._networks = [each for each in trusted if not isinstance(each, str)]
        self._trusts_unix = UNIX in trusted
        self._find = functools.lru_cache(_CACHED_FIELDS)(self._find_client)

    def trust(self, address: str) -> bool:
        """Whether a client at `address` is a trusted proxy."""
        if not self._networks or address == UNIX:
            return self._trusts_unix and address == UNIX
        parsed = parse_ip_address(address)
        return parsed is not None and self._has(parsed)

    def client(self, forwarded: str | None, address: str) -> str:
        """Return the client of a request that a trusted proxy at `address` has sent, with its X-Forwarded-For.

        That is the last address that is no trusted proxy's: what stands before it may be made up. Where all are, the
        first; where there is none, or no address, the proxy itself.
        """
        if not forwarded:
            return address
        find = self._find if len(forwarded) <= _MAX_CACHED_LENGTH else self._find_client
        return find(forwarded) or address

    def _find_client(self, forwarded: str) -> str | None:
        client = None
        for text in reversed(forwarded.split(",")):
            client = parse_ip_address(text.strip(" \t"))
            if client is None or not self._has(client):
                break
        return None if client is None else str(client)

    def _has(self, address: IPAddress) -> bool:
        return any(address in network for network in self._networks)


def parse_ip_address(text: str) -> IPAddress | None:
    """Return an IP address, with or without a port behind it; None for anything else. IPv4 within IPv6 is IPv4.

    A zone is left out: a client may have made it up, of any characters, and addresses are logged.
    """
    matched = _WITH_PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address(text if matched is None else matched.group(1) or matched.group(2))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    return address.ipv4_mapped or ipaddress.IPv6Address(int(address))
