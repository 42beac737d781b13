"""The table of a connection's states, cell by cell, without a socket."""

from __future__ import annotations

import unittest
from itertools import product

from filestoraged.web.limits import Limits
from filestoraged.web.states import INITIAL, TABLE, Event, Owner, State, UndeclaredEvent, Wait


def reachable(starts: tuple[State, ...]) -> set[State]:
    seen: set[State] = set()
    todo = list(starts)
    while todo:
        state = todo.pop()
        if state not in seen:
            seen.add(state)
            todo.extend(TABLE[state].on.values())
    return seen


def walk(start: State, *events: Event) -> list[str]:
    """The names of the states that events lead to."""
    state, passed = start, []
    for event in events:
        state = state.next[event]
        passed.append(state.name)
    return passed


class TableTest(unittest.TestCase):
    def test_table_has_a_row_for_each_state(self) -> None:
        self.assertEqual(set(State), set(TABLE))

    def test_each_cell_leads_to_the_state_of_its_row_or_is_undeclared(self) -> None:
        for state, event in product(State, Event):
            with self.subTest(state=state, event=event):
                if event in TABLE[state].on:
                    self.assertIs(TABLE[state].on[event], state.next[event])
                else:
                    with self.assertRaises(UndeclaredEvent) as raised:
                        state.next[event]
                    self.assertIn(state.name, str(raised.exception))
                    self.assertIn(event.name, str(raised.exception))

    def test_each_event_is_declared_by_some_state(self) -> None:
        self.assertEqual(set(Event), {event for row in TABLE.values() for event in row.on})

    def test_each_state_is_reachable_from_the_initial_one(self) -> None:
        self.assertEqual(set(State), reachable((INITIAL,)))

    def test_each_state_reaches_the_end(self) -> None:
        for state in State:
            with self.subTest(state=state):
                self.assertIn(State.CLOSED, reachable((state,)))

    def test_closed_is_the_only_end(self) -> None:
        self.assertEqual([State.CLOSED], [state for state in State if not TABLE[state].on])

    def test_each_state_but_the_end_can_be_aborted(self) -> None:
        for state in set(State) - {State.CLOSED}:
            with self.subTest(state=state):
                self.assertIs(State.CLOSED, state.next[Event.ABORTED])

    def test_each_state_that_waits_for_the_client_has_a_deadline_and_an_event_for_it(self) -> None:
        client = (Wait.READABLE, Wait.WRITABLE, Wait.CHANGE)
        for state, row in TABLE.items():
            with self.subTest(state=state):
                if row.waits_for in client:
                    self.assertTrue(row.timeout)
                self.assertEqual(bool(row.timeout), Event.DEADLINE in row.on)

    def test_each_timeout_is_a_limit(self) -> None:
        limits = set(Limits._fields)

        self.assertEqual(set(), {row.timeout for row in TABLE.values() if row.timeout} - limits)

    def test_states_without_an_owner_take_no_step_of_their_own(self) -> None:
        without = {state for state, row in TABLE.items() if row.owner is Owner.NONE}

        self.assertEqual({State.WAIT, State.CLOSED}, without)

    def test_one_state_alone_can_be_evicted(self) -> None:
        self.assertEqual([State.IDLE], [state for state in State if Event.EVICTED in TABLE[state].on])

    def test_one_hundred_continue_needs_the_page_to_want_the_body(self) -> None:
        before_body = [state for state, row in TABLE.items() if State.BODY in row.on.values()]

        self.assertEqual([State.DISPATCH, State.BODY], before_body)


class LifeTest(unittest.TestCase):
    """Requests, as the states that they pass."""

    def test_events_lead_through_the_states_of_each_kind_of_request(self) -> None:
        head, sent, alive = Event.HEAD_COMPLETE, Event.SENT, Event.KEEP_ALIVE
        result = (Event.BODY_WANTED, Event.RESULT_WANTED, Event.RESULT)
        for kind, start, events, states in (
            ("a small download", State.IDLE, (head, Event.RESPONSE, sent, alive), "DISPATCH RESPOND NEXT IDLE"),
            (
                "an upload that awaits a result behind its body",
                State.IDLE,
                (Event.HEAD_STARTED, head, *result, Event.RESPONSE, sent, alive),
                "HEAD DISPATCH BODY WAIT DISPATCH RESPOND NEXT IDLE",
            ),
            ("a drop", State.RESPOND, (Event.SENT_UNCONFIRMED, Event.CONFIRMED, alive), "CONFIRM NEXT IDLE"),
            (
                "a refused upload",
                State.IDLE,
                (Event.REFUSED, sent, Event.LINGER, Event.CLOSE),
                "RESPOND NEXT LINGER CLOSED",
            ),
            ("a small unread body", State.RESPOND, (sent, Event.UNREAD_BODY, Event.SKIPPED), "NEXT SKIP IDLE"),
        ):
            with self.subTest(kind):
                self.assertEqual(states.split(), walk(start, *events))

    def test_deadlines_answer_408_where_a_request_has_begun_and_close_elsewhere(self) -> None:
        after = {state.name: state.next[Event.DEADLINE].name for state in State if TABLE[state].timeout}

        expected = {
            "IDLE": "CLOSED",
            "HEAD": "RESPOND",
            "BODY": "BODY",
            "RESPOND": "CLOSED",
            "CONFIRM": "CLOSED",
            "SKIP": "CLOSED",
            "LINGER": "CLOSED",
        }
        self.assertEqual(expected, after)

    def test_awaited_result_is_waited_for_without_a_deadline(self) -> None:
        self.assertNotIn(Event.DEADLINE, TABLE[State.WAIT].on)
