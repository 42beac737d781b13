"""Group commit: one thread of each process records in its journal all changes that wait, and applies them to the files.

A round locks the paths of its changes, writes their files to stagings, appends one group to the journal, which makes
all of them durable, gives the files their names, and answers. A change that fails before its record is not recorded.
One that fails behind it is voided before it is answered. While one round waits for the disk, the next one gathers.

A checkpoint, on a thread of its own, syncs the files themselves. It begins when a segment of the journal is full, and
rounds wait for it only when all segments are.
"""

from __future__ import annotations

import logging
import queue
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from filestoraged.errors import DISK_FULL, Error, StoreUnavailable
from filestoraged.future import set_results
from filestoraged.store.disk.changes import Change
from filestoraged.store.disk.epoch import LOCK_PAUSE, LOCK_TIMEOUT, EpochFile
from filestoraged.store.disk.journal import Journal, JournalSegment
from filestoraged.store.disk.records import Record, RecordKind, void
from filestoraged.store.disk.shared_journal import SharedJournal
from filestoraged.store.system import Queue, System, Thread

log = logging.getLogger(__name__)

# Changes and bytes of objects of one round. In a larger one, the first change would wait long for the last.
_MAX_ROUND = 256
_MAX_ROUND_SIZE = 1024 * 1024

# Threads of a committer without a journal: the file system serves simultaneous syncs by fewer writes of its own.
_MAX_THREADS = 16

# Seconds between two attempts to tell other processes what became of a round.
_PAUSE = 1.0

# In the queue of full segments: the end of the thread.
_END = object()


class _Waiting(NamedTuple):
    """A change, and the time of the monotonic clock at which it fails if its path is still locked."""

    change: Change
    until: float


class _Voided(NamedTuple):
    """A change that failed behind its record, and the record that voids that."""

    change: Change
    error: Exception
    record: Record


class Committer(ABC):
    """Any thread submits changes. Made after the fork; threads start with the first change."""

    def __init__(self, *, system: System) -> None:
        self._system = system
        # Changes; None ends a thread.
        self._queue: Queue = system.queue()
        self._starting = system.lock()
        self._threads: list[Thread] = []

    def submit(self, change: Change) -> None:
        """Queue a change, or let it fail if no thread can be started."""
        if not self._ensure_thread():
            change.fail(StoreUnavailable("The server cannot start a thread to write; retry later."))
        else:
            self._queue.put(change)

    def close(self) -> None:
        """Finish the queued changes, and end the threads. Nothing is submitted afterwards."""
        with self._starting:
            threads, self._threads = self._threads, []
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            thread.join()

    @abstractmethod
    def _ensure_thread(self) -> bool:
        """Start a thread if one is needed. Returns False if there is none, and none can be started."""

    @abstractmethod
    def _run(self) -> None: ...

    def _start(self, limit: int) -> bool:
        with self._starting:
            if len(self._threads) < limit:
                thread = self._system.start_thread(self._run, name="committer")
                if thread is not None:
                    self._threads.append(thread)
            return bool(self._threads)


class ParallelCommitter(Committer):
    """Commits each change alone, several at the same time."""

    def __init__(self, commit: Callable[[Change], None], *, system: System) -> None:
        super().__init__(system=system)
        self._commit = commit
        # Changes that are submitted and not done; the lock guards the number.
        self._in_flight = 0
        self._counting = system.lock()

    def _ensure_thread(self) -> bool:
        self._count(1)
        is_started = self._start(min(self._in_flight, _MAX_THREADS))
        if not is_started:
            self._count(-1)
        return is_started

    def _count(self, difference: int) -> None:
        with self._counting:
            self._in_flight += difference

    def _run(self) -> None:
        while self._run_one():
            pass

    def _run_one(self) -> bool:
        # A function of its own, so that a thread that waits does not keep its last change in memory.
        change: Change | None = self._queue.get()
        if change is None:
            return False
        try:
            self._commit(change)
        finally:
            self._count(-1)
        return True


