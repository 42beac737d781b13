"""Histories of a disk store by seed: uploads, removals and reads of several processes, failures, kills, power cuts.

After each life of the machine, all objects are compared with what the oracle finds possible, before a power cut and
after it. A failed history raises with its seed and its last calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from filestoraged.digest import Bytes
from filestoraged.errors import AlreadyExists, Error, NotFound
from filestoraged.store import layout
from filestoraged.store.contract import SMALL
from filestoraged.store.disk.store import DiskStore
from tests.store.simulation.machine import Machine
from tests.store.simulation.oracle import ANSWERED, FAILED, Change, Impossible, Key, Oracle, Period
from tests.store.simulation.process import Process

ROOT = "/var/lib/store"
# The last one has no shards.
_NAMESPACES = ("", "repositories/pets", "drops", "restic/laptop/keys")
# Two shards, of which one has two objects; the last one is large.
_NAMES = ("aa" + "0" * 62, "aa" + "1" * 62, "bb" + "2" * 62, "cc" + "3" * 62)
_KEYS = [(namespace, name) for namespace in _NAMESPACES for name in _NAMES]

# In bytes. A few rounds fill a segment.
_SEGMENT_SIZE = 16 * 1024

# Calls of a failed history that its message shows.
_SHOWN = 400

MakeStore = Callable[[Process], DiskStore]


class Plan(NamedTuple):
    """What happens in a history. `failures` and `aborts` are chances of a call; `None` lets the seed decide.

    `failing` are the calls that may fail: all of them by default.

    `grouped` is the chance that a machine has one process, with more clients, whose changes are committed in groups.
    `second_cuts` is that of a power cut while a process replays journals.
    """

    lives: int = 2
    # At most.
    processes: int = 3
    clients: int = 3
    group: int = 8
    changes: int = 4
    failures: float | None = None
    aborts: float | None = None
    failing: Sequence[str] = ()
    grouped: float = 0.4
    second_cuts: float = 0.3
    file_system: str | None = None


class Daemon:
    """A process with a store, and its clients."""

    def __init__(self, history: History) -> None:
        self.process = Process(history.machine)
        self.store: DiskStore | None = None
        self.left = 1
        self._history = history
        self.process.start_thread(self._start, name="start")

    @property
    def is_busy(self) -> bool:
        return not self.process.is_dead and self.left > 0

    def close(self) -> None:
        self.process.start_thread(self._close, name="close")
        self.left = 1

    def _start(self) -> None:
        history = self._history
        # Kept in any case: the end of a store closes a descriptor.
        self.store = store = history.make_store(self.process)
        if history.attempt(store.prepare) and history.attempt(store.sweep):
            clients = history.plan.group if history.is_grouped else history.plan.clients
            for number in range(history.machine.random.randint(1, clients)):
                self.left += 1
                self.process.start_thread(self._run_client, name=f"client {number}")
        self.left -= 1

    def _run_client(self) -> None:
        assert self.store is not None
        client = Client(self._history, self.process, self.store)
        for _ in range(self._history.machine.random.randint(1, self._history.plan.changes)):
            client.act()
        self.left -= 1

    def _close(self) -> None:
        if self.store is not None:
            self.store.close()
        self.left = 0


class History:
    def __init__(self, seed: int, plan: Plan | None = None, make_store: MakeStore | None = None) -> None:
        plan = plan or Plan()
        first = Machine(seed).random
        self.seed = seed
        self.plan = plan
        self.make_store = make_store or _make_store
        self.machine = Machine(
            seed,
            file_system=plan.file_system or first.choice(("ext4", "ext4", "xfs", "btrfs")),
            dirty=0 if plan.file_system else first.choice((0, 0, 10**9)),
            switch_chance=first.choice((0.02, 0.2, 0.9)),
        )
        self.oracle = Oracle(_KEYS)
        self.is_grouped = False
        self._daemons: list[Daemon] = []
        self._failures = first.choice((0.0, 0.0, 0.002, 0.02)) if plan.failures is None else plan.failures
        self._aborts = first.choice((0.0, 0.0, 0.02)) if plan.aborts is None else plan.aborts

    @property
    def now(self) -> int:
        return len(self.machine.calls)

    @property
    def may_fail(self) -> bool:
        """Whether system calls fail in it."""
        return self._failures > 0 or self._aborts > 0

    def run(self) -> None:
        try:
            self.machine.write_file("/var/lib/other", b"")
            for _ in range(self.machine.random.randint(1, self.plan.lives)):
                self._live()
        except Exception as error:
            calls = "\n".join(f"{number:6} {call}" for number, call in enumerate(self.machine.calls))
            shown = "\n".join(calls.splitlines()[-_SHOWN:])
            raise AssertionError(f"{shown}\nseed {self.seed}, {self.plan}: {error!r}") from error
        finally:
            self.machine.kill_all()

    def attempt(self, action: Callable[[], object]) -> bool:
        """Returns whether it succeeded. Without a failed system call, it must."""
        try:
            action()
        except (OSError, Error) as error:
            self.require_fault(error)
            return False
        return True

    def require_fault(self, error: Exception) -> None:
        if not self.machine.faults.count:
            raise Impossible(f"failed although nothing else did: {error!r}") from error

    def check(self, key: Key, start: int, *, is_present: bool, is_cut: bool = False) -> None:
        """Judge what was seen since the call `start`.

        One failure leaves nothing of an upload. A second one, or a file system that takes no changes any more, may
        keep its name from being taken back, and a power cut may undo that.
        """
        forgives = is_cut or self.machine.faults.count > 1 or self.machine.files.is_aborted
        self.oracle.check(key, is_present=is_present, seen=Period(start, self.now), forgives=forgives)

    def _live(self) -> None:
        machine, random = self.machine, self.machine.random
        machine.faults.allow(*self.plan.failing, chance=self._failures)
        machine.faults.aborts, machine.faults.short_writes = self._aborts, random.choice((0.0, 0.1))
        self.is_grouped = random.random() < self.plan.grouped
        count = 1 if self.is_grouped else random.randint(1, self.plan.processes)
        self._daemons = [Daemon(self) for _ in range(count)]
        is_cut = False
        while any(each.is_busy for each in self._daemons) and not is_cut:
            self._run_for(random.choice((30, 100, 200, 300, 1000, 3000)))
            is_cut = self._disturb()
        machine.faults.stop()
        if not is_cut:
            self._end()
        machine.cut_power()
        while random.random() < self.plan.second_cuts:
            self._cut_replay()
        self._verify(is_cut=True)

    def _cut_replay(self) -> None:
        """Cut the power while a process replays what the last cut has left."""
        process = Process(self.machine)
        store = self.make_store(process)
        process.start_thread(store.prepare, name="replay")
        stop = self.now + self.machine.random.choice((10, 30, 100, 300))
        self.machine.scheduler.run(lambda: self.now >= stop)
        self.machine.cut_power()

    def _run_for(self, calls: int) -> None:
        stop = self.now + calls
        self.machine.scheduler.run(lambda: self.now >= stop or not any(each.is_busy for each in self._daemons))

    def _disturb(self) -> bool:
        """Let something happen to the machine. Returns whether the power is to be cut."""
        random = self.machine.random
        event = random.choice(("nothing", "time", "kill", "power", "power"))
        if event == "time":
            # File times are past, or the timeout of a retry is over.
            self.machine.pass_time(random.choice((0.2, 3.0)))
        if event == "kill":
            random.choice(self._daemons).process.kill()
            self._daemons = [each for each in self._daemons if not each.process.is_dead]
            self._daemons.append(Daemon(self))
        return event == "power"

    def _end(self) -> None:
        """End all processes, by themselves or not; then the stagings of the dead can be swept, and all else stays."""
        if self.machine.random.random() < 0.5:
            for each in self._daemons:
                each.close()
            self.machine.scheduler.run(lambda: not any(each.is_busy for each in self._daemons))
            for each in self._daemons:
                self._check_descriptors(each)
        self.machine.kill_all()
        if not self.machine.files.is_aborted:
            self._verify(is_cut=False)

    def _check_descriptors(self, daemon: Daemon) -> None:
        """One is that of the store's identity."""
        left = daemon.process.descriptors
        if len(left) > 1 and not self.machine.faults.count:
            raise Impossible(f"descriptors {left} of {daemon.process.number} are still open")

    def _verify(self, *, is_cut: bool) -> None:
        process = Process(self.machine)
        store = self.make_store(process)
        store.prepare()
        start = self.now
        for key in _KEYS:
            is_present = _is_present(process, open_namespace(store, key[0]), key)
            self.check(key, start, is_present=is_present, is_cut=is_cut)
            if is_cut:
                self.oracle.know(key, is_present=is_present, now=self.now)
        store.sweep()
        staging = f"{ROOT}/{layout.STAGING}"
        if set(store.volume.staging_area.tokens()) - store.volume.staging_area.living():
            raise Impossible(f"left behind by dead processes in {staging}: {process.listdir(staging)}")
        process.kill()


