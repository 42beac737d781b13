"""Group commit of small uploads and removals: one thread of each process makes all that waits durable together.

A round advances each change by one step, and then syncs the file system once. The first step of an upload writes its
bytes to a staging, the second one names it; a removal has one step. So a change is answered behind the sync that
follows its last step, the bytes of an upload are durable before they get their name, and the sync of one round serves
the names of the earlier uploads and the bytes of the later ones.

If the sync fails, all changes of the round fail: the kernel reports the error once, and not of which file. A step that
fails lets its change fail alone.

While other programs write much to the file system, each change is synced apart, by threads of its own.
"""

from __future__ import annotations

import logging
import queue
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from filestoraged.errors import Error, StoreUnavailable
from filestoraged.future import Future, set_results
from filestoraged.store.disk.sync_choice import SyncChoice
from filestoraged.store.disk.sync_threads import SyncThreads
from filestoraged.store.system import LINUX, Queue, System, Thread

log = logging.getLogger(__name__)

# Changes of one round. In a larger one, the first change would wait long for the last.
_MAX_ROUND = 256


class Change(ABC):
    """A change of the store. The committer's thread calls all but the constructor."""

    def __init__(self) -> None:
        self.done: Future[Any] = Future()
        # Whether the last step is taken.
        self.is_complete = False
        # The path of the object that the next step stores, whether there is one or not; empty for other steps.
        self.stores = ""

    @abstractmethod
    def advance(self) -> None:
        """Take the next step. Raises OSError, and errors for the caller of the change."""

    @abstractmethod
    def sync(self) -> None:
        """Make the last step durable by syncing its own files. Raises OSError."""

    @abstractmethod
    def finish(self) -> Any:
        """The last step is durable. Returns the result. Raises the Error that is the outcome instead."""

    @abstractmethod
    def undo(self) -> None:
        """Release everything; nothing of the change stays visible. Raises nothing."""

    def fail(self, error: Exception) -> None:
        self.undo()
        self.done.set_exception(error)

    def commit_alone(self, check: Callable[[], None]) -> None:
        """Take and sync each step, without a committer. Raises what fails, except in `finish`.

        `check` raises OSError if the file system failed although a sync succeeded.
        """
        try:
            self.advance()
            self.sync()
            while not self.is_complete:
                self.advance()
                self.sync()
            check()
        except Exception as error:
            self.fail(error)
            raise
        _finish([self])


class SyncableFileSystem(Protocol):
    """A file system that one call makes durable; see `FileSystem`."""

    def sync(self) -> None: ...

    @property
    def is_busy(self) -> bool: ...

    def close(self) -> None: ...