class JournalCommitter(Committer):
    """Commits by the journal of the process."""

    def __init__(self, shared: SharedJournal, check_root: Callable[[], None], *, size: int, system: System) -> None:
        """`check_root` raises an Error if nothing may be changed. It is called once for each round, and for failures.

        Segments of the journal have `size` bytes.
        """
        super().__init__(system=system)
        self._shared = shared
        self._check_root = check_root
        self._size = size
        # Segments to be covered by a checkpoint, None if one is needed, and the end of the thread that makes them.
        self._full: Queue = system.queue()
        self._checkpoints: Thread | None = None
        # Owner of these: the committer's thread.
        self._journal: Journal | None = None
        self._epoch_file: EpochFile | None = None
        # Changes that were too many for a round, or whose paths others have locked; and whether there are such.
        self._deferred: list[_Waiting] = []
        self._is_locked_out = False
        self._is_ended = False
        # All is applied up to that time, which could not be marked; 0 where it was. And whether that, or a group that
        # failed and is not void, leaves open for other processes what became of a round.
        self._unmarked = 0
        self._is_settled = True
        # Why the last checkpoint failed. Owner: the thread of checkpoints.
        self._failure: Exception | None = None

    def close(self) -> None:
        """As above. The journal is removed if a last checkpoint succeeds; else it is replayed some day."""
        super().close()
        journal, thread = self._journal, self._checkpoints
        if thread is not None:
            self._full.put(_END)
            thread.join()
        if journal is not None:
            while not self._full.empty():
                self._full.get()
            try:
                self._shared.checkpoint()
                journal.remove()
            except (OSError, Error) as error:
                log.warning("leaving a journal behind: %s", error)
            journal.close()

    def probe(self) -> None:
        """Raise why the last checkpoint failed, and ask for another one; the next call tells whether that succeeded."""
        failure = self._failure
        if failure is not None:
            self._full.put(None)
            raise failure

    def _ensure_thread(self) -> bool:
        return bool(self._threads) or self._start(1)

    def _run(self) -> None:
        while not self._is_ended or self._deferred:
            self._run_round()

    def _run_round(self) -> None:
        # A function of its own, so that a thread that waits does not keep the changes of its last round in memory.
        waiting = self._take()
        pending: list[tuple[Change, Record]] = []
        try:
            self._check_root()
            journal, file = self._open()
            file.check()
            if not self._is_settled:
                self._settle(journal, file)
            pending = [*self._prepare(waiting, file)]
            if pending:
                self._commit(pending, journal, file)
        except (Error, OSError) as error:
            self._note_settled()
            self._remove_on_full_disk(_unfinished(waiting, self._deferred), error)
            self._fail(_unfinished(waiting, self._deferred), error)
        except Exception as error:
            # The thread goes on: without it, all later changes would wait for ever.
            log.exception("a round of the committer failed")
            self._fail(_unfinished(waiting, self._deferred), error)
        finally:
            # Else another process could change the same objects, and a checkpoint cover that change alone.
            if self._epoch_file is not None and self._is_settled:
                self._epoch_file.unlock_paths()

    def _take(self) -> list[_Waiting]:
        """The changes of the next round. Waits for the first of them, or shortly if paths are to be locked."""
        waiting, self._deferred = self._deferred, []
        until = self._system.monotonic() + LOCK_TIMEOUT
        block, timeout = not waiting, None if self._is_settled else _PAUSE
        if self._is_locked_out:
            block, timeout = True, LOCK_PAUSE
        if self._is_locked_out and self._is_ended:
            self._system.sleep(LOCK_PAUSE)
        self._is_locked_out = False
        try:
            while len(waiting) < _MAX_ROUND and not self._is_ended:
                change: Change | None = self._queue.get(block=block, timeout=timeout)
                if change is None:
                    self._is_ended = True
                else:
                    waiting.append(_Waiting(change, until))
                block, timeout = False, None
        except queue.Empty:
            pass
        return waiting

    def _open(self) -> tuple[Journal, EpochFile]:
        """The journal, opened for the first round, and the file of its epoch. Raises OSError, and Error."""
        if self._journal is None or self._epoch_file is None:
            self._journal, self._epoch_file = self._shared.open_journal(self._full, self._size)
        if self._checkpoints is None:
            self._checkpoints = self._system.start_thread(self._run_checkpoints, name="checkpoint")
        if self._checkpoints is None:
            raise StoreUnavailable("The server cannot start a thread to write; retry later.")
        return self._journal, self._epoch_file

    def _prepare(self, waiting: Sequence[_Waiting], file: EpochFile) -> Iterator[tuple[Change, Record]]:
        """Lock the paths, and prepare the changes of one group. Defers those that are locked, or too many."""
        size = 0
        for each in waiting:
            change = each.change
            if size > _MAX_ROUND_SIZE:
                self._deferred.append(each)
                continue
            if not change.is_locked_by_caller and not file.try_lock(change.path):
                self._is_locked_out = True
                self._defer(each)
                continue
            try:
                data = change.prepare()
            except (Error, OSError) as error:
                self._fail([change], error)
                continue
            record = Record(change.kind, change.path, self._system.monotonic_ns(), data)
            size += len(data)
            yield change, record

    def _defer(self, waiting: _Waiting) -> None:
        if self._system.monotonic() < waiting.until:
            self._deferred.append(waiting)
        else:
            self._fail([waiting.change], StoreUnavailable("Another process is changing this object; retry later."))

    def _commit(self, pending: Sequence[tuple[Change, Record]], journal: Journal, file: EpochFile) -> None:
        journal, sequence = self._append([record for _, record in pending], journal)
        applied, voids = self._apply(pending, sequence)
        self._mark(pending[-1][1].time, file)
        finish(applied)
        if voids:
            try:
                journal.append([each.record for each in voids])
                self._mark(voids[-1].record.time, file)
            finally:
                for each in voids:
                    self._fail([each.change], each.error)

    def _settle(self, journal: Journal, file: EpochFile) -> None:
        """Tell other processes what became of earlier rounds, where that has failed so far."""
        if self._unmarked:
            self._mark(self._unmarked, file)
        journal.settle()
        self._note_settled()

    def _note_settled(self) -> None:
        self._is_settled = not self._unmarked and (self._journal is None or self._journal.is_settled)

    def _mark(self, time: int, file: EpochFile) -> None:
        try:
            file.mark(time)
            self._unmarked = 0
        except OSError:
            self._unmarked = time
            self._is_settled = False

    def _append(self, records: Sequence[Record], journal: Journal) -> tuple[Journal, int]:
        try:
            return journal, journal.append(records)
        except FileNotFoundError:
            # An operator has removed the staging area, with the journal.
            journal.close()
            self._journal = None
            journal, _ = self._open()
            sequence = journal.append(records)
            # No replay would find what the removed journal said.
            self._shared.checkpoint()
            return journal, sequence

    def _apply(self, pending: Sequence[tuple[Change, Record]], sequence: int) -> tuple[list[Change], list[_Voided]]:
        """Apply the changes of a group to the files. Returns those that are applied, and those that failed."""
        applied, voids = [], []
        # Paths may have led elsewhere since the round began.
        lost = self._lost()
        for index, (change, _) in enumerate(pending):
            try:
                if lost is not None:
                    raise lost
                change.apply()
                applied.append(change)
            except (Error, OSError) as error:
                voids.append(_Voided(change, error, void(sequence, index, self._system.monotonic_ns())))
        return applied, voids

    def _remove_on_full_disk(self, changes: Sequence[Change], error: Exception) -> None:
        """Remove objects although the disk is too full for a journal: behind a checkpoint, no record is needed.

        The first removal makes room for what the checkpoint needs.
        """
        removals = [change for change in changes if change.kind is RecordKind.REMOVED]
        if not removals or not isinstance(error, OSError) or error.errno not in DISK_FULL:
            return
        try:
            for change in removals:
                change.commit_alone()
            self._shared.checkpoint()
        except (Error, OSError) as failure:
            self._fail(removals, failure)
        else:
            finish(removals)

    def _fail(self, changes: Iterable[Change], error: Exception) -> None:
        """Let changes fail: because the root is lost, if it is, since another error is then a consequence of that."""
        error = self._lost() or error
        for change in changes:
            change.fail(error)

    def _lost(self) -> Error | None:
        try:
            self._check_root()
        except Error as error:
            return error
        return None

    def _run_checkpoints(self) -> None:
        waiting: list[JournalSegment] = []
        while (segment := self._full.get()) is not _END:
            if segment is not None:
                waiting.append(segment)
            try:
                covered = self._shared.checkpoint()
            except (Error, OSError) as error:
                log.error("a checkpoint of the journal failed; refusing small uploads when it is full: %s", error)
                self._failure = error
                self._refuse("The store cannot be synced; retry later.")
                continue
            self._failure = None
            ready = [each for each in waiting if each.time <= covered]
            waiting = [each for each in waiting if each.time > covered]
            for each in ready:
                each.free.put(each)
            # A broken one is not written again: who waits for a segment would wait for the others, which nobody covers.
            if waiting and all(each.is_broken for each in ready):
                self._refuse("The store's journal is full; retry later.")
        # They are closed with the others.
        for each in waiting:
            each.free.put(each)

    def _refuse(self, message: str) -> None:
        journal = self._journal
        if journal is not None:
            journal.refuse(StoreUnavailable(message))


def _unfinished(waiting: Iterable[_Waiting], deferred: Sequence[_Waiting]) -> list[Change]:
    return [each.change for each in waiting if each not in deferred and not each.change.done.done()]


def finish(changes: Iterable[Change]) -> None:
    """Answer changes that are made. All at once: the loop is woken once."""
    set_results([(change.done, _outcome(change)) for change in changes])


def _outcome(change: Change) -> object:
    """The result of a change that is made, or the Error that it is."""
    try:
        return change.finish()
    except Error as error:
        return error
