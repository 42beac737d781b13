"""The buffer budget of downloads: the order of reservations, and their release."""

from __future__ import annotations

import threading

from filestoraged.errors import StoreUnavailable
from filestoraged.store.memcached.buffers import BufferBudget, ReservedBuffer
from tests.clock import PassingClock, VirtualClock
from tests.support import PATIENCE, TempCase

MIB = 1024 * 1024


class BudgetTest(TempCase):
    def test_reservation_that_times_out_raises_store_unavailable(self) -> None:
        budget = BufferBudget(10, clock=PassingClock())
        budget.reserve(10)

        self.assertRaises(StoreUnavailable, budget.reserve, 1)
        budget.release(10)
        budget.reserve(10)

    def test_small_reservation_does_not_overtake_a_large_one(self) -> None:
        clock = VirtualClock()
        budget = BufferBudget(10, clock=clock)
        budget.reserve(8)
        order: list[int] = []

        def wait_for(size: int) -> None:
            budget.reserve(size)
            order.append(size)
            budget.release(size)

        large = threading.Thread(target=wait_for, args=(9,))
        large.start()
        clock.wait_for_waiting(1)
        small = threading.Thread(target=wait_for, args=(1,))
        small.start()
        clock.wait_for_waiting(2)
        budget.release(8)
        large.join(PATIENCE)
        small.join(PATIENCE)

        self.assertEqual([9, 1], order)

    def test_reservation_that_times_out_lets_those_behind_it_go_on(self) -> None:
        # In real time: the virtual clock would wake both, and the next one is to be woken by the first.
        budget = BufferBudget(10, timeout=0.2)
        budget.reserve(8)
        large = threading.Thread(target=lambda: self.assertRaises(StoreUnavailable, budget.reserve, 9))
        large.start()
        self.wait_until(
            "the large one waits, or has timed out", lambda: len(budget._queue) == 1 or not large.is_alive()
        )
        # The next one does not time out within the test.
        budget._timeout = 10 * PATIENCE
        small = threading.Thread(target=budget.reserve, args=(1,), daemon=True)
        small.start()
        large.join(PATIENCE)
        small.join(PATIENCE)

        self.assertFalse(small.is_alive())

    def test_reservation_above_the_budget_waits_until_all_is_free(self) -> None:
        budget = BufferBudget(10, clock=PassingClock())
        budget.reserve(1)

        self.assertRaises(StoreUnavailable, budget.reserve, 11)
        budget.release(1)
        budget.reserve(11)
        self.assertRaises(StoreUnavailable, budget.reserve, 1)
        budget.release(11)
        budget.reserve(10)


class MemoryTest(TempCase):
    def test_memory_that_was_read_is_released_in_steps_and_the_rest_on_close(self) -> None:
        budget = BufferBudget(12 * MIB, clock=PassingClock())
        memory = ReservedBuffer(budget, 10 * MIB, spare=2)
        memory.view[:] = bytes(10 * MIB) + b"!!"

        memory.drop_before(9 * MIB)

        self.assertEqual(0, memory.view[8 * MIB])
        budget.reserve(10 * MIB)
        self.assertRaises(StoreUnavailable, budget.reserve, 1)
        memory.close()
        memory.close()
        budget.reserve(2 * MIB)
        self.assertRaises(StoreUnavailable, budget.reserve, 1)

    def test_buffer_smaller_than_a_step_is_released_on_close(self) -> None:
        budget = BufferBudget(MIB, clock=PassingClock())
        memory = ReservedBuffer(budget, MIB, spare=2)
        memory.drop_before(MIB)

        self.assertRaises(StoreUnavailable, budget.reserve, 1)
        memory.close()
        budget.reserve(MIB)

    def test_small_buffer_does_not_wait_for_large_ones(self) -> None:
        budget = BufferBudget(10, clock=PassingClock())
        budget.reserve(10)

        ReservedBuffer(budget, 64 * 1024, spare=2).close()

        budget.release(10)
        budget.reserve(10)
        self.assertRaises(StoreUnavailable, budget.reserve, 1)
