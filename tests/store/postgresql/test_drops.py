"""The registry of drops in PostgreSQL: claims end with the session that made them, and seals outlive it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

from filestoraged.errors import Error, Gone, NotFound, StoreUnavailable
from filestoraged.future import Future
from filestoraged.store.drops import Claim, Drop, Drops
from filestoraged.store.postgresql.lease import JanitorLease
from filestoraged.store.transactions import Transaction
from tests.clock import VirtualClock
from tests.store import drops_contract
from tests.store.postgresql.opened import OpenedCase, after_statement
from tests.support import CHEAP_PASSWORDS, ago, in_threads


class RegistryCase(OpenedCase, drops_contract.RegistryCase):
    def setUp(self) -> None:
        super().setUp()
        self.transactions = self.open_transactions()
        self.drops = Drops(self.transactions, self.transactions, ttl=100, passwords=CHEAP_PASSWORDS)

    @contextlib.contextmanager
    def later(self, seconds: float) -> Iterator[None]:
        """Make all that is recorded older: the clock is the server's."""
        for table, columns in {
            "drops": ("changed", "created", "removal"),
            "guesses": ("time",),
            "judging": ("time",),
        }.items():
            changes = ", ".join(f"{column} = {column} - {seconds}" for column in columns)
            self.query(f"UPDATE {table} SET {changes}")
        yield


class PostgresDropsTest(RegistryCase, drops_contract.DropsContract):
    def test_name_of_any_characters_comes_back(self) -> None:
        for name in ("\0", "a\0b", "\U0001f600", "'; DROP TABLE drops", "%s ? %%", "x" * 10_000):
            id_ = self.drops.announce().result()
            self.drops.publish(Drop(id_, name, None)).result()

            self.assertEqual(name, self.drops.get(id_).name)

    def test_drops_that_are_claimed_in_different_orders_are_claimed_once_each(self) -> None:
        ids = [self.make() for _ in range(120)]
        daemons = [self.drops, self.open_drops(), self.open_drops()]

        def claim_all(number: int) -> list[Claim]:
            jobs = [daemons[number].claim(id_) for id_ in random.Random(number).sample(ids, len(ids))]
            return [job.result() for job in jobs if job.exception() is None]

        claims = [claim for each in in_threads(3, claim_all) for claim in each]

        self.assertEqual(sorted(ids), sorted(claim.id for claim in claims))

    def test_guesses_at_one_drop_are_recorded_in_turns(self) -> None:
        drop = self.drops.get(self.make("right"))
        is_free: list[Any] = []
        lock = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"

        with after_statement("INSERT INTO judging", lambda: is_free.extend(self.query(lock, drop.id))):
            self.drops.check(drop, "right")

        self.assertEqual([(False,)], is_free)
        self.assertEqual([(True,)], self.query(lock, drop.id))

    def test_clock_of_a_daemon_that_is_off_ends_no_drop(self) -> None:
        clock = VirtualClock()
        self.drops = Drops(self.transactions, self.transactions, ttl=100, passwords=CHEAP_PASSWORDS, clock=clock)
        clock.set_date(0)
        id_ = self.make()

        # Half a century later, by this daemon.
        clock.set_date(ago(-20 * 24 * 3600))

        self.assertEqual(id_, self.drops.get(id_).id)
        self.assertEqual(0, self.drops.expire())
        self.assertEqual(0, self.drops.remove(self.take))

    def test_jump_of_the_clock_of_the_server_ends_no_drop(self) -> None:
        id_ = self.make()
        self.drops.expire()
        self.query("UPDATE clock SET seen = seen - 7200")

        with self.later(7200), self.assertLogs("filestoraged.store.wall_clock"):
            self.assertEqual(id_, self.drops.get(id_).id)
            self.assertEqual(0, self.drops.expire())
            self.assertEqual(id_, self.open_drops().get(id_).id)
            self.query("UPDATE clock SET seen = seen + 7200")

            self.assertRaises(Gone, self.drops.get, id_)
            self.assertEqual(1, self.drops.expire())


