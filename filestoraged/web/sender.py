"""What a connection is sent: one system call for a small answer, and files without a copy.

One thread at a time has a sender. It is the `Sink` that a content sends itself to.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import List

from filestoraged.digest import Bytes
from filestoraged.errors import ClientGone

# Up to here, reading a file and sending it with its head is one call less than `sendfile` behind a head.
_SMALL = 64 * 1024

# What one call of sendfile may take; the kernel stops at 2 GiB anyway.
_SENDFILE_SIZE = 1 << 30


class ContentCut(Exception):
    """A content had fewer bytes than its head has announced."""


class Sender:
    """The sending half of a connection. Raises ClientGone where it takes nothing any more."""

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        # Of the contents of one answer, in bytes; whoever counts them sets it back.
        self.sent = 0
        self._connection = connection
        self._head = b""
        seconds, fraction = divmod(timeout, 1)
        value = struct.pack("@ll", int(seconds), int(fraction * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def begin(self, head: bytes) -> None:
        """Hold `head` until the first bytes of what it announces; `finish` sends it in any case."""
        self._head = head

    def write(self, data: Bytes) -> None:
        self._send_all([self._head, data] if self._head else [data])
        self.sent += len(data)

    def sendfile(self, descriptor: int, start: int, stop: int) -> None:
        if stop - start <= _SMALL:
            self._send_small(descriptor, start, stop)
            return
        # The kernel waits for more before it makes packets of the head.
        self._send_all([self._head], socket.MSG_MORE)
        while start < stop:
            try:
                sent = os.sendfile(self._connection.fileno(), descriptor, start, min(stop - start, _SENDFILE_SIZE))
            except OSError as error:
                raise _gone(error) from error
            if not sent:
                raise ContentCut("a file ended before its size")
            start += sent
            self.sent += sent

    def finish(self) -> None:
        """Send the head where nothing followed it."""
        if self._head:
            self._send_all([self._head])

    def send_now(self, data: bytes) -> None:
        """Send bytes that are no answer's, such as a `100 Continue`."""
        self._send_all([data])

    def _send_small(self, descriptor: int, start: int, stop: int) -> None:
        data = os.pread(descriptor, stop - start, start)
        if len(data) < stop - start:
            raise ContentCut("a file ended before its size")
        self.write(data)

    def _send_all(self, buffers: List[Bytes], flags: int = 0) -> None:
        self._head = b""
        left = sum(len(each) for each in buffers)
        try:
            left -= self._connection.sendmsg(buffers, (), flags)
            if left:
                # A large answer, a full window or a signal: the rest goes in one piece.
                rest = memoryview(b"".join(buffers))
                while left:
                    left -= self._connection.send(rest[len(rest) - left :], flags)
        except OSError as error:
            raise _gone(error) from error


def _gone(error: OSError) -> ClientGone:
    if isinstance(error, BlockingIOError):
        return ClientGone("The client takes nothing any more.")
    return ClientGone("The client hung up.")
