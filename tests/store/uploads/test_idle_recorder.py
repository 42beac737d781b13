"""The recorder of silent requests, where the system refuses a thread."""

from __future__ import annotations

from unittest import mock

from filestoraged.store.serial_executor import start_thread
from filestoraged.store.uploads import idle_recorder
from filestoraged.store.uploads.idle_recorder import IdleRecorder
from tests.clock import VirtualClock
from tests.support import TempCase


class Content:
    def __init__(self) -> None:
        self.looks = 0

    def record_if_idle(self) -> None:
        self.looks += 1


class IdleRecorderTest(TempCase):
    def test_thread_that_is_refused_is_started_for_the_next_request(self) -> None:
        clock, contents = VirtualClock(), [Content(), Content()]
        recorder = IdleRecorder(clock)
        refused_once = mock.Mock(side_effect=[None, mock.DEFAULT], wraps=start_thread)
        with mock.patch.object(idle_recorder, "start_thread", refused_once):
            for each in contents:
                recorder.add(each)

        clock.wait_for_waiting()
        clock.advance(0.5)
        clock.wait_for_waiting()

        self.assertEqual([1, 1], [each.looks for each in contents])
        for each in contents:
            recorder.discard(each)
        clock.advance(0.5)
