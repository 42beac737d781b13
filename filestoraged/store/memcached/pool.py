"""The memcached servers of a pool: which of them has a key, and what it means when one fails.

A key belongs to one node for ever. Where that does not answer, what it has is unavailable, not lost: it is asked again
the next time, and nothing moves to another node because one blinks.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple, TypeVar

from filestoraged.digest import Bytes
from filestoraged.errors import Error, StorageFull, StoreUnavailable
from filestoraged.store.memcached.client import ServerClient

try:
    from pymemcache.exceptions import MemcacheError
except ImportError:
    MemcacheError = None  # type: ignore[assignment,misc]

_Answer = TypeVar("_Answer")

# The port of a server that is named without one.
_PORT = 11211
_SERVER = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/\s]+))(?::([0-9]{1,5}))?", re.ASCII)

# memcached takes what is larger for a time since 1970; and what is negative has passed.
_LONGEST_TTL = 30 * 24 * 3600
_AT_ONCE = -1


class Found(NamedTuple):
    """A value, and the version of it that `swap` and `take` replace."""

    data: memoryview
    version: bytes


class PoolServer:
    """One server. Many threads ask it, each on a connection of its own.

    One that has let somebody wait in vain is suspect: until it answers again, one thread at a time waits for it, and
    others are refused at once. So a server that hangs holds up one thread, and the first request finds it back.
    """

    def __init__(self, server: str, *, timeout: float, connect_timeout: float) -> None:
        """Raises what `parse_server` does. Timeouts are in seconds."""
        self.name = server
        self._address = parse_server(server)
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._begin()

    def _begin(self) -> None:
        self._owner = os.getpid()
        self._idle: deque[ServerClient] = deque()
        self._probing = threading.Lock()
        self.suspect = False

    def ask(self, question: Callable[[ServerClient], _Answer]) -> _Answer:
        """Raises StoreUnavailable where no answer comes, StorageFull where there is no room."""
        if self._owner != os.getpid():
            # A child must not talk on its parent's connections, nor wait for its parent's threads.
            self._begin()
        if not self.suspect:
            return self._ask(question)
        if not self._probing.acquire(blocking=False):
            raise StoreUnavailable(node=self.name) from TimeoutError(f"memcached {self.name} has not answered lately")
        try:
            return self._ask(question)
        finally:
            self._probing.release()

    def check(self) -> BaseException | None:
        """Ask for a sign of life. Returns why there is none, if so."""
        try:
            # On a connection of its own, closed at once: the processes that are forked next shall not have it.
            self.ask(lambda link: link.quit() if link.version() else None)
        except StoreUnavailable as error:
            return error.__cause__
        return None

    def close(self) -> None:
        """Close the connections that rest. The next question opens one anew."""
        while self._idle:
            self._idle.pop().close()

    def _ask(self, question: Callable[[ServerClient], _Answer]) -> _Answer:
        try:
            link = self._idle.pop()
        except IndexError:
            link = ServerClient(self._address, connect_timeout=self._connect_timeout, timeout=self._timeout)
        try:
            answer = _ask_twice(link, question)
        except (MemcacheError, OSError) as error:
            link.close()
            self.suspect = isinstance(error, socket.timeout)
            if "out of memory" in str(error):
                raise StorageFull("There is no room left to store this.") from error
            raise StoreUnavailable(node=self.name) from ConnectionError(f"memcached {self.name}: {_reason(error)}")
        self.suspect = False
        self._idle.append(link)
        return answer


class ServerPool:
    """All servers of a pool as one. Keys are spread by rendezvous hashing: the node that scores highest has it."""

    def __init__(self, servers: Sequence[str], *, timeout: float, connect_timeout: float) -> None:
        """Both in seconds: for connecting, and for each time that a server keeps us waiting."""
        if MemcacheError is None:
            raise ImportError("Objects in memcached need pymemcache: pip install pymemcache")
        # Each once, however often it is named.
        if isinstance(servers, (str, bytes)):
            raise ValueError(f"servers must be a list of HOST:PORT, such as [{servers!r}], and not a string")
        names = dict.fromkeys(servers)
        if not names:
            raise ValueError("a pool has one memcached server at least")
        self.all = [PoolServer(name, timeout=timeout, connect_timeout=connect_timeout) for name in names]

    def check(self) -> list[BaseException]:
        """Ask each server for a sign of life, all at once. Returns why those that give none do not."""
        with ThreadPoolExecutor(len(self.all)) as threads:
            return [failure for failure in threads.map(PoolServer.check, self.all) if failure is not None]

    def require(self) -> None:
        """Raises StoreUnavailable where one of them gives no sign of life."""
        for failure in self.check():
            raise StoreUnavailable("memcached does not answer.") from failure

    def close(self) -> None:
        for node in self.all:
            node.close()

    def get(self, key: str, room: memoryview | None = None) -> memoryview | None:
        """The value, which lies in `room` where it fits, with the end of the line it came with."""
        return self._of(key).ask(lambda link: link.fetch(key, room))

    def find(self, key: str) -> Found | None:
        data, version = self._of(key).ask(lambda link: link.gets(key))
        return None if data is None else Found(data, version)

    def set(self, key: str, data: Bytes, *, ttl: int) -> None:
        """`ttl` is in seconds, 0 for ever, as it is for all."""
        self._of(key).ask(lambda link: link.send(key, data, _expiry(ttl)))

    def add(self, key: str, data: bytes, *, ttl: int) -> bool:
        """Set what is not there. Returns whether that was so."""
        return bool(self._of(key).ask(lambda link: link.add(key, data, _expiry(ttl))))

    def swap(self, key: str, data: bytes, version: bytes, *, ttl: int) -> bool:
        """Set what still has that version. Returns whether that was so."""
        return bool(self._of(key).ask(lambda link: link.cas(key, data, version, _expiry(ttl))))

    def take(self, key: str, version: bytes) -> bool:
        """Delete a key that still has that version. Returns whether it had.

        Where the first answer was lost and the key is gone at the second attempt, the first one deleted it.
        """
        answers: list[bool | None] = []

        def expire(link: ServerClient) -> bool:
            # The text protocol has no conditional delete, but a swap may set an expiry that has passed.
            answers.append(None)
            answers[-1] = link.cas(key, b"", version, _AT_ONCE)
            return bool(answers[-1])

        taken = self._of(key).ask(expire)
        with suppress(StoreUnavailable):
            # An expired item gives its memory back when it is asked for.
            self.get(key)
        # None stands for a lost answer, and for NOT_FOUND.
        return taken or answers == [None, None]

    def touch_all(self, ttls: Mapping[str, int]) -> list[str]:
        """Set the expiry of each key, in seconds, 0 for never. Returns the keys that are missing.

        In the order of `ttls`, and in one packet for each server, so that a client is unlikely to die within it.
        """
        missing: list[str] = []
        for node, keys in self._by_node(ttls).items():
            there = node.ask(functools.partial(_touch_all, [(key, _expiry(ttls[key])) for key in keys]))
            missing += [key for key, is_there in zip(keys, there) if not is_there]
        return missing

    def forget(self, keys: Sequence[str]) -> bool:
        """Delete keys. Returns False if a server did not answer; the keys of the others are deleted."""
        reached = True
        for node, own in self._by_node(keys).items():
            try:
                if node.suspect:
                    raise StoreUnavailable(node=node.name)
                node.ask(functools.partial(_delete_all, own))
            except StoreUnavailable:
                # The keys are invisible already, so the caller does not need to wait for a timeout.
                reached = False
        return reached

    def explain_loss(self, key: str, age: float) -> Error:
        """Return the error for a key that was set `age` seconds ago and is gone: evicted, or lost by a restart.

        A server that has evicted nothing since its start was restarted. One that has evicted may still have been
        restarted before; its uptime, in whole seconds, tells that.
        """
        node = self._of(key)
        statistics = node.ask(lambda link: link.stats())
        evicted = sum(figure(statistics, name) for name in (b"evictions", b"slab_reassign_evictions_nomem"))
        if evicted and figure(statistics, b"uptime") >= age:
            return StorageFull("There is no room for all of it: what was stored first has been evicted.")
        return StoreUnavailable("A memcached server has lost a part of the upload: it was restarted.", node=node.name)

    def _by_node(self, keys: Iterable[str]) -> dict[PoolServer, list[str]]:
        by_node: dict[PoolServer, list[str]] = {}
        for key in keys:
            by_node.setdefault(self._of(key), []).append(key)
        return by_node

    def _of(self, key: str) -> PoolServer:
        if len(self.all) == 1:
            return self.all[0]
        return max(self.all, key=lambda node: hashlib.blake2b(f"{node.name} {key}".encode(), digest_size=8).digest())


def _ask_twice(link: ServerClient, question: Callable[[ServerClient], _Answer]) -> _Answer:
    try:
        return question(link)
    except TimeoutError:
        # Whoever asks has waited long enough.
        raise
    except (MemcacheError, OSError):
        # The server may have been started anew since the link was last used. Having failed, it connects again.
        return question(link)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def figure(statistics: Mapping[bytes, object], name: bytes) -> int:
    """Return a number from a server's statistics; 0 if it is missing or not a number."""
    value = statistics.get(name)
    return value if isinstance(value, int) else 0


def _touch_all(keys: Sequence[tuple[str, int]], link: ServerClient) -> list[bool]:
    return link.touch_all(keys)


def _delete_all(keys: Sequence[str], link: ServerClient) -> None:
    link.delete_all(keys)


def _expiry(ttl: int) -> int:
    return ttl if ttl <= _LONGEST_TTL else int(time.time()) + ttl


def parse_server(server: str) -> tuple[str, int]:
    """Return the host and the port of HOST:PORT, HOST or [::1]:PORT. Raises ValueError where it is none of them."""
    matched = _SERVER.fullmatch(server)
    port = int(matched.group(3) or _PORT) if matched else 0
    if matched is None or not 0 < port < 65536:
        raise ValueError(f"{server!r} is no memcached server: HOST:PORT, HOST or [::1]:PORT")
    return matched.group(1) or matched.group(2), port