class Committer:
    """Any thread submits changes. Made after the fork; its thread starts with the first change."""

    def __init__(
        self,
        file_system: SyncableFileSystem,
        check: Callable[[], None],
        choice: SyncChoice | None = None,
        *,
        check_root: Callable[[], None] = lambda: None,
        system: System = LINUX,
    ) -> None:
        """`check` raises OSError or an Error if the file system failed although a sync succeeded.

        `check_root` raises an Error if nothing may be changed. It is called once for each round, and for each failure.
        """
        self._file_system = file_system
        self._check_changes = check
        self._check_root = check_root
        self._system = system
        self._choice = choice or SyncChoice(system=system)
        self._sync_threads: SyncThreads[Change] = SyncThreads(lambda change: change.sync(), system=system)
        # Changes; None ends the thread.
        self._queue: Queue = system.queue()
        self._lock = system.lock()
        self._thread: Thread | None = None
        # Owner of these: the thread. Changes with a step to take; and whether no more are submitted.
        self._begun: list[Change] = []
        self._is_closed = False
        self._is_busy = False

    def submit(self, change: Change) -> None:
        """Queue a change, or let it fail if no thread can be started."""
        if self._thread is None and not self._start():
            change.fail(StoreUnavailable("The server cannot start a thread to write; retry later."))
        else:
            self._queue.put(change)

    @property
    def is_busy(self) -> bool:
        """Whether it has changes to commit."""
        return self._is_busy or not self._queue.empty()

    def close(self) -> None:
        """Finish the queued changes, and end the thread. Nothing is submitted afterwards."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()
        self._sync_threads.close()
        self._file_system.close()

    def _start(self) -> bool:
        with self._lock:
            if self._thread is None:
                self._thread = self._system.start_thread(self._run, name="committer")
            return self._thread is not None

    def _run(self) -> None:
        while not self._is_closed or self._begun:
            self._run_round()

    def _run_round(self) -> None:
        # A function of its own, so that a thread that waits does not keep the changes of its last round in memory.
        self._is_busy = bool(self._begun)
        changes = self._take()
        self._is_busy = True
        try:
            self._commit(changes)
        except Exception as error:
            # The thread goes on: without it, all later changes would wait for ever.
            log.exception("a round of the committer failed")
            self._begun = []
            self._fail(changes, error)

    def _take(self) -> list[Change]:
        """The changes of the next round. Waits for the first of them."""
        changes, self._begun = self._begun, []
        try:
            while len(changes) < _MAX_ROUND:
                change: Change | None = self._queue.get(block=not changes)
                if change is None:
                    self._is_closed = True
                    break
                changes.append(change)
        except queue.Empty:
            pass
        return changes

    def _commit(self, changes: Sequence[Change]) -> None:
        """Advance each change by one step, sync, and finish those whose last step that was."""
        try:
            self._check_root()
        except Error as error:
            self._fail(changes, error)
            return
        # Before this round has bytes to be written itself.
        is_together = self._choice.is_together(len(changes)) and not self._file_system.is_busy
        leaders, followers = _separate(changes)
        advanced = self._advance(leaders)
        synced = self._check(self._sync_together(advanced) if is_together else self._sync_apart(advanced))
        self._begun = [change for change in synced if not change.is_complete]
        _finish([change for change in synced if change.is_complete])
        _follow(followers)

    # Each returns the changes for which it succeeded. The others fail.

    def _advance(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Take a step of each change."""
        advanced = []
        for change in changes:
            try:
                change.advance()
            except Exception as error:
                self._fail([change], error)
            else:
                advanced.append(change)
        return advanced

    def _check(self, changes: Sequence[Change]) -> Sequence[Change]:
        try:
            if changes:
                self._check_changes()
        except (Error, OSError) as error:
            self._fail(changes, error)
            return ()
        return changes

    def _sync_together(self, changes: Sequence[Change]) -> Sequence[Change]:
        if not changes:
            return ()
        started = self._system.monotonic()
        try:
            self._file_system.sync()
        except OSError as error:
            self._fail(changes, error)
            return ()
        finally:
            self._choice.record_together(len(changes), self._system.monotonic() - started)
        return changes

    def _sync_apart(self, changes: Sequence[Change]) -> Sequence[Change]:
        if not changes:
            return ()
        started = self._system.monotonic()
        errors = self._sync_threads.call(changes)
        self._choice.record_apart(len(changes), self._system.monotonic() - started)
        for change, error in zip(changes, errors):
            if error is not None:
                self._fail([change], error)
        return [change for change, error in zip(changes, errors) if error is None]

    def _fail(self, changes: Sequence[Change], error: Exception) -> None:
        """Let changes fail: because the root is lost, if it is, since another error is then a consequence of that."""
        try:
            self._check_root()
        except Error as lost:
            error = lost
        for change in changes:
            if not change.done.done():
                change.fail(error)


def _separate(changes: Sequence[Change]) -> tuple[list[Change], list[tuple[Change, Change]]]:
    """Find the changes whose object another one of the round stores too. Returns the others, and these with those.

    If both gave the name and the sync failed, neither could tell whether the name was there before.
    """
    leaders: dict[str, Change] = {}
    own: list[Change] = []
    followers: list[tuple[Change, Change]] = []
    for change in changes:
        leader = leaders.setdefault(change.stores, change) if change.stores else change
        if leader is change:
            own.append(change)
        else:
            followers.append((change, leader))
    return own, followers


def _follow(followers: Sequence[tuple[Change, Change]]) -> None:
    """Give changes the outcome of those that they follow, and which are done."""
    for follower, leader in followers:
        error = leader.done.exception()
        if isinstance(error, Exception):
            follower.fail(error)
    _finish([follower for follower, leader in followers if leader.done.exception() is None])


def _finish(changes: Sequence[Change]) -> None:
    results = []
    for change in changes:
        try:
            results.append((change.done, change.finish()))
        except Error as error:
            change.done.set_exception(error)
    # All at once: the loop is woken once.
    set_results(results)
