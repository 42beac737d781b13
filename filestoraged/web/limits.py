"""Bounds of time and size that the server sets its clients."""

from __future__ import annotations

from typing import NamedTuple

from filestoraged.web.request_cache import DEFAULT_CACHE_SIZE


class Limits(NamedTuple):
    """Seconds, except where a name says bytes."""

    # A head must be complete this long after its first byte.
    head: float = 20.0
    # A body may be silent this long; a mobile network's gaps are shorter.
    body: float = 30.0
    # Least mean rate of a body in bytes a second, as in Apache's mod_reqtimeout; judged from this many seconds after
    # its beginning on, so that an upload survives a network that stalls for a moment.
    body_rate: float = 500.0
    body_rate_from: float = 60.0
    # A client may take no byte of a response for this long.
    send: float = 30.0
    # How often it is checked whether a client has acknowledged the last bytes of a response.
    confirm: float = 0.1
    # A connection may be idle this long between requests.
    idle: float = 60.0
    # An idle connection is kept this long when a drain begins: a last request may be in transit.
    last_call: float = 1.0
    # Interval of the checks for deadlines and drains: an idle daemon wakes this often. A connection for which no worker
    # has a place is refused after one interval, and before the end of the next.
    notice: float = 0.5
    # A thread waits this long for a client before the connection goes to the poller: enough on one network.
    linger: float = 0.005
    # Threads that no job has needed for this long end.
    thread: float = 10.0
    # Requests wait this long for a thread where none exists and none can be started; then they get 503.
    no_thread: float = 5.0
    # Lingering close: bounds of silence, of time and of bytes, so that a client whose body is refused can read the
    # response.
    farewell: float = 10.0
    farewell_total: float = 30.0
    farewell_bytes: int = 1024 * 1024 * 1024
    # An unread body of at most this size is discarded; that costs less than a new connection.
    drain_bytes: int = 64 * 1024
    # Memory of a worker for responses that clients are slow to read: those beyond, asked for first, are cut off.
    unread_bytes: int = 128 * 1024 * 1024
    # Memory of a worker for parsed requests without a body.
    request_cache_bytes: int = DEFAULT_CACHE_SIZE