class SessionTest(RegistryCase):
    """The loss of the connection that a process has claimed drops by."""

    def lose_session(self) -> None:
        self.end_sessions()

    def test_claim_of_a_live_session_is_not_reaped(self) -> None:
        id_ = self.make()
        claim = self.drops.claim(id_).result()

        self.open_drops().reap(self.removed.append)

        self.assertRaises(Gone, self.drops.get, id_)
        self.drops.seal(claim).result()

    def test_claim_of_a_lost_session_is_reaped_and_cannot_be_sealed(self) -> None:
        id_ = self.make()
        claim = self.drops.claim(id_).result()
        other = self.open_drops()
        self.lose_session()

        other.reap(self.removed.append)
        second = other.claim(id_).result()

        self.assertRaises(Gone, self.drops.seal(claim).result)
        self.assertRaises(Gone, self.drops.hand_over(claim, keep=1).result)
        self.drops.finish(claim).result()
        self.drops.release(claim).result()
        other.seal(second).result()

    def test_claim_of_a_lost_session_that_nobody_has_reaped_can_be_sealed(self) -> None:
        claim = self.drops.claim(self.make()).result()
        self.lose_session()

        self.drops.seal(claim).result()

        self.assertEqual(0, self.open_drops().reap(self.removed.append))
        self.assertRaises(Gone, self.drops.get, claim.id)

    def test_sealed_drop_stays_gone_after_its_session_and_its_bytes_are_removed_later(self) -> None:
        claim = self.drops.claim(self.make()).result()
        self.drops.seal(claim).result()
        other = self.open_drops()
        self.lose_session()

        other.reap(self.removed.append)
        early = other.remove(self.take)
        with self.later(700):
            late = other.remove(self.take)

        self.assertRaises(Gone, other.get, claim.id)
        self.assertEqual((0, 1, [claim.id]), (early, late, self.removed))

    def test_sealed_drop_whose_download_broke_off_is_available_again(self) -> None:
        claim = self.drops.claim(self.make()).result()
        self.drops.seal(claim).result()

        self.drops.release(claim).result()

        self.assertEqual(claim.id, self.drops.get(claim.id).id)
        self.drops.claim(claim.id).result()

    def test_finished_drop_cannot_be_sealed_or_released(self) -> None:
        claim = self.drops.claim(self.make()).result()
        self.drops.seal(claim).result()
        self.drops.finish(claim).result()

        self.assertRaises(Gone, self.drops.seal(claim).result)
        self.drops.release(claim).result()
        self.assertRaises(Gone, self.drops.get, claim.id)

    def test_upload_of_a_lost_session_is_not_published_and_leaves_no_bytes(self) -> None:
        id_ = self.drops.announce().result()
        other = self.open_drops()
        self.lose_session()
        other.reap(self.removed.append)

        self.assertRaises(StoreUnavailable, self.drops.publish(Drop(id_, "name", None)).result)
        self.drops.retract(id_).result()

        # Its bytes may have come after they were removed.
        other.reap(self.removed.append)
        self.assertEqual([id_, id_], self.removed)
        self.assertRaises(NotFound, other.get, id_)

    def test_one_process_at_a_time_has_the_lease_until_its_session_ends(self) -> None:
        first, second = JanitorLease(self.transactions), JanitorLease(self.open_transactions())

        self.assertEqual([True, False, True], [holds(each) for each in (first, second, first)])
        self.lose_session()
        self.assertEqual([True, False], [holds(each) for each in (second, first)])

    def test_lease_of_a_process_that_is_stopped_passes_to_another(self) -> None:
        first, second = JanitorLease(self.transactions), JanitorLease(self.open_transactions())
        before = [holds(first), holds(second)]

        self.query("UPDATE janitor SET until = until - 100")

        self.assertEqual([True, False], before)
        self.assertEqual([True, False], [holds(second), holds(first)])

    def test_job_that_fails_leaves_the_others_of_its_batch_alone(self) -> None:
        def divide(transaction: Transaction) -> object:
            return transaction.execute("SELECT 1 / 0")

        jobs: list[Future[Any]] = [
            self.transactions.write(divide),
            self.drops.announce(),
            self.transactions.write(divide),
        ]
        jobs += [self.drops.announce() for _ in range(20)]

        failed = [job.exception() is not None for job in jobs]

        self.assertEqual([True, False, True, *[False] * 20], failed)
        self.assertEqual(21, self.drops.count()["arriving"])

    def test_connection_of_a_query_that_fails_is_used_again(self) -> None:
        ((before,),) = self.transactions.read("SELECT pg_backend_pid()")

        self.assertRaises(Error, self.transactions.read, "SELECT 1 / 0")

        self.assertEqual([(before,)], self.transactions.read("SELECT pg_backend_pid()"))


def holds(lease: JanitorLease) -> bool:
    with lease.hold() as is_held:
        return is_held
