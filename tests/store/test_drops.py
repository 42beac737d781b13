"""The registry of drops: states, claims, dead processes, guesses, the clock, and the janitor's steps."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from unittest import mock

from filestoraged.command_errors import StartError
from filestoraged.errors import Gone, NotFound, StoreFailed, StoreUnavailable, TooManyGuesses, Unavailable
from filestoraged.store import passwords
from filestoraged.store.drop_tables import DROPS_SCHEMA
from filestoraged.store.drops import Drop, Drops
from filestoraged.store.kv import KEYS_SCHEMA
from filestoraged.store.owner_locks import OwnerFiles
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.group_commit import TransactionQueue
from tests.clock import PassingClock, VirtualClock
from tests.daemon.process import ROOT
from tests.store import drops_contract
from tests.support import CHEAP_PASSWORDS, PATIENCE, TempCase

# A process that claims a drop, announces another, prints its id, and waits to be killed.
_CLAIM = """
import sys
from filestoraged.store.drop_tables import DROPS_SCHEMA
from filestoraged.store.drops import Drops
from filestoraged.store.owner_locks import OwnerFiles
from filestoraged.store.sqlite.group_commit import TransactionQueue
drops = Drops(TransactionQueue(sys.argv[1], DROPS_SCHEMA), OwnerFiles(sys.argv[2]), ttl=100)
drops.claim(sys.argv[3]).result()
print(drops.announce().result(), flush=True)
sys.stdin.read()
"""


class SharedClock(VirtualClock):
    """For threads that wait for one another: a pause is real, and no time passes."""

    def sleep(self, seconds: float, /) -> None:
        threading.Event().wait(seconds)


class DropsCase(drops_contract.RegistryCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = self.make_clock()
        self.today = self.clock.date()
        silent = logging.NullHandler()
        logging.getLogger("filestoraged").addHandler(silent)
        self.addCleanup(logging.getLogger("filestoraged").removeHandler, silent)
        self.path = str(self.directory / "drops.sqlite")
        database.prepare(self.path, DROPS_SCHEMA)
        self.drops = self.open_drops()

    def make_clock(self) -> VirtualClock:
        return VirtualClock()

    def open_drops(self) -> Drops:
        owners = OwnerFiles(str(self.directory / "owners"))
        transactions = TransactionQueue(self.path, DROPS_SCHEMA, clock=self.clock)
        drops = Drops(transactions, owners, ttl=100, passwords=CHEAP_PASSWORDS, clock=self.clock)
        self.addCleanup(drops.close)
        return drops

    @contextlib.contextmanager
    def clock_ahead(self, seconds: float) -> Iterator[None]:
        """Set the wall clock ahead, or back for a negative number of seconds."""
        self.clock.set_date(self.today + seconds)
        yield
        self.clock.set_date(self.today)

    @contextlib.contextmanager
    def later(self, seconds: float) -> Iterator[None]:
        """Let time pass for the drops, including the grace period after a jump of the clock."""
        with self.clock_ahead(seconds):
            self.drops._wall_clock.settled()
            self.clock.advance(3600)
            self.clock.set_date(self.today + seconds)
            yield


class DropsTest(DropsCase, drops_contract.DropsContract):
    def make_clock(self) -> VirtualClock:
        return SharedClock()


class TidyTest(DropsCase):
    def test_claims_and_uploads_of_dead_processes_are_reaped(self) -> None:
        theirs, ours = self.make(), self.make()
        self.drops.claim(ours).result()
        command = [sys.executable, "-c", _CLAIM, self.path, str(self.directory / "owners"), theirs]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
            assert child.stdout is not None
            announced = child.stdout.readline().strip()
            self.drops.reap(self.removed.append)
            self.assertRaises(Gone, self.drops.get, theirs)
            self.assertEqual([], self.removed)
            child.kill()

        self.drops.reap(self.removed.append)

        self.assertEqual(theirs, self.drops.get(theirs).id)
        self.assertEqual([announced], self.removed)
        self.assertRaises(NotFound, self.drops.get, announced)
        self.assertRaises(Gone, self.drops.get, ours)
        self.assertEqual(1, len(self.files_below(self.directory / "owners")))

    def make_expired(self, number: int) -> None:
        with sqlite3.connect(self.path) as other:
            rows = [(f"{index:032x}", 0.0, 0.0, "x") for index in range(number)]
            other.executemany("INSERT INTO drops (id, state, changed, created, name) VALUES (?, 1, ?, ?, ?)", rows)

    def test_many_drops_expire_in_small_steps(self) -> None:
        self.make_expired(1000)

        expired = [self.drops.expire() for _ in range(4)]
        removed = [self.drops.remove(self.take) for _ in range(4)]

        self.assertEqual([400, 400, 200, 0], expired)
        self.assertEqual([400, 400, 200, 0], removed)
        self.assertEqual([f"{index:032x}" for index in range(400)], sorted(self.removed[:400]))

    def test_thousands_of_failed_removals_do_not_delay_others(self) -> None:
        self.make_expired(1000)
        while self.drops.expire():
            pass
        error = PermissionError(13, "Permission denied")
        stuck = f"{800:032x}"

        def remove_all(tried: Iterable[str]) -> dict[str, OSError]:
            self.removed += [id_ for id_ in tried if id_ >= stuck]
            return {id_: error for id_ in tried if id_ < stuck}

        for _ in range(2):
            self.assertRaises(PermissionError, self.drops.remove, remove_all)

        self.assertEqual(200, self.drops.remove(remove_all))
        self.assertEqual(200, len(self.removed))

    def test_removal_step_ends_after_its_time(self) -> None:
        for digit in "abc":
            with sqlite3.connect(self.path) as other:
                other.execute("INSERT INTO drops VALUES (?, 3, 0, 0, NULL, 'x', NULL, 0, 1)", (digit * 32,))

        def remove_slowly(ids: Iterable[str]) -> dict[str, OSError]:
            self.clock.advance(0.15)
            return self.take(ids)

        counts = [self.drops.remove(remove_slowly) for _ in range(3)]

        self.assertEqual([2, 1, 0], counts)

    def test_bytes_of_the_last_fetched_drops_are_removed_before_thousands_of_others(self) -> None:
        self.make_expired(1000)
        while self.drops.expire():
            pass
        last = [self.make() for _ in range(3)]
        for id_ in last:
            self.drops.finish(self.drops.claim(id_).result()).result()

        self.drops.remove_latest(self.take)

        self.assertLessEqual(set(last), set(self.removed))

    def test_another_kind_of_database_is_refused(self) -> None:
        path = str(self.directory / "kv.sqlite")
        database.prepare(path, KEYS_SCHEMA)

        self.assertRaises(StartError, database.prepare, path, DROPS_SCHEMA)


class BrokenDatabaseTest(DropsCase):
    """Changes that SQLite refuses to write, because a trigger that another connection made fails."""

    def setUp(self) -> None:
        super().setUp()
        self.other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(self.other.close)

    def break_updates(self) -> None:
        self.other.execute(
            "CREATE TRIGGER broken BEFORE UPDATE ON drops BEGIN SELECT RAISE(FAIL, 'disk I/O error'); END"
        )

    def mend(self) -> None:
        self.other.execute("DROP TRIGGER broken")

    def state(self, id_: str) -> int:
        ((state,),) = self.other.execute("SELECT state FROM drops WHERE id = ?", (id_,))
        return int(state)

    def test_drop_whose_end_could_not_be_written_stays_claimed_and_ends_later(self) -> None:
        id_ = self.make()
        self.announce("leaving 1 changes of drops unwritten")
        claim = self.drops.claim(id_).result()
        self.break_updates()
        self.assertRaises(StoreFailed, self.drops.finish(claim).result)
        self.drops.retry(self.removed.append)
        self.drops.flush()
        self.assertRaises(Gone, self.drops.get, id_)
        self.drops.reap(self.removed.append)
        self.mend()
        self.assertRaises(Gone, self.drops.claim(id_).result)

        self.drops.retry(self.removed.append)
        self.drops.flush()

        self.assertEqual(3, self.state(id_))

    def test_release_or_retraction_that_failed_is_retried(self) -> None:
        released, retracted = self.make(), self.drops.announce().result()
        claim = self.drops.claim(released).result()
        self.break_updates()
        self.assertRaises(StoreFailed, self.drops.release(claim).result)
        self.assertRaises(StoreFailed, self.drops.retract(retracted).result)
        self.mend()

        self.drops.retry(self.removed.append)
        self.drops.flush()
        self.drops.reap(self.removed.append)

        self.assertEqual(released, self.drops.get(released).id)
        self.assertEqual([retracted], self.removed)

    def test_flush_retries_failed_changes_once(self) -> None:
        id_ = self.make()
        claim = self.drops.claim(id_).result()
        self.break_updates()
        self.assertRaises(StoreFailed, self.drops.finish(claim).result)
        self.mend()

        self.drops.flush()

        self.assertEqual(3, self.state(id_))

    def test_failing_changes_are_logged_once_and_their_recovery_once(self) -> None:
        claims = [self.drops.claim(self.make()).result() for _ in range(3)]
        self.break_updates()
        with self.assertLogs("filestoraged.store.deferred_writes") as logged:
            for claim in claims:
                self.assertRaises(StoreFailed, self.drops.finish(claim).result)
            self.drops.flush()
            self.drops.retry(self.removed.append)
            self.drops.flush()
            self.mend()
            self.drops.flush()

        levels = [record.levelname for record in logged.records if "unwritten" not in record.getMessage()]
        self.assertEqual(["WARNING", "INFO"], levels)
        self.assertIn("disk I/O error", logged.records[0].getMessage())

    def test_claim_is_refused_while_a_thousand_changes_have_failed(self) -> None:
        self.announce("leaving 1000 changes of drops unwritten")
        drop, finished = self.make(), self.drops.claim(self.make()).result()
        self.break_updates()
        results = [self.drops.finish(finished) for _ in range(1000)]
        for result in results:
            self.assertRaises(StoreFailed, result.result)
        self.drops.flush()

        self.assertRaises(StoreUnavailable, self.drops.claim, drop)
        self.assertRaises(StoreUnavailable, self.drops.announce)


class GuessTest(DropsCase):
    def outcome(self, drop: Drop, password: str) -> str:
        return drops_contract.outcome(self.drops, drop, password)

    def in_flight(self, number: int, drop: Drop) -> tuple[threading.Event, list[threading.Thread]]:
        """Start wrong guesses, which stay in flight until the event is set."""
        begun, goes_on = threading.Semaphore(0), threading.Event()

        def matches(*_: object) -> bool:
            begun.release()
            return not goes_on.wait(PATIENCE)

        patch = mock.patch.object(CHEAP_PASSWORDS, "matches", matches)
        patch.start()
        self.addCleanup(patch.stop)
        threads = [threading.Thread(target=self.outcome, args=(drop, "x")) for _ in range(number)]
        for thread in threads:
            thread.start()
        for _ in range(number):
            self.assertTrue(begun.acquire(timeout=PATIENCE))
        patch.stop()
        return goes_on, threads

    def test_guess_waits_for_the_outcome_of_ten_in_flight(self) -> None:
        drop = self.drops.get(self.make("right"))
        goes_on, threads = self.in_flight(9, drop)
        with sqlite3.connect(self.path) as other:
            # A right guess of another process.
            row = other.execute("INSERT INTO judging (id, time) VALUES (?, ?)", (drop.id, self.clock.date())).lastrowid
        outcomes: list[str] = []
        eleventh = threading.Thread(target=lambda: outcomes.append(self.outcome(drop, "right")))
        eleventh.start()
        # It, and the two threads of the writer.
        self.clock.wait_for_waiting(3)
        with sqlite3.connect(self.path) as other:
            other.execute("DELETE FROM judging WHERE rowid = ?", (row,))
        self.clock.advance(0.02)
        eleventh.join(PATIENCE)
        goes_on.set()
        for thread in threads:
            thread.join()

        self.assertEqual(["right"], outcomes)

    def test_ten_in_flight_that_do_not_end_refuse_the_next_for_a_second(self) -> None:
        drop = self.drops.get(self.make("right"))
        with sqlite3.connect(self.path) as other:
            other.executemany("INSERT INTO judging (id, time) VALUES (?, ?)", [(drop.id, self.clock.date())] * 10)

        self.drops._clock = waits = PassingClock()
        with self.assertRaises(TooManyGuesses) as caught:
            self.drops.check(drop, "right")

        self.assertEqual(1, caught.exception.retry_after)
        self.assertAlmostEqual(5, sum(waits.waits), delta=0.03)
        with self.later(61):
            self.assertEqual("right", self.outcome(drop, "right"))

    def test_drop_with_ten_wrong_guesses_is_open_again_when_the_first_of_them_is_a_minute_old(self) -> None:
        drop = self.make("right")
        with self.clock_ahead(0), sqlite3.connect(self.path) as other:
            first, others = self.clock.date() - 50.5, [self.clock.date() - 1] * 9
            other.executemany(
                "INSERT INTO guesses (id, time) VALUES (?, ?)", [(drop, each) for each in (first, *others)]
            )
            other.commit()

            with self.assertRaises(TooManyGuesses) as caught:
                self.drops.get(drop)

        self.assertEqual(10, caught.exception.retry_after)

    def test_guess_at_a_drop_that_was_fetched_meanwhile_is_not_judged(self) -> None:
        drop = self.drops.get(self.make("right"))
        self.drops.claim(drop.id).result()

        self.assertEqual("Gone", self.outcome(drop, "wrong"))

    def test_guesses_dated_in_the_future_do_not_count_and_are_deleted(self) -> None:
        drop = self.drops.get(self.make("right"))
        with self.clock_ahead(8 * 24 * 3600):
            for _ in range(10):
                self.assertEqual("Unauthorized", self.outcome(drop, "wrong"))
            self.assertEqual("TooManyGuesses", self.outcome(drop, "right"))

        self.assertEqual("right", self.outcome(self.drops.get(drop.id), "right"))
        self.assertEqual(10, self.drops.delete_old())
        self.assertEqual([], self.drops.transactions.read("SELECT * FROM guesses"))


class ClockTest(DropsCase):
    AHEAD = 8 * 24 * 3600.0

    def test_clock_that_is_ahead_for_less_than_an_hour_removes_nothing_and_ends_nothing(self) -> None:
        id_ = self.make()
        self.drops.expire()

        with self.assertLogs("filestoraged.store.wall_clock") as logged, self.clock_ahead(self.AHEAD):
            self.assertEqual([0, 0, 0], [self.drops.expire(), self.drops.delete_old(), self.drops.remove(self.take)])
            self.assertEqual(id_, self.drops.get(id_).id)
            # A daemon that starts in the grace period waits as well.
            again = self.open_drops()
            self.assertEqual(id_, again.get(id_).id)
            self.assertEqual(0, again.expire())
            self.assertEqual(id_, again.get(id_).id)

        self.assertEqual(id_, self.drops.get(id_).id)
        self.assertEqual(0, self.drops.expire())
        self.assertEqual(["WARNING"] * 2, [record.levelname for record in logged.records])

    def test_grace_period_may_pass_in_several_runs_of_the_daemon(self) -> None:
        self.make()
        expired = [self.drops.expire()]
        for run in range(3):
            drops = self.open_drops()
            with self.clock_ahead(self.AHEAD + run * 24 * 3600):
                for _ in range(0, 31, 5):
                    expired.append(drops.expire())
                    self.clock.advance(5 * 60)

        self.assertEqual(1, sum(expired))
        self.assertEqual(0, sum(expired[:8]))

    def test_drops_expire_in_all_processes_after_the_grace_period(self) -> None:
        self.make()
        other = self.open_drops()
        self.drops.expire()

        with self.later(self.AHEAD):
            self.assertEqual(1, self.drops.expire())
            self.make()
            self.assertEqual(0, other.expire())
            self.assertIsNotNone(other._wall_clock.settled())

    def test_requests_of_all_processes_find_no_expired_drop_after_the_grace_period(self) -> None:
        id_ = self.make()
        other = self.open_drops()
        self.drops.expire()

        with self.later(self.AHEAD):
            before = other.get(id_).id
            self.drops._wall_clock.settled()

            self.assertEqual(id_, before)
            self.assertRaises(Gone, other.get, id_)
            self.assertRaises(Gone, self.drops.get, id_)

    def test_drop_that_is_made_in_the_grace_period_has_its_whole_time(self) -> None:
        self.make()
        self.drops.expire()
        with self.clock_ahead(self.AHEAD):
            self.drops.expire()
            id_ = self.make()
            self.assertEqual(id_, self.drops.get(id_).id)

        with self.later(self.AHEAD + 90):
            self.assertEqual(1, self.drops.expire())
            self.assertEqual(id_, self.drops.get(id_).id)
        with self.clock_ahead(self.AHEAD + 110):
            self.assertRaises(Gone, self.drops.get, id_)
            self.assertEqual(1, self.drops.expire())

    def test_drop_that_ended_before_the_jump_stays_gone(self) -> None:
        id_ = self.make()
        with self.clock_ahead(101):
            self.drops.expire()

        with self.clock_ahead(self.AHEAD):
            self.assertRaises(Gone, self.drops.get, id_)

    def test_clock_that_is_set_back_ends_no_drop(self) -> None:
        with self.clock_ahead(self.AHEAD):
            id_ = self.make()
            self.drops.expire()

        self.assertEqual(id_, self.drops.get(id_).id)
        self.assertEqual(0, self.drops.expire())
        self.assertEqual(id_, self.drops.get(id_).id)

    def test_jump_removes_no_bytes_that_may_still_be_sent_and_keeps_none_of_a_finished_drop(self) -> None:
        sealed, finished = self.drops.claim(self.make()).result(), self.drops.claim(self.make()).result()
        self.drops.seal(sealed).result()
        self.drops.expire()

        with self.clock_ahead(self.AHEAD):
            self.drops.finish(finished).result()
            self.drops.remove(self.take)
            at_once = list(self.removed)
        with self.later(self.AHEAD):
            self.drops.expire()
            self.drops.remove(self.take)

        self.assertEqual(([finished.id], [finished.id, sealed.id]), (at_once, self.removed))

    def test_second_jump_starts_another_grace_period(self) -> None:
        self.make()
        self.drops.expire()
        with self.clock_ahead(2 * 3600):
            self.drops.expire()

        with self.clock_ahead(self.AHEAD):
            for seconds, expired in ((3000, 0), (700, 0), (2901, 1)):
                self.clock.advance(seconds)
                self.assertEqual(expired, self.drops.expire())

    def test_tombstones_stay_while_the_clock_is_ahead(self) -> None:
        id_ = self.make()
        self.drops.finish(self.drops.claim(id_).result()).result()
        self.drops.remove(self.take)
        self.drops.expire()

        with self.clock_ahead(91 * 24 * 3600):
            self.assertEqual(0, self.drops.delete_old())
            self.assertRaises(Gone, self.drops.get, id_)

    def test_older_database_takes_the_time_of_its_last_change_as_last_seen(self) -> None:
        self.make()
        with sqlite3.connect(self.path) as other:
            other.execute("DROP TABLE clock")
            other.execute("PRAGMA user_version = 1")
        database.prepare(self.path, DROPS_SCHEMA)

        with self.clock_ahead(self.AHEAD):
            self.assertEqual(0, self.open_drops().expire())

    def test_bytes_of_drops_fetched_while_the_clock_was_ahead_are_removed(self) -> None:
        id_ = self.make()
        with self.clock_ahead(self.AHEAD):
            self.drops.finish(self.drops.claim(id_).result()).result()

        self.drops.remove(self.take)

        self.assertEqual([id_], self.removed)

    def test_bytes_of_a_drop_that_was_handed_over_stay_for_the_keep_time(self) -> None:
        self.drops.hand_over(self.drops.claim(self.make()).result(), keep=600).result()

        with self.clock_ahead(590):
            self.assertEqual(0, self.drops.remove(self.take))
        with self.clock_ahead(601):
            self.assertEqual(1, self.drops.remove(self.take))


class CountTest(DropsCase):
    def test_expired_and_deleted_drops_are_counted(self) -> None:
        for _ in range(3):
            self.make()
        with self.later(101):
            self.drops.expire()
            self.drops.remove(self.take)
        self.assertEqual({"arriving": 0, "available": 0, "claimed": 0, "gone": 3}, self.drops.count())
        with self.later(102 + 90 * 24 * 3600):
            self.drops.delete_old()

        self.assertEqual(0, sum(self.drops.count().values()))

    def test_older_database_is_counted_once(self) -> None:
        self.make()
        self.drops.claim(self.make()).result()
        with sqlite3.connect(self.path) as other:
            for each in ("count_inserted", "count_deleted", "count_changed"):
                other.execute(f"DROP TRIGGER {each}")
            other.execute("DROP TABLE counts")
            other.execute("PRAGMA user_version = 1")

        for _ in range(2):
            database.prepare(self.path, DROPS_SCHEMA)

        self.assertEqual({"arriving": 0, "available": 1, "claimed": 1, "gone": 0}, self.open_drops().count())

    def test_neither_counting_nor_the_janitor_reads_all_drops(self) -> None:
        read = self.drops.transactions.read
        with mock.patch.object(self.drops.transactions, "read", wraps=read) as reads:
            self.drops.count()
            self.drops.expire()
            self.drops.remove_latest(self.take)
            self.drops.remove(self.take)
            self.drops.delete_old()
        asked = [(call.args[0], call.args[1:]) for call in reads.call_args_list if " drops " in call.args[0]]
        plans = [str(read(f"EXPLAIN QUERY PLAN {question}", *values)) for question, values in asked]

        indexes = ("drops_by_creation", "drops_by_removal", "drops_with_removal", "drops_by_state")
        self.assertEqual(len(indexes), len(plans))
        for plan, index in zip(plans, indexes):
            self.assertIn(index, plan)
            self.assertNotIn("B-TREE", plan)


class GuardTest(TempCase):
    def hold(self, queue: passwords.FairQueue) -> threading.Event:
        """Keep the queue's thread busy until the event is set."""
        busy, goes_on = threading.Event(), threading.Event()
        self.addCleanup(goes_on.set)

        def work() -> None:
            busy.set()
            goes_on.wait(PATIENCE)

        queue.submit("flood", work)
        self.assertTrue(busy.wait(PATIENCE))
        return goes_on

    def test_client_waits_for_one_job_of_another_client_with_many(self) -> None:
        queue = passwords.FairQueue()
        goes_on = self.hold(queue)
        order: list[str] = []
        floods = [queue.submit("flood", lambda: order.append("flood")) for _ in range(99)]
        other = [queue.submit("other", lambda: order.append("other")) for _ in range(2)]

        goes_on.set()
        for result in (*floods, *other):
            result.result(PATIENCE)

        self.assertEqual(["flood", "other", "flood", "other", "flood"], order[:5])

    def test_many_guesses_do_not_delay_uploads(self) -> None:
        guard = passwords.Guard(CHEAP_PASSWORDS)
        self.hold(guard.guesses)

        self.assertEqual(7, guard.uploads.submit("flood", lambda: 7).result(PATIENCE))

    def test_queue_accepts_a_hundred_jobs_of_a_client_and_five_hundred_in_all(self) -> None:
        queue = passwords.FairQueue()
        goes_on = self.hold(queue)
        for number in range(5):
            client = str(number)
            results = [queue.submit(client, lambda: None) for _ in range(100)]
            if number < 4:
                with self.assertRaises(Unavailable) as caught:
                    queue.submit(client, lambda: None)
                self.assertIn(("Retry-After", "5"), caught.exception.fields)
        self.assertRaises(Unavailable, queue.submit, "another", lambda: None)

        goes_on.set()

        self.assertIsNone(results[-1].result(PATIENCE))
        self.assertIsNone(queue.submit("another", lambda: None).result(PATIENCE))

    def test_job_that_fails_affects_no_other(self) -> None:
        queue = passwords.FairQueue()

        self.assertRaises(ZeroDivisionError, queue.submit("x", lambda: 1 // 0).result, PATIENCE)
        self.assertEqual(7, queue.submit("x", lambda: 7).result(PATIENCE))

    def test_queue_without_a_thread_is_unavailable_until_one_can_be_started(self) -> None:
        queue = passwords.FairQueue()
        with mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")):
            self.assertRaises(Unavailable, queue.submit, "x", lambda: 7)

        self.assertEqual(7, queue.submit("x", lambda: 7).result(PATIENCE))


class PasswordTest(TempCase):
    def test_password_matches_only_itself(self) -> None:
        kept = passwords.PASSWORDS.kept("hello wörld")

        self.assertTrue(passwords.PASSWORDS.matches("hello wörld", kept))
        for other in ("", "hello world", "hello wörld ", "Hello wörld"):
            self.assertFalse(passwords.PASSWORDS.matches(other, kept))
