"""Names and the collection of objects at once, in several processes of one store, with kills: nothing is lost.

Each history is a schedule that its seed decides: uploads stop between their steps, janitors between condemnation and
removal, and processes die in either place. Whatever has happened, each name leads to its bytes, and in the end what no
name leads to is gone.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Generator
from random import Random
from unittest import mock

from filestoraged.errors import Error, NotFound, StoreUnavailable
from filestoraged.store import name_collection
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.name_collection import Collector
from filestoraged.store.name_listing import Name
from filestoraged.store.name_tables import NAMES_SCHEMA
from filestoraged.store.names import Link, Names
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.group_commit import TransactionQueue
from tests.clock import VirtualClock
from tests.support import TempCase

# Few contents and names, so that uploads and removals of the same ones meet.
CONTENTS = [b"%d" % number for number in range(2)]
NAMES = ["a", "b"]
HISTORIES = int(os.environ.get("FILESTORAGED_HISTORIES", "10"))
STEPS = 300

# Stops between two steps.
Task = Generator[None, None, None]


class Process:
    """A worker: it uploads, removes names and collects, a step at a time, until it is killed."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.names = Names(TransactionQueue(history.path, NAMES_SCHEMA, clock=history.clock), history.clock)
        self.store = DiskStore(history.root)
        self.collector = Collector(self.names, self.store, clock=history.clock)
        # What it is about to do; each ends by StopIteration.
        self.tasks: list[Task] = []

    def upload(self, name: str, data: bytes) -> Task:
        with self.store.namespace("s").stage() as staging:
            staging.write(data)
            oid = staging.finish()
            secured = self.names.secure("s", oid)
            while not secured.done():
                yield
                self.names.transactions.write(lambda _: None).result()
                self.names.retry()
            number = secured.result()
            yield
            staging.commit().result()
        yield
        self.names.put("s", name, Link(oid, len(data)), number=number).result()

    def refused(self, name: str, data: bytes) -> Task:
        """An upload whose condition does not hold: its object is left without a name."""
        oid = self.store.namespace("s").put(data)
        number = self.names.secure("s", oid).result(0) if self.names.secure("s", oid).done() else 0
        yield
        self.names.put("s", name, Link(oid, len(data)), number=number, condition=_refuse).result()

    def remove(self, name: str) -> Task:
        self.names.remove("s", name).result()
        yield

    def collect(self) -> Task:
        """A round of the janitor, which the lock lets one process of all do at a time."""
        if self.history.janitor is not None:
            return
        self.history.janitor = self
        with contextlib.ExitStack() as stack:
            stack.callback(self.history.release, self)
            # The steps of `Collector.collect`, with other processes in between.
            found = self.names.transactions.read(
                f"SELECT area, key FROM stored WHERE {name_collection._COLLECTABLE}", 0.0
            )
            yield
            condemn = functools.partial(name_collection._condemn, name_collection._objects(found), 0.0)
            condemned = self.names.transactions.write(condemn).result()
            yield
            for each in condemned:
                self.store.namespace(each.space).remove_all([each.oid])
                yield
            self.names.transactions.write(functools.partial(name_collection._mark_removed, condemned)).result()
            yield
            self.collector.forget()

    def kill(self) -> None:
        """Nothing that it has begun goes on. Its lock is free."""
        for task in self.tasks:
            task.close()
        self.tasks = []
        self.names.close()
        self.store.close()


class History:
    def __init__(self, root: str, seed: int) -> None:
        self.random = Random(seed)
        self.root = os.path.join(root, f"store-{seed}")
        self.path = os.path.join(root, f"names-{seed}.sqlite")
        database.prepare(self.path, NAMES_SCHEMA)
        self.clock = VirtualClock()
        self.janitor: Process | None = None
        self.processes = [Process(self) for _ in range(3)]

    def release(self, process: Process) -> None:
        if self.janitor is process:
            self.janitor = None

    def run(self) -> None:
        for _ in range(STEPS):
            number = self.random.randrange(len(self.processes))
            process = self.processes[number]
            chance = self.random.random()
            if chance < 0.02:
                process.kill()
                self.processes[number] = Process(self)
            elif chance < 0.6 and process.tasks:
                self.go_on(process)
            elif chance < 0.7:
                self.clock.advance(self.random.choice([31, 31, 3601]))
            else:
                process.tasks.append(self.begin(process))
            self.check(process)

    def begin(self, process: Process) -> Task:
        name, data = self.random.choice(NAMES), self.random.choice(CONTENTS)
        begins: list[Callable[[], Task]] = [
            *[functools.partial(process.upload, name, data)] * 4,
            functools.partial(process.refused, name, data),
            *[functools.partial(process.remove, name)] * 3,
            *[process.collect] * 4,
        ]
        return self.random.choice(begins)()

    def go_on(self, process: Process) -> None:
        task = self.random.choice(process.tasks)
        try:
            next(task)
        except (StopIteration, Error):
            # An error is a refusal: a name that is not there, an object that may have been removed.
            process.tasks.remove(task)

    def check(self, process: Process) -> None:
        """Each name leads to its bytes."""
        for name in process.names.listing("s").page("", 100).names:
            try:
                with process.store.namespace("s").get(name.oid) as stream:
                    assert stream.read() in CONTENTS
            except NotFound as error:
                raise AssertionError(f"{name} leads to nothing") from error

    def end(self) -> tuple[set[str], set[str]]:
        """End all, let the time pass, and collect. Returns the objects that names lead to, and those that are there."""
        for process in self.processes:
            process.kill()
        last = Process(self)
        last.collector._scan = last.collector._scan_pages()
        with mock.patch.object(name_collection, "_UNKNOWN_AGE", float("-inf")):
            while last.collector.scan():
                pass
        for _ in range(3):
            self.clock.advance(31)
            last.collector.collect()
        led_to = {each.oid for each in last.names.listing("s").page("", 100).names}
        there = set(last.store.namespace("s").list())
        self.check(last)
        last.kill()
        return led_to, there


def _refuse(_: Name | None) -> None:
    raise StoreUnavailable("no")


class NameStormTest(TempCase):
    def test_names_lead_to_their_bytes_and_nothing_else_stays_whatever_races_and_dies(self) -> None:
        for seed in range(HISTORIES):
            with self.subTest(seed=seed):
                history = History(str(self.directory), seed)
                history.run()

                led_to, there = history.end()

                self.assertEqual(led_to, there)

    def test_storm_finds_an_upload_that_is_not_compared_with_the_last_collection(self) -> None:
        def forgetful(*_: object) -> None:
            """In place of `_require_kept`."""

        with mock.patch("filestoraged.store.names._require_kept", forgetful):
            self.assertTrue(any(self.fails(seed) for seed in range(40)))

    def fails(self, seed: int) -> bool:
        history = History(str(self.directory), seed)
        try:
            history.run()
        except AssertionError:
            return True
        finally:
            for process in history.processes:
                process.kill()
        return False
