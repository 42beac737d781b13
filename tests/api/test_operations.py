"""`/-/health`, whatever is mounted; and the checks of `/-/ready`, which wait for other machines."""

from __future__ import annotations

import threading
from unittest import mock

from filestoraged.api.operations import Fault, Readiness
from filestoraged.errors import StoreUnavailable
from tests.clock import VirtualClock
from tests.support import PATIENCE, ServerCase, TempCase, in_threads


class HealthTest(ServerCase):
    def test_health_answers_200(self) -> None:
        answer = self.get("/-/health")

        self.assertEqual((200, b'{"status": "ok"}\n'), (answer.status, answer.body))
        self.assertEqual("application/json", answer.fields["content-type"])
        self.assertEqual("no-store", answer.fields["cache-control"])

    def test_other_paths_of_operations_answer_404_and_other_methods_405(self) -> None:
        for path in ("/-", "/-/", "/-/nothing", "/-/health/"):
            self.assertEqual(404, self.get(path).status, path)
        for path in ("/-/health", "/-/metrics"):
            answer = self.post(path, b"")
            self.assertEqual((405, "GET"), (answer.status, answer.fields["allow"]))


class HealthOfOneMountTest(HealthTest):
    config = {"mounts": {"/data": "repositories"}}


class ReadinessTest(TempCase):
    def test_check_that_takes_too_long_counts_as_failed_and_runs_once_at_a_time(self) -> None:
        calls: list[None] = []
        begun, may_end = threading.Event(), threading.Event()

        def probe() -> None:
            calls.append(None)
            begun.set()
            may_end.wait(PATIENCE)

        clock = VirtualClock()
        readiness = Readiness([probe], timeout=5, clock=clock)

        def check(number: int) -> Fault | None:
            if number < 4:
                return readiness.check().fault
            clock.wait_for_waiting(4)
            clock.advance(5)
            return None

        *faults, _ = in_threads(5, check)

        self.assertNotIn(None, faults)
        self.assertIn("takes longer than", str(faults[0]))
        self.assertTrue(begun.wait(PATIENCE))
        self.assertEqual(1, len(calls))
        may_end.set()
        # Its result is reused for a second only, so that is not what is waited for.
        for each in threading.enumerate():
            if each.name == "bounded call":
                each.join(PATIENCE)
        self.assertIsNone(readiness.check().fault)

    def test_result_is_reused_for_a_second(self) -> None:
        probe, clock = mock.Mock(), VirtualClock()
        readiness = Readiness([probe], clock=clock)

        for seconds in (0.0, 0.9, 0.2):
            clock.advance(seconds)
            readiness.check()

        self.assertEqual(2, probe.call_count)

    def test_cause_of_a_fault_is_for_operators_alone(self) -> None:
        error = StoreUnavailable()
        error.__cause__ = ConnectionError("memcached 192.0.2.1:11211: refused")
        readiness = Readiness([mock.Mock(side_effect=error)])

        with self.assertLogs("filestoraged"):
            fault = readiness.check().fault

        assert fault is not None
        self.assertNotIn("192.0.2.1", fault.public)
        self.assertIn("192.0.2.1", fault.detailed)
