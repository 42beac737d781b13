"""What a connection is sent: one system call for a small answer, and files without a copy.

One thread at a time has a sender. It is the `Sink` that a content sends itself to. Nothing here waits longer than
its caller may: what is not taken now is tried again later.
"""

from __future__ import annotations

import os
import socket
from typing import List

from filestoraged.digest import Bytes
from filestoraged.errors import ClientGone

# Up to here, reading a file and sending it with its head is one call less than `sendfile` behind a head.
_SMALL = 64 * 1024

# What one call of sendfile is given: some milliseconds' worth, so that whoever waits for the thread gets it.
_SENDFILE_SIZE = 16 * 1024 * 1024


class ContentCut(Exception):
    """A content had fewer bytes than its head has announced."""


class WouldWait(Exception):
    """The disk has to be asked, which takes a thread that may wait."""


class Sender:
    """The sending half of a connection. Raises ClientGone where that takes nothing any more.

    `flags` says how long a call may wait for the client: not at all by MSG_DONTWAIT, else as long as the socket's
    SO_SNDTIMEO. Who `may_read` waits for the disk; else files are read into `scratch`, if the kernel has them at hand.
    """

    __slots__ = ("_connection", "_head", "_scratch", "flags", "may_read", "sent")

    def __init__(self, connection: socket.socket, scratch: memoryview) -> None:
        # Of the contents of one answer, in bytes; whoever counts them sets it back.
        self.sent = 0
        self.flags = socket.MSG_DONTWAIT
        self.may_read = False
        self._connection = connection
        self._scratch = scratch
        self._head = b""

    def begin(self, head: bytes) -> None:
        """Hold `head` until the first bytes of what it announces; `flush` sends it in any case."""
        self._head = head

    def write(self, data: Bytes) -> int:
        taken = self._send([self._head, data] if self._head else [data])
        if self._head:
            taken = self._behind_head(taken)
        self.sent += taken
        return taken

    def sendfile(self, descriptor: int, start: int, stop: int) -> int:
        if stop - start <= _SMALL:
            return self.write(self._read(descriptor, start, stop))
        if not self.may_read:
            raise WouldWait
        if not self._send_head_before_more():
            return 0
        try:
            sent = os.sendfile(self._connection.fileno(), descriptor, start, min(stop - start, _SENDFILE_SIZE))
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone("The client hung up.") from error
        if not sent:
            raise ContentCut("a file ended before its size")
        self.sent += sent
        return sent

    def flush(self) -> bool:
        """Send the head where nothing followed it. Returns whether all of it is gone."""
        if self._head:
            self._behind_head(self._send([self._head]))
        return not self._head

    def send_now(self, data: bytes) -> None:
        """Send the few bytes of an interim answer. A client that does not even take these is gone."""
        if self._send([data]) < len(data):
            raise ClientGone("The client takes nothing any more.")

    def _send_head_before_more(self) -> bool:
        """Send the head, of which the kernel makes no packet before more comes. Returns whether it is gone."""
        if self._head:
            self._behind_head(self._send([self._head], socket.MSG_MORE))
        return not self._head

    def _behind_head(self, taken: int) -> int:
        """How many of the bytes `taken` were no longer the head's."""
        rest = self._head[taken:]
        taken -= len(self._head) - len(rest)
        self._head = rest
        return taken

    def _read(self, descriptor: int, start: int, stop: int) -> Bytes:
        if self.may_read:
            data = os.pread(descriptor, stop - start, start)
            if len(data) < stop - start:
                raise ContentCut("a file ended before its size")
            return data
        view = self._scratch[: stop - start]
        try:
            read = os.preadv(descriptor, (view,), start, os.RWF_NOWAIT)
        except OSError as error:
            # Not in memory; or a file system that cannot say.
            raise WouldWait from error
        if read < stop - start:
            raise WouldWait
        return view

    def _send(self, buffers: List[Bytes], more: int = 0) -> int:
        try:
            return self._connection.sendmsg(buffers, (), self.flags | more)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone("The client hung up.") from error
