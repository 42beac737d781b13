"""How long the server waits for a client, and how much it puts up with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Seconds, but where a name says bytes."""

    # A head must be complete this long after its first byte.
    head: float = 20.0
    # A body may be silent this long; a mobile network's gaps are shorter.
    body: float = 30.0
    # Bytes a second that a body must have come at on the mean, as Apache's mod_reqtimeout asks for; judged from so many
    # seconds after its beginning on, so that a network that stalls for a moment costs nobody an upload.
    body_rate: float = 500.0
    body_rate_from: float = 60.0
    # A client may take no byte of an answer for this long.
    send: float = 30.0
    # How often it is checked whether a client has acknowledged the last bytes of a response.
    confirm: float = 0.1
    # A connection may rest this long between requests.
    idle: float = 60.0
    # A new connection waits this long for a place where all are taken: for two looks by `notice`, so that what has
    # become idle in another worker is known of.
    place: float = 1.0
    # One that rests when the server is to stop has this long for another request: it may be on its way already.
    last_call: float = 1.0
    # How soon a deadline that has passed is noticed, or that the server is to stop: an idle daemon wakes that often.
    notice: float = 0.5
    # A thread waits this long for a connection to go on before it is parked: a client on the same network has by then.
    linger: float = 0.005
    # A thread without anything to do ends after this long.
    thread: float = 10.0
    # Requests wait this long where the system starts no thread at all and none is there; then they are refused.
    no_thread: float = 5.0
    # After an answer that refuses a body, the client is read on for this long, and this much, so that it
    # comes to read the answer: 10 s of silence is a client that does not care.
    farewell: float = 10.0
    farewell_total: float = 30.0
    farewell_bytes: int = 1024 * 1024 * 1024
    # An unread body of this size is read instead of closing the connection: cheaper than a new connection.
    drain_bytes: int = 64 * 1024
