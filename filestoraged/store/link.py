"""A connection to one memcached server: pymemcache's client, but for how it connects and how large values pass."""

from __future__ import annotations

import socket
from typing import Any, Callable, Dict, List, Optional, Tuple

from filestoraged.digest import Bytes

try:
    from pymemcache.client.base import Client
    from pymemcache.exceptions import MemcacheUnexpectedCloseError, MemcacheUnknownError
except ImportError:
    # A store on disk does without; `nodes` says what is missing.
    Client = object  # type: ignore[assignment,misc]

# How many bytes end a line, and follow a value.
LINE_END = 2

# Values are chunks and manifests. What announces more is no memcached of ours, and is given no memory.
_LARGEST = 1024 * 1024


class Link(Client):
    """One thread at a time uses it. What fails closes it, and the next question connects anew."""

    sock: Any

    def __init__(self, address: Tuple[str, int], *, connect_timeout: float, timeout: float) -> None:
        """It connects with the first question. Replies are read, whatever is asked."""
        super().__init__(address, connect_timeout=connect_timeout, timeout=timeout, default_noreply=False)
        self._address = address
        self._room: Optional[memoryview] = None

    def fetch(self, key: str, room: Optional[memoryview]) -> Optional[memoryview]:
        """The same as `get`, into `room` where the value and the end of its line fit."""
        self._room = room
        try:
            value: Optional[memoryview] = self.get(key)
        finally:
            self._room = None
        return value

    def send(self, key: str, data: Bytes, expire: int) -> None:
        """The same as `set`, which takes nothing but bytes and copies them twice."""
        if self.sock is None:
            self._connect()
        try:
            self.sock.sendall(b"set %b 0 %d %d\r\n" % (key.encode(), expire, len(data)), socket.MSG_MORE)
            self.sock.sendall(data, socket.MSG_MORE)
            self.sock.sendall(b"\r\n")
            reply = self.sock.recv(4096)
            while reply and not reply.endswith(b"\r\n"):
                reply += self.sock.recv(4096)
            self._raise_errors(reply, b"set")
            if reply != b"STORED\r\n":
                raise MemcacheUnknownError(reply[:32]) if reply else MemcacheUnexpectedCloseError
        except Exception:
            self.close()
            raise

    def list_items(self, take: Callable[[bytes], None]) -> bool:
        """Have `take` called with a line about each item the server has. Returns False where it lists for another.

        By its hash table: an item that is on its way between two queues is on none.
        """
        if self.sock is None:
            self._connect()
        rest = b""
        try:
            self.sock.sendall(b"lru_crawler metadump hash\r\n")
            while True:
                received = self.sock.recv(65536)
                if not received:
                    raise MemcacheUnexpectedCloseError
                *lines, rest = (rest + received).split(b"\n")
                for line in lines:
                    if line.startswith(b"key="):
                        take(line)
                    elif line.startswith((b"END", b"BUSY")):
                        return bool(line.startswith(b"END"))
                    else:
                        raise MemcacheUnknownError(
                            f"it does not list what it has: {line.decode('ascii', 'replace').strip()}"
                        )
        except Exception:
            self.close()
            raise

    def _connect(self) -> None:
        # The client's own tries the first address of a name alone, and the server may listen on the second.
        self.close()
        self.sock = socket.create_connection(self._address, self.connect_timeout)
        self.sock.settimeout(self.timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)

    def _extract_value(
        self, expect_cas: bool, line: bytes, buf: bytes, remapped_keys: Dict[Any, Any], prefixed_keys: List[bytes]
    ) -> Tuple[Any, Any, bytes]:
        """Read the value that `line` announces and `buf` begins, straight to where it stays.

        The client's own reads 4 KiB a call and joins them, which takes twice as long.
        """
        words = line.split()
        if len(words) != (5 if expect_cas else 4):
            raise MemcacheUnknownError(line[:32])
        key, size = words[1], words[3]
        if key not in remapped_keys or not size.isdigit() or int(size) > _LARGEST:
            raise MemcacheUnknownError(line[:32])
        data = self._room_for(int(size) + LINE_END)
        received = min(len(buf), len(data))
        data[:received] = buf[:received]
        rest = buf[received:]
        while received < len(data):
            count = self.sock.recv_into(data[received:])
            if not count:
                raise MemcacheUnexpectedCloseError
            received += count
        if bytes(data[-LINE_END:]) != b"\r\n":
            raise MemcacheUnknownError(line[:32])
        value = data[:-LINE_END]
        return remapped_keys[key], (value, words[4]) if expect_cas else value, rest

    def _room_for(self, size: int) -> memoryview:
        if self._room is not None and size <= len(self._room):
            return self._room[:size]
        return memoryview(bytearray(size))