class Client:
    """Does at random what clients do, and tells the oracle."""

    def __init__(self, history: History, process: Process, store: DiskStore) -> None:
        self._history = history
        self._process = process
        self._store = store
        self._random = history.machine.random

    def act(self) -> None:
        key = self._random.choice(_KEYS)
        store = open_namespace(self._store, key[0])
        action = self._random.choice(_ACTIONS[:_CHANGES] if self._history.is_grouped else _ACTIONS)
        action(self, store, key)

    def upload(self, store: DiskStore, key: Key) -> None:
        self._upload(store, key, is_new=False)

    def upload_new(self, store: DiskStore, key: Key) -> None:
        self._upload(store, key, is_new=True)

    def remove(self, store: DiskStore, key: Key) -> None:
        change = self._begin(key, is_present=False)
        try:
            self._finish(change, lambda: store.remove(key[1]))
        except NotFound:
            self._end(change, ANSWERED)

    def remove_all(self, store: DiskStore, key: Key) -> None:
        changes = {name: self._begin((key[0], name), is_present=False) for name in _NAMES[:3]}
        failures = store.remove_all([*changes])
        for name, change in changes.items():
            self._end(change, FAILED if name in failures else ANSWERED)
        for failure in failures.values():
            self._history.require_fault(failure)

    def read(self, store: DiskStore, key: Key) -> None:
        start = self._history.now
        try:
            is_present = _is_present(self._process, store, key)
        except (OSError, Error) as error:
            self._history.require_fault(error)
        else:
            self._history.check(key, start, is_present=is_present)

    def abandon(self, store: DiskStore, key: Key) -> None:
        def act() -> None:
            with store.stage() as staging:
                staging.write(content(key))

        self._history.attempt(act)

    def sweep(self, store: DiskStore, key: Key) -> None:
        self._history.attempt(self._store.sweep)

    def probe(self, store: DiskStore, key: Key) -> None:
        self._history.attempt(self._store.probe)

    def list(self, store: DiskStore, key: Key) -> None:
        self._history.attempt(store.list)

    def _upload(self, store: DiskStore, key: Key, *, is_new: bool) -> None:
        data, change = content(key), self._begin(key, is_present=True)
        size = self._random.choice((None, len(data)))

        def act() -> None:
            with store.stage(size) as staging:
                half = self._random.randrange(len(data))
                staging.write(data[:half])
                staging.write(data[half:])
                future = staging.commit(name=key[1], replace=not is_new)
            self._process.result_of(future)

        try:
            self._finish(change, act)
        except AlreadyExists:
            if not is_new:
                raise
            # It is there, and durable: the client will not send it again. But the upload that stored it may fail yet,
            # and take its name back.
            self._end(change, FAILED if self._history.may_fail else ANSWERED)
            self._history.check(key, change.start, is_present=True)

    def _begin(self, key: Key, *, is_present: bool) -> Change:
        return self._history.oracle.begin(key, is_present=is_present, now=self._history.now)

    def _end(self, change: Change, outcome: str) -> None:
        self._history.oracle.end(change, outcome, self._history.now)

    def _finish(self, change: Change, act: Callable[[], None]) -> None:
        try:
            act()
        except (NotFound, AlreadyExists):
            raise
        except (OSError, Error) as error:
            self._end(change, FAILED)
            self._history.require_fault(error)
        else:
            self._end(change, ANSWERED)


