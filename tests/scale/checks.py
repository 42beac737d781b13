"""What the checks of failures share: the service under load, the time of a fault, and what must hold meanwhile."""

from __future__ import annotations

import contextlib
import time
import unittest
from collections.abc import Iterable, Iterator, Sequence

from tests.scale.load import Load
from tests.scale.program import wait_until
from tests.scale.requests import KINDS, NEED_DATABASE, NEED_S3, Record, describe
from tests.scale.service import SERVICE, Service

# A daemon answers within 30 s. The rest is for HAProxy, which tries another, and for a busy machine.
LIMIT = 45.0

# Requests of each kind before, and after a fault.
_ENOUGH = 5


class FaultCase(unittest.TestCase):
    """Each check begins and ends with a service that works as a whole. `note` is for its line."""

    service: Service = SERVICE
    note = ""

    def setUp(self) -> None:
        self.began = time.monotonic()
        self.healed = 0.0

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """Clients of all interfaces for the length of a block: all are served at its beginning and at its end."""
        self.service.ledger.phase = self._testMethodName
        with Load(self.service.requests, self.service.ledger).running():
            self.wait_until_served(KINDS)
            self.fault_began = time.monotonic()
            yield
            healed = time.monotonic()
            self.wait_until_served(KINDS)
            self.note = f"served {time.monotonic() - healed:.1f} s after; {describe(self.records())}"
        self.assertEqual([], self.service.ledger.violations)
        self.assertEqual([], [record for record in self.records() if record.seconds > LIMIT])

    def wait_until_served(self, kinds: Iterable[str]) -> None:
        """Wait until some requests of each kind that begin from now on have succeeded, without a failure after."""
        kinds, now = tuple(kinds), time.monotonic()
        wait_until(
            f"{', '.join(kinds)} are served",
            lambda: self.service.requests.have_succeeded(kinds, _ENOUGH, since=now),
        )

    def wait_until_refused(self, kinds: Iterable[str], statuses: Iterable[int]) -> None:
        """Wait until a request of each kind that begins from now on gets one of these statuses."""
        self._wait_until_refused([{kind} for kind in kinds], statuses)

    def wait_until_one_refused(self, kinds: Iterable[str], statuses: Iterable[int]) -> None:
        """Wait until a request of any of the kinds that begins from now on gets one of these statuses."""
        self._wait_until_refused([{*kinds}], statuses)

    def _wait_until_refused(self, groups: Sequence[set[str]], statuses: Iterable[int]) -> None:
        statuses, now = set(statuses), time.monotonic()

        def are_refused() -> bool:
            records = self.service.requests.records(since=now)
            refused = {record.kind for record in records if record.status in statuses}
            missing = [sorted(group) for group in groups if not group & refused]
            assert not missing, f"{missing} not yet refused: {describe(records)}"
            return True

        wait_until(f"one of each of {groups} is refused", are_refused)

    def records(self) -> list[Record]:
        """The requests since the fault."""
        return self.service.requests.records(since=self.fault_began)

    def assert_all_served(self, kinds: Iterable[str]) -> None:
        """Assert that no request of these kinds failed since the fault."""
        kinds = tuple(kinds)
        failed = [record for record in self.records() if record.failed and record.kind in kinds]
        self.assertEqual("", describe(failed), failed[:3])

    def assert_refused_clearly(self, statuses: Iterable[int] = (503,)) -> None:
        """Assert that each request that failed has one of these statuses, and was told when to retry."""
        statuses = (*statuses,)
        failed = [record for record in self.records() if record.failed]
        unclear = [each for each in failed if each.status not in statuses or not _says_when_to_retry(each)]
        self.assertEqual("", describe(unclear), unclear[:3])

    def without_s3(self) -> list[str]:
        return [kind for kind in KINDS if kind not in NEED_S3]

    def without_database(self) -> list[str]:
        return [kind for kind in KINDS if kind not in NEED_DATABASE]

    def wait_until_up(self) -> None:
        """Wait until HAProxy sends requests to all daemons."""
        wait_until(
            "all daemons are up",
            lambda: set(self.service.haproxy.statuses()) == {"UP"},
        )


def _says_when_to_retry(record: Record) -> bool:
    """A connection that broke off says nothing, nor does an answer for which somebody has to make room."""
    return record.may_retry or record.status in (0, 507)
