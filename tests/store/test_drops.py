"""The registry of drops: states, claims, the dead, and what is tidied up."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import List
from unittest import mock

from filestoraged.errors import Gone, NotFound, StartError, TooManyGuesses, Unauthorized, Unavailable
from filestoraged.store import passwords
from filestoraged.store.drops import Drop, Drops, prepare_drops
from filestoraged.store.kv import prepare_keys
from filestoraged.store.presence import Presence
from tests.daemon.process import ROOT
from tests.support import PATIENCE, TempCase, in_threads

# A process that claims a drop, and announces another, says so, and waits to be killed.
_CLAIM = """
import sys
from filestoraged.store.drops import Drops
from filestoraged.store.presence import Presence
drops = Drops(sys.argv[1], Presence(sys.argv[2]), ttl=100)
drops.claim(sys.argv[3]).result()
print(drops.announce().result(), flush=True)
sys.stdin.read()
"""


class DropsCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.directory / "drops.sqlite")
        prepare_drops(self.path)
        self.drops = self.open_drops()
        self.removed: List[str] = []

    def open_drops(self) -> Drops:
        drops = Drops(self.path, Presence(str(self.directory / "owners")), ttl=100)
        self.addCleanup(drops.close)
        return drops

    def make(self, password: str = "") -> str:
        id_ = self.drops.announce().result()
        self.drops.publish(Drop(id_, "name", passwords.kept(password) if password else None)).result()
        return id_


class ClaimTest(DropsCase):
    def test_a_drop_is_found_when_it_was_published(self) -> None:
        id_ = self.drops.announce().result()
        self.assertRaises(NotFound, self.drops.find, id_)

        self.drops.publish(Drop(id_, "Käse", None)).result()

        self.assertEqual(Drop(id_, "Käse", None), self.drops.find(id_))

    def test_ids_are_32_digits_that_nobody_guesses(self) -> None:
        ids = {self.make() for _ in range(50)}

        self.assertEqual(50, len(ids))
        for id_ in ids:
            self.assertRegex(id_, r"^[0-9a-f]{32}$")

    def test_of_many_claims_one_succeeds(self) -> None:
        id_ = self.make()
        others = [self.drops, self.open_drops(), self.open_drops()]

        def claim(number: int) -> bool:
            try:
                others[number % 3].claim(id_).result()
            except Gone:
                return False
            return True

        self.assertEqual(1, sum(in_threads(24, claim)))
        self.assertRaises(Gone, self.drops.find, id_)

    def test_what_is_finished_is_gone_and_what_is_released_is_not(self) -> None:
        finished, released = self.make(), self.make()
        for id_ in (finished, released):
            self.drops.claim(id_).result()
        self.drops.finish(finished).result()
        self.drops.release(released).result()

        self.assertRaises(Gone, self.drops.find, finished)
        self.assertEqual(released, self.drops.find(released).id)
        # Once is enough.
        self.drops.release(finished).result()
        self.assertRaises(Gone, self.drops.find, finished)

    def test_it_is_released_five_times_at_most(self) -> None:
        id_ = self.make()
        for _ in range(5):
            self.drops.claim(id_).result()
            self.drops.release(id_).result()
            self.drops.find(id_)
        self.drops.claim(id_).result()
        self.drops.release(id_).result()

        self.assertRaises(Gone, self.drops.find, id_)
        self.assertEqual(1, self.drops.remove(self.removed.append))
        self.assertEqual([id_], self.removed)

    def test_wrong_passwords_are_counted_for_a_minute(self) -> None:
        id_ = self.make("right")
        drop = self.drops.find(id_)
        for _ in range(10):
            self.assertRaises(Unauthorized, self.drops.check, drop, "wrong")

        other = self.open_drops()
        self.assertRaises(TooManyGuesses, other.check, drop, "right")
        self.assertRaises(TooManyGuesses, other.find, id_)
        now = time.time()
        with mock.patch("filestoraged.store.drops.time.time", lambda: now + 61):
            other.check(drop, "right")


class TidyTest(DropsCase):
    def test_what_the_dead_had_is_available_or_removed_and_what_the_living_have_is_not(self) -> None:
        theirs, ours = self.make(), self.make()
        self.drops.claim(ours).result()
        command = [sys.executable, "-c", _CLAIM, self.path, str(self.directory / "owners"), theirs]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
            assert child.stdout is not None
            announced = child.stdout.readline().strip()
            self.drops.reap(self.removed.append)
            self.assertRaises(Gone, self.drops.find, theirs)
            self.assertEqual([], self.removed)
            child.kill()

        self.drops.reap(self.removed.append)

        self.assertEqual(theirs, self.drops.find(theirs).id)
        self.assertEqual([announced], self.removed)
        self.assertRaises(NotFound, self.drops.find, announced)
        self.assertRaises(Gone, self.drops.find, ours)
        self.assertEqual(1, len(self.files_below(self.directory / "owners")))

    def test_what_was_retracted_is_removed(self) -> None:
        id_ = self.drops.announce().result()
        self.drops.retract(id_).result()

        self.drops.reap(self.removed.append)

        self.assertEqual([id_], self.removed)

    def test_many_that_are_gone_go_in_small_steps(self) -> None:
        for id_ in [self.make() for _ in range(250)]:
            self.drops.claim(id_).result()
            self.drops.finish(id_).result()

        steps = [self.drops.remove(self.removed.append) for _ in range(4)]

        self.assertEqual([100, 100, 50, 0], steps)
        self.assertEqual(250, len(set(self.removed)))

    def test_bytes_that_cannot_be_removed_are_tried_again(self) -> None:
        id_ = self.make()
        self.drops.claim(id_).result()
        self.drops.finish(id_).result()

        self.assertRaises(OSError, self.drops.remove, mock.Mock(side_effect=OSError))

        self.drops.remove(self.removed.append)
        self.assertEqual([id_], self.removed)

    def test_times_that_are_over(self) -> None:
        id_ = self.make()
        now = time.time()
        with mock.patch("filestoraged.store.drops.time.time", lambda: now + 101):
            self.assertRaises(Gone, self.drops.find, id_)
            self.assertEqual([1, 0], [self.drops.expire(), self.drops.expire()])
            self.drops.remove(self.removed.append)
            self.assertEqual(0, self.drops.forget())
        with mock.patch("filestoraged.store.drops.time.time", lambda: now + 102 + 90 * 24 * 3600):
            self.assertEqual([1, 0], [self.drops.forget(), self.drops.forget()])
            self.assertRaises(NotFound, self.drops.find, id_)

    def test_another_kind_of_database_is_refused(self) -> None:
        path = str(self.directory / "kv.sqlite")
        prepare_keys(path)

        self.assertRaises(StartError, prepare_drops, path)


class PasswordTest(TempCase):
    def test_two_are_computed_at_once_and_not_too_many_wait(self) -> None:
        guard = passwords.Guard()
        goes_on = threading.Event()
        running: List[int] = []
        most = threading.Semaphore(2)

        def work() -> bool:
            alone = most.acquire(blocking=False)
            running.append(1)
            goes_on.wait(PATIENCE)
            most.release()
            return alone

        results = [guard.submit(work) for _ in range(200)]
        self.assertRaises(Unavailable, guard.submit, work)
        self.wait_until("two run", lambda: len(running) == 2)
        goes_on.set()

        self.assertEqual({True}, {result.result(PATIENCE) for result in results})
        self.assertTrue(guard.submit(work).result(PATIENCE))

    def test_a_password_matches_itself_alone(self) -> None:
        kept = passwords.kept("hello wörld")

        self.assertTrue(passwords.matches("hello wörld", kept))
        for other in ("", "hello world", "hello wörld ", "Hello wörld"):
            self.assertFalse(passwords.matches(other, kept))
