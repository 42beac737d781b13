"""The fork of a process whose threads have ended in Python, and not yet in the C libraries."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from pathlib import Path

from filestoraged.daemon import processes
from tests.clock import PassingClock
from tests.support import TempCase

# Microseconds that a thread takes to end behind its last line of Python, as on a busy machine.
_DELAY = 300_000


class ForkTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        # A fork thaws what the runner has frozen, all of which the judges of this and later tests would visit.
        self.addCleanup(gc.freeze)
        libc = ctypes.CDLL(None)
        self.key = ctypes.c_uint()
        # The destructor of the thread's value: it is called with the value, and sleeps so long.
        self.assertEqual(0, libc.pthread_key_create(ctypes.byref(self.key), libc.usleep))
        self.addCleanup(libc.pthread_key_delete, self.key)
        self.set_value = libc.pthread_setspecific

    def ended_thread(self) -> Path:
        """A thread that has ended in Python. Returns what the kernel shows of it."""
        thread = threading.Thread(target=lambda: self.set_value(self.key, ctypes.c_void_p(_DELAY)))
        thread.start()
        thread.join()
        return Path(f"/proc/self/task/{thread.native_id}")

    def test_child_is_forked_when_ended_threads_are_gone(self) -> None:
        shown = self.ended_thread()

        child = processes.fork()
        if not child:
            os._exit(0)
        self.addCleanup(os.waitpid, child, 0)

        self.assertFalse(shown.exists())

    def test_collector_ignores_the_objects_that_a_child_shares_with_its_parent(self) -> None:
        child = processes.fork()
        if not child:
            os._exit(gc.get_freeze_count() > 1000)

        self.assertEqual(1 << 8, os.waitpid(child, 0)[1])
        self.assertEqual(0, gc.get_freeze_count())

    def test_threads_that_have_not_ended_are_not_waited_for(self) -> None:
        is_over = threading.Event()
        thread = threading.Thread(target=is_over.wait)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(is_over.set)

        self.assertEqual(0.0, self.waited("/proc/self/task"))

    def test_thread_that_does_not_end_delays_a_fork_for_five_seconds(self) -> None:
        for number in range(threading.active_count() + 1):
            (self.directory / str(number)).touch()

        self.assertAlmostEqual(5.0, self.waited(str(self.directory)), delta=0.002)

    def test_process_without_proc_does_not_wait(self) -> None:
        self.assertEqual(0.0, self.waited("/nonexistent"))

    def waited(self, directory: str) -> float:
        """Wait for ended threads, of which there are as many as entries. Returns the seconds."""
        clock = PassingClock()
        began = clock.now()
        processes.wait_for_ended_threads(clock, directory)
        return clock.now() - began
