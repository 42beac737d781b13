"""The sending half of a connection, on a pair of sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import tempfile
import unittest
from collections.abc import Iterator
from unittest import mock

from filestoraged.errors import ClientGone, ContentCut
from filestoraged.web.receiver import DONT_WAIT, Receiver
from filestoraged.web.sender import Confirmation, Sender, WouldWait

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"

# What the server makes of errors of a socket: its peer has caused most of them, or the network.
SOCKET_ERRORS = {
    **dict.fromkeys((errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENOTCONN), ClientGone),
    **dict.fromkeys((errno.EIO, errno.EBADF, errno.ENOTSOCK, errno.ENOMEM, errno.ENOBUFS, errno.EINVAL), OSError),
}


class SenderTest(unittest.TestCase):
    def setUp(self) -> None:
        self.client, self.socket = socket.socketpair()
        self.addCleanup(self.client.close)
        self.addCleanup(self.socket.close)
        self.sender = Sender(self.socket)
        self.sender.begin(HEAD)

    def received(self) -> bytes:
        self.client.setblocking(False)
        data = b""
        try:
            while piece := self.client.recv(1 << 20):
                data += piece
        except BlockingIOError:
            pass
        return data

    def fill(self) -> None:
        """Send until the socket takes nothing more."""
        self.sender.send_at_once(DONT_WAIT)
        while self.sender.write(bytes(100_000)):
            pass

    def test_small_response_is_held_until_push(self) -> None:
        taken = self.sender.write(b"tea")
        before = self.received()

        done = self.sender.push()

        self.assertEqual((3, b"", True), (taken, before, done))
        self.assertEqual(HEAD + b"tea", self.received())

    def test_large_response_is_not_held(self) -> None:
        self.assertRaises(WouldWait, self.sender.write, bytes(64 * 1024 + 1))

    def test_head_without_a_body_is_sent_by_flush_and_push(self) -> None:
        self.assertTrue(self.sender.flush())
        self.assertTrue(self.sender.push())

        self.assertEqual(HEAD, self.received())

    def test_head_goes_out_once_with_the_first_bytes(self) -> None:
        self.sender.send_at_once(DONT_WAIT)

        self.assertEqual([3, 3], [self.sender.write(b"tea"), self.sender.write(b"pot")])

        self.assertEqual(HEAD + b"teapot", self.received())
        self.assertEqual(6, self.sender.sent)

    def test_file_is_sent_behind_the_head(self) -> None:
        self.sender.send_at_once(DONT_WAIT)
        with tempfile.TemporaryFile() as file:
            file.write(b"a teapot")
            file.flush()

            sent = self.sender.sendfile(file.fileno(), 2, 8)

        self.assertEqual((6, HEAD + b"teapot"), (sent, self.received()))

    def test_file_that_ends_before_its_size_raises_content_cut(self) -> None:
        self.sender.send_at_once(DONT_WAIT)
        with tempfile.TemporaryFile() as file:
            self.assertRaises(ContentCut, self.sender.sendfile, file.fileno(), 0, 8)

    def test_error_of_sendfile_while_the_client_is_connected_is_raised_as_it_is(self) -> None:
        # Those behind EINVAL are also errors of sockets, and here of files on other machines.
        for number in (errno.EIO, errno.EBADF, errno.EINVAL, errno.ENOTCONN, errno.ETIMEDOUT, errno.ESHUTDOWN):
            with self.subTest(errno.errorcode[number]):
                error = self.error_of_sendfile(number)

                self.assertEqual(number, error.errno if isinstance(error, OSError) else error)

    def test_error_of_the_file_is_raised_as_it_is_after_the_client_left_too(self) -> None:
        self.client.close()

        self.assertIsInstance(self.error_of_sendfile(errno.EIO), OSError)

    def test_error_of_the_connection_in_sendfile_raises_client_gone(self) -> None:
        before = [self.error_of_sendfile(number) for number in (errno.EPIPE, errno.ECONNRESET)]
        self.client.close()
        after = [self.error_of_sendfile(number) for number in (errno.EPIPE, errno.ETIMEDOUT, errno.EHOSTUNREACH)]

        for error in before + after:
            self.assertIsInstance(error, ClientGone)

    def test_error_of_tcp_in_sendfile_raises_client_gone(self) -> None:
        with (
            connected_by_tcp() as (client, server),
            mock.patch("os.sendfile", side_effect=OSError(errno.ETIMEDOUT, "")),
        ):
            sender = Sender(server)
            sender.send_at_once(DONT_WAIT)
            self.assertRaises(OSError, sender.sendfile, 0, 0, 1)
            reset(client)

            self.assertRaises(ClientGone, sender.sendfile, 0, 0, 1)

    def test_error_of_send_is_the_servers_unless_a_socket_has_it_of_its_peer(self) -> None:
        for number, expected in SOCKET_ERRORS.items():
            connection = mock.Mock(
                **{"send.side_effect": OSError(number, ""), "sendmsg.side_effect": OSError(number, "")}
            )
            for data in (b"", b"tea"):
                with self.subTest(errno.errorcode[number], data=data):
                    sender = Sender(connection)
                    sender.send_at_once(DONT_WAIT)
                    sender.begin(data)

                    self.assertRaises(expected, sender.write, b"pot")

    def error_of_sendfile(self, number: int) -> Exception | None:
        """What the sender makes of an error of the system call."""
        sender = Sender(self.socket)
        sender.send_at_once(DONT_WAIT)
        with mock.patch("os.sendfile", side_effect=OSError(number, "")):
            try:
                sender.sendfile(0, 0, 1)
            except Exception as error:
                return error
        return None

    def test_file_is_not_sent_while_responses_are_held(self) -> None:
        self.assertRaises(WouldWait, self.sender.sendfile, 0, 0, 1)

    def test_socket_that_takes_nothing_takes_no_byte_and_does_not_wait(self) -> None:
        self.fill()

        self.assertEqual(0, self.sender.write(b"more"))

    def test_rest_of_a_held_response_is_sent_by_the_next_push(self) -> None:
        self.fill()
        self.sender.hold()
        self.sender.begin(HEAD)
        self.sender.write(b"tea")
        first = self.sender.push()
        while not self.sender.push():
            self.received()

        self.assertFalse(first)
        self.assertTrue((self.received() or HEAD + b"tea").endswith(HEAD + b"tea"))

    def test_client_that_is_gone_raises_client_gone(self) -> None:
        self.client.close()
        self.sender.write(b"tea")

        self.assertRaises(ClientGone, self.sender.push)

    def test_interim_response_that_is_not_taken_raises_client_gone(self) -> None:
        self.fill()

        self.assertRaises(ClientGone, self.sender.send_now, b"HTTP/1.1 100 Continue\r\n\r\n")

    def test_progress_is_a_shorter_send_queue_than_at_the_mark(self) -> None:
        self.fill()
        self.sender.mark()
        before = self.sender.has_progressed()
        self.received()

        self.assertEqual([False, True], [before, self.sender.has_progressed()])

    def test_confirmation_waits_until_the_queue_is_empty(self) -> None:
        self.fill()
        confirmation = Confirmation(self.sender, Receiver(self.socket), 60.0, 0.0)
        before = confirmation.check(0.0)
        self.received()

        self.assertEqual([False, True], [before, confirmation.check(0.0)])

    def test_confirmation_without_progress_raises_client_gone(self) -> None:
        self.fill()

        self.assertRaises(ClientGone, Confirmation(self.sender, Receiver(self.socket), 60.0, 0.0).check, 60.1)

    def test_confirmation_of_a_connection_that_was_reset_raises_client_gone(self) -> None:
        self.fill()
        confirmation = Confirmation(self.sender, Receiver(self.socket), 60.0, 0.0)
        self.client.close()

        self.assertRaises(ClientGone, confirmation.check, 0.0)

    def test_reset_by_a_proxy_behind_the_last_byte_confirms_it_and_by_a_client_does_not(self) -> None:
        for is_proxied in (True, False):
            with self.subTest(is_proxied=is_proxied), connected_by_tcp() as (client, server):
                sender = Sender(server)
                sender.send_at_once(DONT_WAIT)
                sender.begin(HEAD)
                sender.write(b"tea")
                confirmation = Confirmation(sender, Receiver(server), 60.0, 0.0, is_proxied=is_proxied)
                while sender.unread:
                    client.recv(1 << 20)

                reset(client)

                if is_proxied:
                    self.assertTrue(confirmation.check(0.0))
                else:
                    self.assertRaises(ClientGone, confirmation.check, 0.0)

    def test_reset_by_a_proxy_before_the_last_byte_raises_client_gone(self) -> None:
        with connected_by_tcp() as (client, server):
            sender = Sender(server)
            sender.send_at_once(DONT_WAIT)
            sender.begin(HEAD)
            while sender.write(bytes(100_000)):
                pass
            confirmation = Confirmation(sender, Receiver(server), 60.0, 0.0, is_proxied=True)

            reset(client)

            self.assertRaises(ClientGone, confirmation.check, 0.0)

    def test_descriptor_of_a_file_is_left_open(self) -> None:
        self.sender.send_at_once(DONT_WAIT)
        with tempfile.TemporaryFile() as file:
            file.write(b"tea")
            file.flush()
            self.sender.sendfile(file.fileno(), 0, 3)

            self.assertEqual(3, os.fstat(file.fileno()).st_size)


@contextlib.contextmanager
def connected_by_tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
    ):
        yield client, server


def reset(client: socket.socket) -> None:
    """Close a connection as HAProxy does."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
