"""The life of a connection as one table: states, events, and the state that each event leads to.

Pure: no socket, no clock, no request. Every state change of a connection is `state = state.next[event]`; an event that
a state does not declare raises UndeclaredEvent. A step that waits for more of the same (another piece of a
body, room for the rest of a response) leaves the state as it is.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple


class State(enum.Enum):
    """What a connection does now. Members are compared by identity."""

    # Looked up several times for each request: `Enum.__hash__` is Python code that hashes the name.
    __hash__ = object.__hash__

    # What follows, by event.
    next: Mapping[Event, State]

    # Between two requests. Empty lines before a request are no part of it.
    IDLE = enum.auto()
    # A part of a request head has been received.
    HEAD = enum.auto()
    # The page runs, or waits for a thread to run on.
    DISPATCH = enum.auto()
    # The page wants the next piece of the request body.
    BODY = enum.auto()
    # The page awaits a future.
    WAIT = enum.auto()
    # The response is sent; on the loop it is held until the end of the round.
    RESPOND = enum.auto()
    # The response is sent; its page wants to know whether the client's kernel has acknowledged it (drops).
    CONFIRM = enum.auto()
    # The response is finished: decide what follows.
    NEXT = enum.auto()
    # Discards the rest of a small request body that the page did not read.
    SKIP = enum.auto()
    # Lingering close: the sending half is closed, input is discarded until the client closes.
    LINGER = enum.auto()
    # The end: the socket and the place in the connection limit are given back.
    CLOSED = enum.auto()


class Event(enum.Enum):
    """What happens to a connection."""

    __hash__ = object.__hash__

    # IDLE, HEAD: the head is incomplete; complete; not a request.
    HEAD_STARTED = enum.auto()
    HEAD_COMPLETE = enum.auto()
    # Answered with an error before or instead of a page, and closed.
    REFUSED = enum.auto()
    # What the page returned, or wants.
    RESPONSE = enum.auto()
    BODY_WANTED = enum.auto()
    RESULT_WANTED = enum.auto()
    # The future that the page awaits is done.
    RESULT = enum.auto()
    # The response is sent; sent, but not yet confirmed by the client; confirmed.
    SENT = enum.auto()
    SENT_UNCONFIRMED = enum.auto()
    CONFIRMED = enum.auto()
    # What follows a response.
    KEEP_ALIVE = enum.auto()
    UNREAD_BODY = enum.auto()
    LINGER = enum.auto()
    CLOSE = enum.auto()
    # The unread body is discarded.
    SKIPPED = enum.auto()
    # The state's deadline has passed.
    DEADLINE = enum.auto()
    # An idle connection is closed for a new one, or for a drain.
    EVICTED = enum.auto()
    # The client is gone, or nothing can follow: the client reset, a defect, too much in memory, the end of the server.
    ABORTED = enum.auto()


class Wait(enum.Enum):
    """What a connection waits for between two steps."""

    __hash__ = object.__hash__

    NOTHING = enum.auto()
    # Input, or the end of it.
    READABLE = enum.auto()
    # Room in the send queue of the socket.
    WRITABLE = enum.auto()
    # Any change, once: input, acknowledgement, or reset.
    CHANGE = enum.auto()
    # The completion queue calls.
    RESULT = enum.auto()


class Owner(enum.Enum):
    """Who takes the steps of a state."""

    NONE = enum.auto()
    LOOP = enum.auto()
    # The loop where the page's route or the size allows it, else a thread of a pool.
    EITHER = enum.auto()


class Row(NamedTuple):
    owner: Owner
    waits_for: Wait
    # The field of Limits that sets the deadline, in seconds; "" for none.
    timeout: str
    on: Mapping[Event, State]


class UndeclaredEvent(Exception):
    """A defect: the state has no such event."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"event {event.name} is not declared for state {state.name}")
        self.state = state
        self.event = event


# In which state a connection begins.
INITIAL = State.IDLE