_ACTIONS: tuple[Callable[[Client, DiskStore, Key], None], ...] = (
    *(Client.upload,) * 4,
    *(Client.upload_new,) * 2,
    *(Client.remove,) * 3,
    *(Client.read,) * 2,
    Client.remove_all,
    Client.abandon,
    Client.sweep,
    Client.probe,
    Client.list,
)

# The first ones of them, which are committed in groups.
_CHANGES = 9


class Sink:
    """Receives an object. Its file is read by the process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.data = b""

    def write(self, data: Bytes) -> int:
        self.data += data
        return len(data)

    def sendfile(self, descriptor: int, start: int, stop: int) -> int:
        return self.write(self._process.pread(descriptor, stop - start, start))


def content(key: Key) -> bytes:
    """The bytes of an object, without zeros, so that no part of it looks like a hole."""
    size = SMALL + 2000 if key[1] == _NAMES[-1] else 1200
    block = hashlib.sha256("/".join(key).encode()).digest().replace(b"\0", b"\1")
    return (block * (size // len(block) + 1))[:size]


def open_namespace(store: DiskStore, path: str) -> DiskStore:
    for name in filter(None, path.split("/")):
        store = store.namespace(name)
    return store


def _make_store(process: Process) -> DiskStore:
    return DiskStore(ROOT, segment_size=_SEGMENT_SIZE, system=process)


def _is_present(process: Process, store: DiskStore, key: Key) -> bool:
    """Read an object. Raises Impossible if its bytes are not its own."""
    sink = Sink(process)
    try:
        with store.open(key[1]) as blob:
            position = 0
            while position < blob.size:
                position = blob.send(sink, position, blob.size)
    except NotFound:
        return False
    if sink.data != content(key):
        raise Impossible(f"{key} has {len(sink.data)} bytes that are not its own")
    return True
