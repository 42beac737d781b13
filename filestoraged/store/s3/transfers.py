"""The bytes of one object on their way from or to an S3 store, each on a connection of its own until they are over."""

from __future__ import annotations

import http.client
import math
from collections.abc import Callable

from filestoraged.digest import Bytes
from filestoraged.errors import StoreUnavailable
from filestoraged.net.connection import FAILURES, HttpConnection, HttpExchange
from filestoraged.store.s3.answers import Answer


class GetTransfer:
    """An object as it is received. One thread at a time calls it."""

    def __init__(self, exchange: HttpExchange, *, size: int, left: int) -> None:
        """`size` is that of the whole object, and `left` is how many bytes come, which may be a part of it."""
        self._exchange = exchange
        self._left = left
        self.size = size
        self.fields = exchange.fields
        # The client that reads them may be slow: only silence ends it.
        self.limit(math.inf)

    def limit(self, until: float) -> None:
        """Set when the last byte must have come, on the monotonic clock."""
        self._exchange.limit(until)

    def read(self, size: int) -> bytes:
        """Read so many bytes, fewer only at the end. Raises one of FAILURES, also where the answer is cut."""
        wanted = min(size, self._left)
        data = self._exchange.read(wanted)
        if len(data) < wanted:
            raise http.client.IncompleteRead(data, self._left - len(data))
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Keep the connection if all was read. A second call does nothing."""
        self._exchange.close()


class PutTransfer:
    """The body of a PUT as it is sent. One thread at a time calls it.

    The store makes nothing visible before the last byte, which `finish` sends: by then the caller has compared what it
    sent with the digest that it announced.
    """

    def __init__(
        self,
        connection: HttpConnection,
        size: int,
        *,
        finish: Callable[[], Answer],
        note_failure: Callable[[BaseException, float], None],
    ) -> None:
        """`finish` reads the answer. Raises what it means, and StoreUnavailable.

        `note_failure` gets a timeout, and the time, on the monotonic clock, from which on the store took nothing.
        """
        self._connection: HttpConnection | None = connection
        self._left = size
        self._finish = finish
        self._note_failure = note_failure

    def write(self, data: Bytes) -> None:
        """Send bytes, but not the last one. Raises what a refusal of the store means, and StoreUnavailable."""
        if len(data) >= self._left:
            raise ValueError("the last bytes of an upload are sent by `finish`")
        self._send(data)

    def finish(self, last: Bytes) -> Answer:
        """Send the last bytes. Returns a good answer."""
        if len(last) != self._left:
            raise ValueError(f"the upload ends with {self._left} bytes, not {len(last)}")
        self._send(last)
        self._connection = None
        return self._finish()

    def abort(self) -> None:
        """Close the connection before the end of the body. Does nothing after `finish`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _send(self, data: Bytes) -> None:
        connection = self._connection
        if connection is None or connection.sock is None:
            raise ValueError("the upload was aborted")
        self._left -= len(data)
        started = connection.clock()
        try:
            connection.send_all(data)
        except TimeoutError as failure:
            self._note_failure(failure, started)
            self.abort()
            raise StoreUnavailable from failure
        except FAILURES as failure:
            self._connection = None
            # The store may have refused the body before its end.
            self._finish()
            raise StoreUnavailable from failure