TABLE: Mapping[State, Row] = {
    State.IDLE: Row(
        Owner.EITHER,
        Wait.READABLE,
        "idle",
        {
            Event.HEAD_STARTED: State.HEAD,
            Event.HEAD_COMPLETE: State.DISPATCH,
            # 4xx, or 503 without a place in the connection limit, and close.
            Event.REFUSED: State.RESPOND,
            Event.DEADLINE: State.CLOSED,
            Event.EVICTED: State.CLOSED,
            Event.ABORTED: State.CLOSED,
        },
    ),
    State.HEAD: Row(
        Owner.EITHER,
        Wait.READABLE,
        # From the first byte: more input does not extend it.
        "head",
        {
            Event.HEAD_COMPLETE: State.DISPATCH,
            Event.REFUSED: State.RESPOND,
            # 408, and close.
            Event.DEADLINE: State.RESPOND,
            Event.ABORTED: State.CLOSED,
        },
    ),
    State.DISPATCH: Row(
        Owner.EITHER,
        Wait.NOTHING,
        "",
        {
            Event.RESPONSE: State.RESPOND,
            Event.BODY_WANTED: State.BODY,
            Event.RESULT_WANTED: State.WAIT,
            # The client has too many requests in flight, or no thread can be started: 503, and close.
            Event.REFUSED: State.RESPOND,
            Event.ABORTED: State.CLOSED,
        },
    ),
    State.BODY: Row(
        Owner.EITHER,
        Wait.READABLE,
        # Of silence: each piece extends it.
        "body",
        {
            Event.RESPONSE: State.RESPOND,
            Event.RESULT_WANTED: State.WAIT,
            Event.REFUSED: State.RESPOND,
            # The page gets a RequestTimeout where it reads: its response is the 408.
            Event.DEADLINE: State.BODY,
            Event.ABORTED: State.CLOSED,
        },
    ),
    State.WAIT: Row(
        Owner.NONE,
        Wait.RESULT,
        # What produces the result has a timeout of its own.
        "",
        {
            Event.RESULT: State.DISPATCH,
            Event.ABORTED: State.CLOSED,
        },
    ),
    State.RESPOND: Row(
        Owner.EITHER,
        Wait.WRITABLE,
        # Without progress: where the client has taken some of it, the wait begins again.
        "send",
        {
            Event.SENT: State.NEXT,
            Event.SENT_UNCONFIRMED: State.CONFIRM,
            Event.DEADLINE: State.CLOSED,
            Event.ABORTED: State.CLOSED,
        },
    ),
    State.CONFIRM: Row(
        Owner.EITHER,
        Wait.CHANGE,
        # No event tells that the queue has become empty: it is looked at this often. The deadline is `send`.
        "confirm",
        {
            Event.CONFIRMED: State.NEXT,
            # The response is closed unconfirmed: a drop becomes available again.
            Event.DEADLINE: State.CLOSED,
            Event.ABORTED: State.CLOSED,
        },
    ),
    State.NEXT: Row(
        Owner.EITHER,
        Wait.NOTHING,
        "",
        {
            Event.KEEP_ALIVE: State.IDLE,
            Event.UNREAD_BODY: State.SKIP,
            Event.LINGER: State.LINGER,
            Event.CLOSE: State.CLOSED,
            Event.ABORTED: State.CLOSED,
        },
    ),
    State.SKIP: Row(
        Owner.EITHER,
        Wait.READABLE,
        "idle",
        {
            Event.SKIPPED: State.IDLE,
            Event.DEADLINE: State.CLOSED,
            Event.ABORTED: State.CLOSED,
        },
    ),
    State.LINGER: Row(
        Owner.LOOP,
        Wait.READABLE,
        # Of silence; `farewell_total` and `farewell_bytes` bound the whole.
        "farewell",
        {
            Event.CLOSE: State.CLOSED,
            Event.DEADLINE: State.CLOSED,
            Event.ABORTED: State.CLOSED,
        },
    ),
    State.CLOSED: Row(Owner.NONE, Wait.NOTHING, "", {}),
}

# Looking a member up by its class costs as much as the transition (CPython 3.11): code that runs for each request binds
# members by name once.
IDLE, HEAD, DISPATCH, BODY, WAIT, RESPOND, CONFIRM, NEXT, SKIP, LINGER, CLOSED = State


class _Transitions(dict[Event, State]):
    """Those of one state. A plain lookup: it is done several times for each request."""

    def __init__(self, state: State, on: Mapping[Event, State]) -> None:
        super().__init__(on)
        self._state = state

    def __missing__(self, event: Event) -> State:
        raise UndeclaredEvent(self._state, event)


for _state, _row in TABLE.items():
    _state.next = _Transitions(_state, _row.on)
