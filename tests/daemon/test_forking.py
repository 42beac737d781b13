"""The fork of a process whose threads have ended in Python, and not yet in the C libraries."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

from filestoraged.daemon import forking

# Microseconds that a thread takes to end behind its last line of Python, as on a busy machine.
_DELAY = 300_000


class ForkTest(unittest.TestCase):
    def setUp(self) -> None:
        super().setUp()
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

        child = forking.fork()
        if not child:
            os._exit(0)
        self.addCleanup(os.waitpid, child, 0)

        self.assertFalse(shown.exists())

    def test_collector_ignores_the_objects_that_a_child_shares_with_its_parent(self) -> None:
        child = forking.fork()
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

        self.assertEqual([], self.pauses())

    def test_thread_that_does_not_end_delays_a_fork_for_five_seconds(self) -> None:
        clock = iter([0.0, 1.0, 4.9, 5.1])
        with (
            mock.patch.object(forking, "_count_threads", lambda: threading.active_count() + 1),
            mock.patch.object(time, "monotonic", lambda: next(clock)),
        ):
            self.assertEqual([0.001, 0.001], self.pauses())

    def test_process_without_proc_does_not_wait(self) -> None:
        self.ended_thread()
        self.addCleanup(forking.wait_for_ended_threads)

        with mock.patch.object(forking, "_THREADS", "/nonexistent"):
            self.assertEqual([], self.pauses())

    def pauses(self) -> list[float]:
        """The pauses of a wait for ended threads."""
        pauses: list[float] = []
        with mock.patch.object(time, "sleep", pauses.append):
            forking.wait_for_ended_threads()
        return pauses
