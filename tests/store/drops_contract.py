"""What the registry of drops promises in every database."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from unittest import mock

from filestoraged.errors import Error, Gone, NotFound, StoreUnavailable, TooManyGuesses, Unauthorized
from filestoraged.store.drops import Drop, Drops
from tests.support import CHEAP_PASSWORDS, TempCase, in_threads


class RegistryCase(TempCase):
    """A subclass sets `drops`, whose ttl is 100 s, opens the database again, and lets time pass."""

    drops: Drops

    def setUp(self) -> None:
        super().setUp()
        self.removed: list[str] = []

    def open_drops(self) -> Drops:
        raise NotImplementedError

    def later(self, seconds: float) -> AbstractContextManager[None]:
        """Let time pass for the drops, including the grace period after a jump of the clock."""
        raise NotImplementedError

    def take(self, ids: Iterable[str]) -> dict[str, OSError]:
        self.removed += ids
        return {}

    def make(self, password: str = "") -> str:
        id_ = self.drops.announce().result()
        self.drops.publish(Drop(id_, "name", CHEAP_PASSWORDS.kept(password) if password else None)).result()
        return id_


class DropsContract(RegistryCase):
    def test_drop_is_found_after_it_was_published(self) -> None:
        id_ = self.drops.announce().result()
        self.assertRaises(NotFound, self.drops.get, id_)

        self.drops.publish(Drop(id_, "Käse", None)).result()

        self.assertEqual(Drop(id_, "Käse", None), self.drops.get(id_))

    def test_ids_are_32_random_hexadecimal_digits(self) -> None:
        ids = {self.make() for _ in range(50)}

        self.assertEqual(50, len(ids))
        for id_ in ids:
            self.assertRegex(id_, r"^[0-9a-f]{32}$")

    def test_one_of_many_simultaneous_claims_succeeds(self) -> None:
        id_ = self.make()
        others = [self.drops, self.open_drops(), self.open_drops()]

        def claim(number: int) -> bool:
            try:
                others[number % 3].claim(id_).result()
            except Gone:
                return False
            return True

        self.assertEqual(1, sum(in_threads(24, claim)))
        self.assertRaises(Gone, self.drops.get, id_)

    def test_finished_drop_is_gone_and_released_drop_is_available(self) -> None:
        finished, released = self.make(), self.make()
        claims = {id_: self.drops.claim(id_).result() for id_ in (finished, released)}
        self.drops.finish(claims[finished]).result()
        self.drops.release(claims[released]).result()

        self.assertRaises(Gone, self.drops.get, finished)
        self.assertEqual(released, self.drops.get(released).id)
        # A second end of the same claim has no effect.
        self.drops.release(claims[finished]).result()
        self.assertRaises(Gone, self.drops.get, finished)

    def test_release_or_giving_back_that_is_written_twice_leaves_the_next_claim_alone(self) -> None:
        for end in (self.drops.release, self.drops.give_back):
            id_ = self.make()
            first = self.drops.claim(id_).result()
            end(first).result()
            self.drops.claim(id_).result()

            end(first).result()

            self.assertRaises(Gone, self.drops.get, id_)

    def test_drop_is_released_five_times_at_most(self) -> None:
        id_ = self.make()
        for _ in range(5):
            self.drops.release(self.drops.claim(id_).result()).result()
            self.drops.get(id_)
        self.drops.release(self.drops.claim(id_).result()).result()

        self.assertRaises(Gone, self.drops.get, id_)
        self.assertEqual(1, self.drops.remove(self.take))
        self.assertEqual([id_], self.removed)

    def test_drop_is_given_back_any_number_of_times_and_the_releases_between_are_counted(self) -> None:
        id_ = self.make()
        for _ in range(5):
            self.drops.give_back(self.drops.claim(id_).result()).result()
            self.drops.give_back(self.drops.claim(id_).result()).result()
            self.drops.release(self.drops.claim(id_).result()).result()
        self.assertEqual(id_, self.drops.get(id_).id)

        self.drops.release(self.drops.claim(id_).result()).result()

        self.assertRaises(Gone, self.drops.get, id_)

    def test_handed_over_drop_that_is_given_back_is_available_and_keeps_its_bytes(self) -> None:
        id_ = self.make()
        claim = self.drops.claim(id_).result()
        self.drops.hand_over(claim, keep=0.0).result()

        self.drops.give_back(claim).result()

        self.assertEqual(id_, self.drops.get(id_).id)
        self.assertEqual(0, self.drops.remove(self.take))

    def test_wrong_passwords_are_counted_for_a_minute(self) -> None:
        id_ = self.make("right")
        drop = self.drops.get(id_)
        for _ in range(10):
            self.assertRaises(Unauthorized, self.drops.check, drop, "wrong")

        other = self.open_drops()
        self.assertRaises(TooManyGuesses, other.check, drop, "right")
        self.assertRaises(TooManyGuesses, other.get, id_)
        with self.later(61):
            other.check(drop, "right")

    def test_retracted_drop_is_removed(self) -> None:
        id_ = self.drops.announce().result()
        self.drops.retract(id_).result()

        self.drops.reap(self.removed.append)

        self.assertEqual([id_], self.removed)

    def test_failed_removal_of_bytes_is_retried(self) -> None:
        id_ = self.make()
        self.drops.finish(self.drops.claim(id_).result()).result()

        error = PermissionError(13, "Permission denied")
        self.assertRaises(PermissionError, self.drops.remove, lambda ids: dict.fromkeys(ids, error))

        self.drops.remove(self.take)
        self.assertEqual([id_], self.removed)

    def test_failed_removal_of_bytes_does_not_delay_others(self) -> None:
        ids = [self.make() for _ in range(3)]
        for id_ in ids:
            self.drops.finish(self.drops.claim(id_).result()).result()
        error = PermissionError(13, "Permission denied")

        def remove_all(tried: Iterable[str]) -> dict[str, OSError]:
            return {id_: error for id_ in tried if id_ == ids[1]}

        self.assertEqual(2, self.drops.remove(remove_all))
        self.assertRaises(PermissionError, self.drops.remove, remove_all)

    def test_drop_that_was_reaped_during_its_upload_is_not_published(self) -> None:
        id_ = self.drops.announce().result()
        with mock.patch.object(self.drops._owners, "is_alive", return_value=False):
            self.drops.reap(self.removed.append)

        self.assertRaises(StoreUnavailable, self.drops.publish(Drop(id_, "name", None)).result)

    def test_expired_drops_and_old_rows_are_deleted(self) -> None:
        id_ = self.make()
        with self.later(101):
            self.assertRaises(Gone, self.drops.get, id_)
            self.assertEqual([1, 0], [self.drops.expire(), self.drops.expire()])
            self.drops.remove(self.take)
            self.assertEqual(0, self.drops.delete_old())
        with self.later(102 + 90 * 24 * 3600):
            self.assertEqual([1, 0], [self.drops.delete_old(), self.drops.delete_old()])
            self.assertRaises(NotFound, self.drops.get, id_)

    def test_ten_of_many_simultaneous_wrong_guesses_are_judged(self) -> None:
        drop = self.drops.get(self.make("right"))
        registries = [self.drops, self.open_drops(), self.open_drops(), self.open_drops()]
        judged: list[int] = []

        def matches(*_: object) -> bool:
            judged.append(1)
            return False

        def guess(number: int) -> str:
            try:
                registries[number % 4].check(drop, "wrong")
            except Error as error:
                return type(error).__name__
            return "right"

        with mock.patch.object(CHEAP_PASSWORDS, "matches", matches):
            outcomes = in_threads(40, guess)

        self.assertEqual(10, len(judged))
        self.assertEqual((10, 30), (outcomes.count("Unauthorized"), outcomes.count("TooManyGuesses")))

    def test_every_change_is_counted_also_by_another_process(self) -> None:
        available, finished, released = self.make(), self.make(), self.make()
        self.drops.announce().result()
        other = self.open_drops()
        other.finish(other.claim(finished).result()).result()
        other.release(other.claim(released).result()).result()
        other.claim(available).result()

        self.assertEqual({"arriving": 1, "available": 1, "claimed": 1, "gone": 1}, self.drops.count())

    def test_right_guesses_do_not_count(self) -> None:
        id_ = self.make("right")
        drop = self.drops.get(id_)

        outcomes = [outcome(self.drops, drop, "right") for _ in range(12)]

        self.assertEqual(["right"] * 12, outcomes)


def outcome(drops: Drops, drop: Drop, password: str) -> str:
    """What a guess comes to: the name of an error, or "right"."""
    try:
        drops.check(drop, password)
    except Error as error:
        return type(error).__name__
    return "right"
