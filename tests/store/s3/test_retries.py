"""When a request is sent again."""

from __future__ import annotations

import math
import unittest
from unittest import mock

from filestoraged.errors import StoreUnavailable
from filestoraged.store.s3.retries import StoreCalls
from filestoraged.store.s3.traffic import Traffic
from tests.clock import PassingClock


class StoreCallsTest(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = PassingClock()

    def calls(self, failure: Exception, until: float) -> int:
        """How often a function is called that always fails so."""
        function = mock.Mock(side_effect=failure)
        self.assertRaises(StoreUnavailable, StoreCalls("store", Traffic(), self.clock).call, function, until)
        return function.call_count

    def test_store_that_was_silent_for_the_whole_timeout_is_not_asked_again(self) -> None:
        self.assertEqual(1, self.calls(TimeoutError(), math.inf))

    def test_broken_connection_is_made_again_three_times(self) -> None:
        self.assertEqual(4, self.calls(ConnectionResetError(), math.inf))
        for waited, longest in zip(self.clock.waits, (0.1, 0.4, 1.2), strict=True):
            self.assertTrue(longest / 2 <= waited <= longest, waited)

    def test_request_is_not_repeated_beyond_its_deadline(self) -> None:
        self.assertEqual(1, self.calls(ConnectionResetError(), 0.0))
        self.assertEqual(3, self.calls(ConnectionResetError(), self.clock.now() + 0.6))
