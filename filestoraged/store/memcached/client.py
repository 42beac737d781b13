"""A connection to one memcached server: pymemcache's client, but for how it connects and how large values pass.

The invariant: whatever a server sends, a request ends with an answer or an error after a bounded number of bytes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

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

# The longest line, in bytes: the listing of an item whose key has 250 bytes, percent-encoded, has some 900.
_LONGEST_LINE = 2048

# The longest reply in bytes, without values and listings: statistics have a tenth of that, and so have the answers to a
# hundred commands. pymemcache itself collects without a limit until a line ends.
_LONGEST_REPLY = 64 * 1024


class _BoundedSocket:
    """A socket whose `recv` gives at most _LONGEST_REPLY bytes per request. `recv_into` is for values of known size."""

    def __init__(self, plain: socket.socket) -> None:
        self.plain = plain
        self._left = 0

    def sendall(self, data: Bytes, flags: int = 0) -> None:
        self._left = _LONGEST_REPLY
        self.plain.sendall(data, flags)

    def recv(self, size: int) -> bytes:
        data = self.plain.recv(size)
        self._left -= len(data)
        if self._left < 0:
            raise MemcacheUnknownError(f"reply of more than {_LONGEST_REPLY} bytes")
        return data

    def recv_into(self, buffer: memoryview) -> int:
        return self.plain.recv_into(buffer)

    def close(self) -> None:
        self.plain.close()


class ServerClient(Client):
    """One thread at a time uses it. What fails closes it, and the next question connects anew."""

    sock: Any

    def __init__(self, address: tuple[str, int], *, connect_timeout: float, timeout: float) -> None:
        """It connects with the first question. Replies are read, whatever is asked."""
        super().__init__(address, connect_timeout=connect_timeout, timeout=timeout, default_noreply=False)
        self._address = address
        self._room: memoryview | None = None

    def fetch(self, key: str, room: memoryview | None) -> memoryview | None:
        """The same as `get`, into `room` where the value and the end of its line fit."""
        self._room = room
        try:
            value: memoryview | None = self.get(key)
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
            reply = self._receive_line()
            self._raise_errors(reply, b"set")
            if reply != b"STORED\r\n":
                raise MemcacheUnknownError(reply[:32])
        except Exception:
            self.close()
            raise

    def touch_all(self, keys: Sequence[tuple[str, int]]) -> list[bool]:
        """Set the expiry of each key, in one packet. Returns for each whether it is present."""
        commands = [b"touch %b %d\r\n" % (key.encode(), expire) for key, expire in keys]
        return self._ask_all(commands, b"touch", b"TOUCHED")

    def delete_all(self, keys: Sequence[str]) -> list[bool]:
        """Delete the keys, in one packet. Returns for each whether it was present."""
        return self._ask_all([b"delete %b\r\n" % key.encode() for key in keys], b"delete", b"DELETED")

    def stats(self, *names: str) -> dict[bytes, Any]:
        """The same as the client's, which raises IndexError on a line without a name."""
        try:
            statistics: dict[bytes, Any] = super().stats(*names)  # type: ignore[no-untyped-call]
        except (IndexError, ValueError) as error:
            raise MemcacheUnknownError("malformed statistics") from error
        return statistics

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
                # A listing has no bound of its own; each line has.
                received = self.sock.plain.recv(65536)
                if not received:
                    raise MemcacheUnexpectedCloseError
                *lines, rest = (rest + received).split(b"\n")
                if len(rest) > _LONGEST_LINE:
                    raise MemcacheUnknownError(rest[:32])
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
        plain = socket.create_connection(self._address, self.connect_timeout)
        plain.settimeout(self.timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.sock = _BoundedSocket(plain)

    def _receive_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            received = self.sock.recv(4096)
            if not received:
                # Closed before the line was complete.
                raise MemcacheUnexpectedCloseError
            line += received
            if len(line) > _LONGEST_LINE:
                raise MemcacheUnknownError(line[:32])
        return line

    def _ask_all(self, commands: Sequence[bytes], name: bytes, yes: bytes) -> list[bool]:
        """Send many commands in one packet. Returns for each whether the reply was `yes`, and not NOT_FOUND."""
        replies = self._misc_cmd(commands, name, False)
        for reply in replies:
            if reply not in (yes, b"NOT_FOUND"):
                self.close()
                raise MemcacheUnknownError(reply[:32])
        return [reply == yes for reply in replies]

    def _extract_value(
        self, expect_cas: bool, line: bytes, buf: bytes, remapped_keys: dict[Any, Any], prefixed_keys: list[bytes]
    ) -> tuple[Any, Any, bytes]:
        """Read the value that `line` announces and `buf` begins, straight to where it stays.

        The client's own reads 4 KiB a call and joins them, which takes twice as long.
        """
        if len(line) > _LONGEST_LINE:
            # int() takes quadratic time, and the line may hold a number of any length.
            raise MemcacheUnknownError(line[:32])
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
