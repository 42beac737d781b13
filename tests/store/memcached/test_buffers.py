"""The memory that downloads share: turns, and what is given back."""

from __future__ import annotations

import threading

from filestoraged.errors import StoreUnavailable
from filestoraged.store.memcached.buffers import BufferBudget, BufferReservation
from tests.support import PATIENCE, TempCase

MIB = 1024 * 1024


class BudgetTest(TempCase):
    def test_who_waits_too_long_is_told(self) -> None:
        budget = BufferReservation(10, patience=0.01)
        budget.take(10)

        self.assertRaises(StoreUnavailable, budget.take, 1)
        budget.give(10)
        budget.take(10)

    def test_a_small_one_does_not_overtake_a_large_one(self) -> None:
        budget = BufferReservation(10, patience=PATIENCE)
        budget.take(8)
        order: list[int] = []

        def wait_for(size: int) -> None:
            budget.take(size)
            order.append(size)
            budget.give(size)

        large = threading.Thread(target=wait_for, args=(9,))
        large.start()
        self.wait_until("the large one waits", lambda: len(budget._waiting) == 1)
        small = threading.Thread(target=wait_for, args=(1,))
        small.start()
        self.wait_until("the small one waits", lambda: len(budget._waiting) == 2)
        budget.give(8)
        large.join(PATIENCE)
        small.join(PATIENCE)

        self.assertEqual([9, 1], order)

    def test_who_wants_more_than_there_is_waits_for_all_of_it(self) -> None:
        budget = BufferReservation(10, patience=0.01)
        budget.take(1)

        self.assertRaises(StoreUnavailable, budget.take, 11)
        budget.give(1)
        budget.take(11)
        self.assertRaises(StoreUnavailable, budget.take, 1)
        budget.give(11)
        budget.take(10)


class MemoryTest(TempCase):
    def test_what_was_read_goes_back_in_steps_and_the_rest_at_the_end(self) -> None:
        budget = BufferReservation(12 * MIB, patience=0.01)
        memory = BufferBudget(budget, 10 * MIB, spare=2)
        memory.view[:] = bytes(10 * MIB) + b"!!"

        memory.drop_before(9 * MIB)

        self.assertEqual(0, memory.view[8 * MIB])
        budget.take(10 * MIB)
        self.assertRaises(StoreUnavailable, budget.take, 1)
        memory.close()
        memory.close()
        budget.take(2 * MIB)
        self.assertRaises(StoreUnavailable, budget.take, 1)

    def test_what_has_less_than_a_step_goes_back_at_the_end(self) -> None:
        budget = BufferReservation(MIB, patience=0.01)
        memory = BufferBudget(budget, MIB, spare=2)
        memory.drop_before(MIB)

        self.assertRaises(StoreUnavailable, budget.take, 1)
        memory.close()
        budget.take(MIB)

    def test_what_is_small_does_not_wait_for_large_ones(self) -> None:
        budget = BufferReservation(10, patience=0.01)
        budget.take(10)

        BufferBudget(budget, 64 * 1024, spare=2).close()

        budget.give(10)
        budget.take(10)
        self.assertRaises(StoreUnavailable, budget.take, 1)
