"""A connection to one memcached server: pymemcache's client with its own connecting and transfer of large values.

The invariant: whatever a server sends, a request ends with a reply or an error after a bounded number of bytes, in a
bounded time.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from filestoraged.digest import Bytes

try:
    from pymemcache.client.base import Client
    from pymemcache.exceptions import MemcacheUnexpectedCloseError, MemcacheUnknownError
except ImportError:
    # A store on disk works without it. `pool` raises an error that names it.
    Client = object  # type: ignore[assignment,misc]

# The length of the line end that follows a value.
LINE_END = 2

# Values are chunks and manifests. A reply that announces more bytes gets no memory.
_MAX_VALUE_SIZE = 1024 * 1024

# In bytes. The listing of an item whose key has 250 bytes, percent-encoded, has about 900.
_MAX_LINE_SIZE = 2048

# The maximum size of a reply without values and listings, in bytes. Statistics have a tenth of that, and so have the
# replies to a hundred commands. pymemcache itself reads without a limit until a line ends.
_MAX_REPLY_SIZE = 64 * 1024


# The time of a whole reply, in times of silence: a server may send a byte a second.
_REPLY_TIMEOUTS = 4


class BoundedSocket:
    """A socket whose `recv` returns at most _MAX_REPLY_SIZE bytes per request. `recv_into` is for sized values."""

    def __init__(self, plain: socket.socket, timeout: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`timeout` is how many seconds the server may be silent."""
        self.plain = plain
        self._timeout = timeout
        self._clock = clock
        self._left = 0
        self._until = 0.0

    def sendall(self, data: Bytes, flags: int = 0) -> None:
        self._left = _MAX_REPLY_SIZE
        self.plain.sendall(data, flags)
        self._until = self._clock() + _REPLY_TIMEOUTS * self._timeout

    def recv(self, size: int) -> bytes:
        self._check_time()
        data = self.plain.recv(size)
        self._left -= len(data)
        if self._left < 0:
            raise MemcacheUnknownError(f"reply exceeds {_MAX_REPLY_SIZE} bytes")
        return data

    def recv_into(self, buffer: memoryview) -> int:
        self._check_time()
        return self.plain.recv_into(buffer)

    def close(self) -> None:
        self.plain.close()

    def _check_time(self) -> None:
        if self._clock() > self._until:
            raise TimeoutError("the reply is not complete in time")


class ServerClient(Client):
    """One thread at a time uses it. A failed request closes the connection, and the next one reconnects."""

    sock: Any

    def __init__(self, address: tuple[str, int], *, connect_timeout: float, timeout: float) -> None:
        """The first request connects. Every request reads its reply. Timeouts are in seconds."""
        super().__init__(address, connect_timeout=connect_timeout, timeout=timeout, default_noreply=False)
        self._address = address
        self._silence_timeout = timeout
        self._buffer: memoryview | None = None

    def get_into(self, key: str, buffer: memoryview | None) -> memoryview | None:
        """Like `get`, but read the value into `buffer` if that has room for it and its line end."""
        self._buffer = buffer
        try:
            value: memoryview | None = self.get(key)
        finally:
            self._buffer = None
        return value

    def set_unserialized(self, key: str, data: Bytes, expire: int) -> None:
        """Like `set`, which accepts `bytes` only and copies them twice."""
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
        return self._call_all(commands, b"touch", b"TOUCHED")

    def delete_all(self, keys: Sequence[str]) -> list[bool]:
        """Delete the keys, in one packet. Returns for each whether it was present."""
        return self._call_all([b"delete %b\r\n" % key.encode() for key in keys], b"delete", b"DELETED")

    def stats(self, *names: str) -> dict[bytes, Any]:
        """Like the client's, which raises IndexError on a line without a name."""
        try:
            statistics: dict[bytes, Any] = super().stats(*names)  # type: ignore[no-untyped-call]
        except (IndexError, ValueError) as error:
            raise MemcacheUnknownError("malformed statistics") from error
        return statistics

    def list_items(self, on_line: Callable[[bytes], None]) -> bool:
        """Call `on_line` with a line for each item of the server. Returns False if it lists for another client.

        The server walks its hash table: an item that moves between two LRU queues is on neither.
        """
        if self.sock is None:
            self._connect()
        rest = b""
        try:
            self.sock.sendall(b"lru_crawler metadump hash\r\n")
            while True:
                # A listing is unbounded; each line is bounded.
                received = self.sock.plain.recv(65536)
                if not received:
                    raise MemcacheUnexpectedCloseError
                *lines, rest = (rest + received).split(b"\n")
                longest = max((*lines, rest), key=len)
                if len(longest) > _MAX_LINE_SIZE:
                    raise MemcacheUnknownError(longest[:32])
                for line in lines:
                    if line.startswith(b"key="):
                        on_line(line)
                    elif line.startswith((b"END", b"BUSY")):
                        return bool(line.startswith(b"END"))
                    else:
                        raise MemcacheUnknownError(
                            f"the server does not list its items: {line.decode('ascii', 'replace').strip()}"
                        )
        except Exception:
            self.close()
            raise

    def _connect(self) -> None:
        # pymemcache tries only the first address of a name, and the server may listen on the second.
        self.close()
        plain = socket.create_connection(self._address, self.connect_timeout)
        plain.settimeout(self.timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.sock = BoundedSocket(plain, self._silence_timeout)

    def _receive_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            received = self.sock.recv(4096)
            if not received:
                # Closed before the line was complete.
                raise MemcacheUnexpectedCloseError
            line += received
            if len(line) > _MAX_LINE_SIZE:
                raise MemcacheUnknownError(line[:32])
        return line

    def _call_all(self, commands: Sequence[bytes], name: bytes, positive: bytes) -> list[bool]:
        """Send many commands in one packet. Returns for each whether the reply was `positive`, and not NOT_FOUND."""
        replies = self._misc_cmd(commands, name, False)
        for reply in replies:
            if reply not in (positive, b"NOT_FOUND"):
                self.close()
                raise MemcacheUnknownError(reply[:32])
        return [reply == positive for reply in replies]

    def _extract_value(
        self, expect_cas: bool, line: bytes, buf: bytes, remapped_keys: dict[Any, Any], prefixed_keys: list[bytes]
    ) -> tuple[Any, Any, bytes]:
        """Read the value that `line` announces and whose first bytes are in `buf` directly into its buffer.

        pymemcache reads 4 KiB a call and joins them, which takes twice as long.
        """
        if len(line) > _MAX_LINE_SIZE:
            # int() takes quadratic time, and the line may contain a number of any length.
            raise MemcacheUnknownError(line[:32])
        words = line.split()
        if len(words) != (5 if expect_cas else 4):
            raise MemcacheUnknownError(line[:32])
        key, size = words[1], words[3]
        if key not in remapped_keys or not size.isdigit() or int(size) > _MAX_VALUE_SIZE:
            raise MemcacheUnknownError(line[:32])
        data = self._buffer_for(int(size) + LINE_END)
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

    def _buffer_for(self, size: int) -> memoryview:
        if self._buffer is not None and size <= len(self._buffer):
            return self._buffer[:size]
        return memoryview(bytearray(size))
