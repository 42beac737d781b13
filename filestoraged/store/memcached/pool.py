"""The memcached servers of a pool: which one has a key, and how the failure of one is reported.

A key belongs to one server permanently. While the server does not answer, its keys are unavailable: no key moves to
another server, and the next call tries the server again.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple, TypeVar

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.digest import Bytes
from filestoraged.errors import Error, StorageFull, StoreUnavailable
from filestoraged.net.pool import Breaker, IdlePool, ServerSuspect, describe
from filestoraged.store.memcached.client import ServerClient

try:
    from pymemcache.exceptions import MemcacheError
except ImportError:
    MemcacheError = None  # type: ignore[assignment,misc]

_Result = TypeVar("_Result")

# memcached's registered port, for servers that are named without one.
_DEFAULT_PORT = 11211
_SERVER = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/\s]+))(?::([0-9]{1,5}))?", re.ASCII)

# In seconds. memcached reads a larger number as seconds since 1970, and a negative one as expired.
_MAX_RELATIVE_TTL = 30 * 24 * 3600
_EXPIRED = -1


class Versioned(NamedTuple):
    """A value, and its version (memcached's "cas unique"), which `cas` and `delete_version` compare."""

    data: memoryview
    version: bytes


class PoolServer:
    """One server. Many threads call it, each on a connection of its own. One that hangs delays one of them."""

    def __init__(self, server: str, *, timeout: float, connect_timeout: float) -> None:
        """Raises ValueError as `parse_server` does. Timeouts are in seconds."""
        self.name = server
        self._address = parse_server(server)
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._idle: IdlePool[ServerClient] = IdlePool()
        self._breaker = Breaker(f"memcached {server}")

    @property
    def suspect(self) -> bool:
        return self._breaker.suspect

    def call(self, function: Callable[[ServerClient], _Result]) -> _Result:
        """Call `function` with a connection. Raises StoreUnavailable if the server fails, StorageFull if it is full."""
        try:
            return self._breaker.call(lambda: self._call(function))
        except ServerSuspect as error:
            raise StoreUnavailable(node=self.name) from error

    def ping(self) -> BaseException | None:
        """Ask for the server's version. Returns the error if it does not answer, else None."""
        try:
            # Closed at once: processes that are forked next must not inherit the connection.
            self.call(lambda client: client.quit() if client.version() else None)
        except StoreUnavailable as error:
            return error.__cause__
        return None

    def close(self) -> None:
        """Close the idle connections. The next call opens one."""
        self._idle.close()

    def _call(self, function: Callable[[ServerClient], _Result]) -> _Result:
        client = self._idle.acquire() or ServerClient(
            self._address, connect_timeout=self._connect_timeout, timeout=self._timeout
        )
        try:
            answer = _call_twice(client, function)
        except (MemcacheError, OSError) as error:
            client.close()
            self._breaker.note_failure(error)
            if "out of memory" in str(error):
                raise StorageFull("There is no room left to store this.") from error
            raise StoreUnavailable(node=self.name) from ConnectionError(f"memcached {self.name}: {describe(error)}")
        self._breaker.note_answer()
        self._idle.release(client)
        return answer


class ServerPool:
    """All servers of a pool as one. Rendezvous hashing spreads the keys: the server with the best score has a key."""

    def __init__(
        self, servers: Sequence[str], *, timeout: float, connect_timeout: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """`servers` are HOST:PORT each. Timeouts are in seconds: to connect, and for each reply. Raises ValueError."""
        if MemcacheError is None:
            raise ImportError(
                "objects in memcached need pymemcache: pip install pymemcache, or Debian's python3-pymemcache"
            )
        if isinstance(servers, (str, bytes)):
            raise ValueError(f"invalid servers {servers!r}: expected a list such as [{servers!r}], not a string")
        self.clock = clock
        # A server that is named twice is used once.
        names = dict.fromkeys(servers)
        if not names:
            raise ValueError(f"invalid servers {servers!r}: expected at least one HOST:PORT")
        self.servers = [PoolServer(name, timeout=timeout, connect_timeout=connect_timeout) for name in names]

    def ping(self) -> Sequence[BaseException]:
        """Ping all servers at once. Returns the errors of those that do not answer."""
        with ThreadPoolExecutor(len(self.servers)) as threads:
            return [failure for failure in threads.map(PoolServer.ping, self.servers) if failure is not None]

    def statistics(self) -> dict[str, Mapping[bytes, object] | None]:
        """The statistics of each server by its name, None for one that does not answer. All are asked at once."""
        with ThreadPoolExecutor(len(self.servers)) as threads:
            return dict(zip((server.name for server in self.servers), threads.map(_statistics, self.servers)))

    def close(self) -> None:
        for server in self.servers:
            server.close()

    def get(self, key: str, buffer: memoryview | None = None) -> memoryview | None:
        """The value of a key. It is read into `buffer` if that has room for the value and LINE_END bytes."""
        return self._server_of(key).call(lambda client: client.get_into(key, buffer))

    def gets(self, key: str) -> Versioned | None:
        data, version = self._server_of(key).call(lambda client: client.gets(key))
        return None if data is None else Versioned(data, version)

    def set(self, key: str, data: Bytes, *, ttl: int) -> None:
        """`ttl` is in seconds, 0 for no expiry, here and below."""
        self._server_of(key).call(lambda client: client.set_unserialized(key, data, _expiry(ttl, self.clock)))

    def add(self, key: str, data: bytes, *, ttl: int) -> bool:
        """Set a key that is missing. Returns whether it was."""
        return bool(self._server_of(key).call(lambda client: client.add(key, data, _expiry(ttl, self.clock))))

    def cas(self, key: str, data: bytes, version: bytes, *, ttl: int) -> bool:
        """Set a key that still has that version. Returns whether it had."""
        return bool(self._server_of(key).call(lambda client: client.cas(key, data, version, _expiry(ttl, self.clock))))

    def delete_version(self, key: str, version: bytes) -> bool:
        """Delete a key that still has that version. Returns whether it had.

        If the first reply is lost and the second attempt finds no key, the first attempt deleted it.
        """
        replies: list[bool | None] = []

        def expire(client: ServerClient) -> bool:
            # The text protocol has no conditional delete, but `cas` may set an expiry in the past.
            replies.append(None)
            replies[-1] = client.cas(key, b"", version, _EXPIRED)
            return bool(replies[-1])

        is_deleted = self._server_of(key).call(expire)
        with suppress(StoreUnavailable):
            # memcached frees the memory of an expired item when the item is requested.
            self.get(key)
        # None stands for a lost reply, and for NOT_FOUND.
        return is_deleted or replies == [None, None]

    def touch_all(self, ttls: Mapping[str, int]) -> list[str]:
        """Set the expiry of each key, in seconds, 0 for never. Returns the keys that are missing.

        Touches are sent in the order of `ttls`, in one packet for each server, so a client is unlikely to die between.
        """
        missing: list[str] = []
        for server, keys in self._by_server(ttls).items():
            expiries = [(key, _expiry(ttls[key], self.clock)) for key in keys]
            present = server.call(functools.partial(_touch_all, expiries))
            missing += [key for key, is_present in zip(keys, present) if not is_present]
        return missing

    def delete_all(self, keys: Sequence[str]) -> bool:
        """Delete keys. Returns False if a server did not answer; the keys of the others are deleted."""
        all_answered = True
        for server, own in self._by_server(keys).items():
            try:
                if server.suspect:
                    raise StoreUnavailable(node=server.name)
                server.call(functools.partial(_delete_all, own))
            except StoreUnavailable:
                # The keys are invisible already, so the caller does not wait for a timeout.
                all_answered = False
        return all_answered

    def explain_loss(self, key: str, age: float) -> Error:
        """Return the error for a key that was set `age` seconds ago and is gone: evicted, or lost by a restart.

        A server that has evicted nothing since its start was restarted. A server that has evicted items may have been
        restarted before that; its uptime, in whole seconds, tells.
        """
        server = self._server_of(key)
        statistics = server.call(lambda client: client.stats())
        evicted = sum(figure(statistics, name) for name in (b"evictions", b"slab_reassign_evictions_nomem"))
        if evicted and figure(statistics, b"uptime") >= age:
            return StorageFull("There is no room for the whole object: its first chunks have been evicted.")
        return StoreUnavailable(
            "A memcached server lost a part of the upload, because it was restarted.", node=server.name
        )

    def _by_server(self, keys: Iterable[str]) -> dict[PoolServer, list[str]]:
        by_server: dict[PoolServer, list[str]] = {}
        for key in keys:
            by_server.setdefault(self._server_of(key), []).append(key)
        return by_server

    def _server_of(self, key: str) -> PoolServer:
        if len(self.servers) == 1:
            return self.servers[0]
        return max(
            self.servers, key=lambda server: hashlib.blake2b(f"{server.name} {key}".encode(), digest_size=8).digest()
        )


def _call_twice(client: ServerClient, function: Callable[[ServerClient], _Result]) -> _Result:
    try:
        return function(client)
    except TimeoutError:
        # The caller has waited long enough.
        raise
    except (MemcacheError, OSError):
        # The server may have been restarted since the connection was last used. After a failure the client reconnects.
        return function(client)


def figure(statistics: Mapping[bytes, object], name: bytes) -> int:
    """Return a number from a server's statistics; 0 if it is missing or not a number."""
    value = statistics.get(name)
    return value if isinstance(value, int) else 0


def _statistics(server: PoolServer) -> Mapping[bytes, object] | None:
    try:
        return server.call(lambda client: client.stats())
    except StoreUnavailable:
        return None


def _touch_all(keys: Sequence[tuple[str, int]], client: ServerClient) -> list[bool]:
    return client.touch_all(keys)


def _delete_all(keys: Sequence[str], client: ServerClient) -> None:
    client.delete_all(keys)


def _expiry(ttl: int, clock: Clock) -> int:
    return ttl if ttl <= _MAX_RELATIVE_TTL else int(clock.date()) + ttl


def parse_server(server: str) -> tuple[str, int]:
    """Return the host and the port of HOST:PORT, HOST or [::1]:PORT. Raises ValueError."""
    matched = _SERVER.fullmatch(server)
    port = int(matched.group(3) or _DEFAULT_PORT) if matched else 0
    if matched is None or not 0 < port < 65536:
        raise ValueError(f"invalid memcached server {server!r}: expected HOST:PORT, HOST or [::1]:PORT")
    return matched.group(1) or matched.group(2), port
