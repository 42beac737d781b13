"""The sending half of a connection: one system call for a small answer, and files without a copy.

One thread at a time has a sender. It is the `Sink` that a content sends itself to. Nothing here waits longer than
its caller may: what is not taken now is tried again later.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Sequence

from filestoraged.digest import Bytes
from filestoraged.errors import ClientGone, ContentCut
from filestoraged.web.receiver import DONT_WAIT, Receiver, raise_client_gone

# Larger responses are sent by a thread: a client's socket may not take them at once.
_MAX_HELD = 64 * 1024

# Up to this size, head and body are joined: copying them costs less than `sendmsg` does above `send`.
_MAX_JOINED = 16 * 1024

# Bytes of one sendfile call: some milliseconds' worth, so that others get the thread.
_SENDFILE_SIZE = 16 * 1024 * 1024

# Errors of `sendfile` that no file has. Other errors of sockets are also those of files on other machines: NFS reports
# ETIMEDOUT, GlusterFS ENOTCONN, and CephFS ESHUTDOWN.
_OF_SOCKETS = (errno.EPIPE, errno.ECONNRESET)


class WouldWait(Exception):
    """The loop cannot hold this: a thread has to send it."""


class Sender:
    """The sending half of a connection. Raises ClientGone where that takes nothing any more; other errors are OSError.

    On the server's loop, what is small is held, all of it, until `push`; what is not raises WouldWait. A thread sends
    at once, and says so by `send_at_once`.
    """

    __slots__ = ("_connection", "_flags", "_head", "_holds", "_mark", "held", "sent")

    def __init__(self, connection: socket.socket) -> None:
        # Of the contents of one answer, in bytes.
        self.sent = 0
        self._connection = connection
        self._head = b""
        # What waits for `push`.
        self.held: Sequence[Bytes] = ()
        self._holds = True
        self._flags = DONT_WAIT
        # What `unread` was at the last `mark`.
        self._mark = 0

    def send_at_once(self, flags: int) -> None:
        """Send from now on, and wait for the client not at all, or with `flags` 0 as long as SO_SNDTIMEO says."""
        self._holds = False
        self.held = ()
        self._flags = flags

    def hold(self) -> None:
        """Hold small answers from now on."""
        self._holds = True
        self._flags = DONT_WAIT

    def begin(self, head: bytes) -> None:
        """Take the `head` of an answer; it goes out with the first bytes of what it announces, or by `flush`."""
        self.sent = 0
        self._head = head

    def write(self, data: Bytes) -> int:
        if self._holds:
            taken = len(data)
            if self.held or taken > _MAX_HELD:
                raise WouldWait
            self.held = [b"".join((self._head, data))] if taken <= _MAX_JOINED else [self._head, bytes(data)]
        else:
            taken = self._behind_head(self._send([self._head, data] if self._head else [data]))
        self.sent += taken
        return taken

    def sendfile(self, descriptor: int, start: int, stop: int) -> int:
        if self._holds:
            raise WouldWait
        if self._head:
            # Until the end, the kernel makes full packets alone: a third less work for it than with TCP_NODELAY.
            self._set_cork(1)
            self._behind_head(self._send([self._head]))
            if self._head:
                return 0
        try:
            sent = os.sendfile(self._connection.fileno(), descriptor, start, min(stop - start, _SENDFILE_SIZE))
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in _OF_SOCKETS and not self._is_hung_up:
                raise
            raise_client_gone(error)
        if not sent:
            raise ContentCut("a file ended before its size")
        self.sent += sent
        if start + sent == stop:
            self._set_cork(0)
        return sent

    def flush(self) -> bool:
        """Send the head where nothing followed it. Returns whether all of it is gone, or held."""
        if self._holds:
            self.held = [self._head]
            return True
        if self._head:
            self._behind_head(self._send([self._head]))
        return not self._head

    def push(self) -> bool:
        """Send the held bytes. Returns whether all were sent."""
        held, self.held = self.held, ()
        left = (len(held[0]) if len(held) == 1 else sum(map(len, held))) - self._send(held)
        if left:
            self.held = [b"".join(held)[-left:]]
        return not left

    @property
    def unread(self) -> int:
        """Bytes in the send queue: sent, and not acknowledged by the client's kernel (tcp(7), unix(7))."""
        (size,) = struct.unpack("i", fcntl.ioctl(self._connection, termios.TIOCOUTQ, bytes(4)))
        return int(size)

    @property
    def is_local(self) -> bool:
        """Whether the connection is a Unix socket."""
        return self._connection.family == socket.AF_UNIX

    def mark(self) -> None:
        """Remember the length of the send queue."""
        self._mark = self.unread

    def has_progressed(self) -> bool:
        """Whether the send queue is shorter than at the last `mark`."""
        return self.unread < self._mark

    def send_now(self, data: bytes) -> None:
        """Send the few bytes of an interim answer. A client that does not even take these is gone."""
        if self._send([data]) < len(data):
            raise ClientGone("The client takes nothing any more.")

    def _set_cork(self, value: int) -> None:
        if self._connection.family != socket.AF_UNIX:
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, value)

    def _behind_head(self, taken: int) -> int:
        """How many of the bytes `taken` were no longer the head's."""
        rest = self._head[taken:]
        taken -= len(self._head) - len(rest)
        self._head = rest
        return taken

    def _send(self, buffers: Sequence[Bytes]) -> int:
        try:
            if len(buffers) == 1:
                return self._connection.send(buffers[0], self._flags)
            return self._connection.sendmsg(buffers, (), self._flags)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise_client_gone(error)

    @property
    def _is_hung_up(self) -> bool:
        """Whether the connection has ended in both directions, as after each error of TCP."""
        poller = select.poll()
        poller.register(self._connection, 0)
        return bool(poller.poll(0))


class Confirmation:
    """Tells when the client's kernel has acknowledged a whole response: what was only sent may still get lost."""

    def __init__(
        self, sender: Sender, receiver: Receiver, timeout: float, now: float, *, is_proxied: bool = False
    ) -> None:
        """`timeout` is how long the client may acknowledge nothing, in seconds; `now` is on the clock."""
        self._sender = sender
        self._receiver = receiver
        self._timeout = timeout
        # Whether the client is a proxy over TCP. The queue of a Unix socket is also emptied by the death of the peer.
        self._is_proxied = is_proxied and not sender.is_local
        self._unread = sender.unread
        self._since = now

    def check(self, now: float) -> bool:
        """Returns whether all is acknowledged. Raises ClientGone where it will not be."""
        unread = self._sender.unread
        # In this order: a peer that dies sets the error of a Unix socket first, and then empties its queue.
        if self._receiver.is_broken:
            # HAProxy resets a connection when its own client hangs up behind the last byte. The kernel keeps the length
            # of the queue as it was at the reset.
            if self._is_proxied and not self._sender.unread:
                return True
            raise ClientGone("The client hung up.")
        if unread < self._unread:
            self._unread, self._since = unread, now
        elif unread and now - self._since > self._timeout:
            raise ClientGone("The client takes nothing any more.")
        return not unread
