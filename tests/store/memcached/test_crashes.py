"""The items that remain in memcached when a client or a server dies at any step of an upload, a repair or a removal.

Every chunk that never expires is named by a manifest that never expires; an object that was answered is permanent.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

from pymemcache.exceptions import MemcacheServerError

from filestoraged.errors import Error, NotFound, StorageFull, StoreUnavailable
from filestoraged.store.memcached.manifest import CHUNK_SIZE, Manifest, chunk_key, removal_mark, unpack
from filestoraged.store.memcached.store import MemcachedStore
from tests.store.memcached.proxy import Break, start_proxies
from tests.store.memcached.servers import Memcached, open_store, start_memcached
from tests.store.memcached.test_store import MIB
from tests.support import PATIENCE, TempCase

# Seconds. A timeout that a busy machine causes by mistake is harmless in these tests: the upload counts as refused.
TIMEOUT = 0.1
LATE = 0.03

# How the connection breaks, and whether all later commands break too, as after the death of a client or a host.
BREAKS = (
    (Break.REFUSED, False),
    (Break.REFUSED, True),
    (Break.UNANSWERED, False),
    (Break.UNANSWERED, True),
    (Break.LATE, True),
)

_Work = Callable[[MemcachedStore, bytes], object]


class Run(NamedTuple):
    """One object, and whether the operation on it succeeded although a command was broken."""

    data: bytes
    answered: bool
    name: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


class Inventory:
    """All items of the servers, with their expiry; -1 is never."""

    def __init__(self, servers: Sequence[Memcached]) -> None:
        self.chunks: dict[str, int] = {}
        # Removal marks too.
        self.manifests: dict[str, tuple[Manifest, int]] = {}
        for server in servers:
            for item in server.items():
                if item.key.count(":") == 2:
                    self.chunks[item.key] = item.expires
                else:
                    self.manifests[item.key] = unpack(item.key, server.client.get(item.key)), item.expires

    def orphans(self) -> set[str]:
        """Permanent chunks that no permanent manifest lists."""
        named = {chunk.key for manifest, expires in self.manifests.values() if expires < 0 for chunk in manifest.chunks}
        return {key for key, expires in self.chunks.items() if expires < 0} - named

    def is_permanent(self, key: str) -> bool:
        """Whether all items of an object are present and permanent."""
        manifest, expires = self.manifests[key]
        return {expires, *(self.chunks.get(chunk.key) for chunk in manifest.chunks)} == {-1}


class CrashCase(TempCase):
    """Two servers behind proxies that can break. Objects have three chunks and a tail."""

    def setUp(self) -> None:
        super().setUp()
        self.servers = [start_memcached(self, "-m", "512") for _ in range(2)]
        self.line, self.addresses = start_proxies(self, self.servers)
        self.store = self.new_store()
        self.data = os.urandom(3 * CHUNK_SIZE + 1000)
        self.digest = hashlib.sha256(self.data).hexdigest()

    def new_store(self, timeout: float = PATIENCE) -> MemcachedStore:
        return open_store(self, self.addresses, timeout=timeout)

    def hurry(self, store: MemcachedStore, server: Memcached) -> None:
        """Let the store wait shortly for that server, which hangs, and for no other, which may be late."""
        node = store.pool.servers[self.servers.index(server)]
        node._timeout = TIMEOUT
        # Those that are open have the former one.
        node.close()

    def break_everywhere(self, arrange: _Work, work: _Work) -> list[Run]:
        """Break each command of `work` in each way, every time with a new object."""
        arrange(self.store, self.data)
        self.line.mend()
        work(self.store, self.data)
        count = len(self.line.commands)
        self.assertGreater(count, 3)
        return [self.break_once(arrange, work, number, how, stays) for number in range(count) for how, stays in BREAKS]

    def break_once(self, arrange: _Work, work: _Work, number: int, how: Break, stays: bool) -> Run:
        data = os.urandom(16) + self.data[16:]
        self.line.mend()
        arrange(self.store, data)
        # A new store each time, since a store remembers that a server hangs.
        store = self.new_store(LATE if how is Break.LATE else PATIENCE)
        self.line.break_at(number, how, stays=stays)
        answered = self.is_answered(lambda: work(store, data))
        self.line.mend()
        self.line.release()
        return Run(data, answered, f"{how.value} at command {number}{', and all that follow' * stays}")

    def is_answered(self, work: Callable[[], object]) -> bool:
        try:
            work()
        except StoreUnavailable:
            return False
        return True

    def key_of(self, run: Run) -> str:
        return self.store.key(run.digest, name=None)

    def is_found(self, digest: str) -> bool:
        try:
            self.store.open(digest).close()
        except NotFound:
            return False
        return True

    def all_items(self) -> list[str]:
        return [key for server in self.servers for key in server.all_keys()]


class UploadTest(CrashCase):
    def test_upload_broken_at_any_command_leaves_no_orphaned_chunk_and_can_be_retried(self) -> None:
        runs = self.break_everywhere(lambda store, data: None, lambda store, data: store.put(data))

        left = Inventory(self.servers)
        self.assertEqual(set(), left.orphans())
        self.assertEqual([], [run.name for run in runs if run.answered and not left.is_permanent(self.key_of(run))])
        self.assertGreater(sum(run.answered for run in runs), 10)

        for run in runs:
            self.store.put(run.data)
        left = Inventory(self.servers)
        self.assertEqual(set(), left.orphans())
        self.assertEqual([], [run.name for run in runs if not left.is_permanent(self.key_of(run))])

    def test_repair_broken_at_any_command_leaves_no_orphaned_chunk(self) -> None:
        def damage(store: MemcachedStore, data: bytes) -> None:
            store.put(data)
            store.pool.delete_all([chunk_key(token_of(store, data), 1)])

        runs = self.break_everywhere(damage, lambda store, data: store.put(data))

        left = Inventory(self.servers)
        self.assertEqual(set(), left.orphans())
        self.assertEqual([], [run.name for run in runs if run.answered and not left.is_permanent(self.key_of(run))])

    def test_upload_of_the_same_bytes_makes_the_object_of_a_crashed_upload_permanent(self) -> None:
        self.store.put(self.data)
        added = [command.split()[0] for command in self.line.commands].index(b"add")
        self.store.remove(self.digest)
        # The client dies after the manifest is added and before its chunks are permanent.
        self.line.break_at(added + 1, Break.REFUSED, stays=True)
        self.assertFalse(self.is_answered(lambda: self.store.put(self.data)))
        self.line.mend()
        left = Inventory(self.servers)
        self.assertNotIn(-1, [*left.chunks.values(), *(expires for _, expires in left.manifests.values())])

        self.store.put(self.data)

        self.assertTrue(Inventory(self.servers).is_permanent(self.store.key(self.digest, name=None)))

    def test_upload_whose_manifest_may_have_been_stored_keeps_its_chunks(self) -> None:
        add = self.store.pool.add

        def lose_the_answer(*arguments: Any, **settings: Any) -> bool:
            add(*arguments, **settings)
            raise StoreUnavailable

        with mock.patch.object(self.store.pool, "add", lose_the_answer):
            self.assertFalse(self.is_answered(lambda: self.store.put(self.data)))

        with self.store.get(self.digest) as stream:
            self.assertTrue(stream.read() == self.data)

    def test_retries_while_the_server_of_the_manifest_hangs_leave_no_chunks(self) -> None:
        data = self.data_at(self.servers[0])
        self.servers[0].hang()

        for _ in range(3):
            store = self.new_store()
            self.hurry(store, self.servers[0])
            self.assertFalse(self.is_answered(functools.partial(store.put, data)))

        self.assertEqual([], self.servers[1].all_keys())

    def test_upload_whose_servers_hang_before_the_last_step_leaves_no_orphaned_chunk(self) -> None:
        store = self.new_store()
        touch = store.pool.touch_all

        def hang_at_the_second(ttls: Mapping[str, int]) -> list[str]:
            if 0 in ttls.values():
                for server in self.servers:
                    server.hang()
                    self.hurry(store, server)
            return touch(ttls)

        store.pool.touch_all = hang_at_the_second  # type: ignore[method-assign]
        self.assertFalse(self.is_answered(lambda: store.put(self.data)))
        for server in self.servers:
            server.wake()

        self.assertEqual(set(), Inventory(self.servers).orphans())
        self.store.put(self.data)
        self.assertTrue(Inventory(self.servers).is_permanent(self.store.key(self.digest, name=None)))

    def data_at(self, server: Memcached) -> bytes:
        """An object of one chunk whose manifest is on that server."""
        node = self.store.pool.servers[self.servers.index(server)]
        while True:
            data = os.urandom(CHUNK_SIZE)
            if self.store.pool._server_of(self.store.key(hashlib.sha256(data).hexdigest(), name=None)) is node:
                return data


class ReplacementTest(CrashCase):
    """Replacing the object of a name. Chunks that a crash leaves are the exception described in `store`."""

    def setUp(self) -> None:
        super().setUp()
        self.former = os.urandom(2 * CHUNK_SIZE)

    def replace(self, store: MemcachedStore, data: bytes) -> None:
        with store.stage() as staging:
            staging.write(data)
            staging.commit(name=data[:16].hex()).result(PATIENCE)

    def put_former(self, store: MemcachedStore, data: bytes) -> None:
        store.put(self.former, name=data[:16].hex())

    def content(self, data: bytes) -> bytes:
        with self.store.get(name=data[:16].hex()) as stream:
            return stream.read()

    def test_replacement_broken_at_any_command_leaves_one_of_both_objects_permanent(self) -> None:
        runs = self.break_everywhere(self.put_former, self.replace)

        left = Inventory(self.servers)
        for run in runs:
            with self.subTest(run.name):
                self.assertIn(self.content(run.data), (run.data,) if run.answered else (self.former, run.data))
                self.assertTrue(left.is_permanent(self.store.key("", name=run.data[:16].hex())))

    def test_replacement_that_loses_a_chunk_leaves_the_former_object(self) -> None:
        self.put_former(self.store, self.data)
        touch = self.store.pool.touch_all

        def lose_one(ttls: Mapping[str, int]) -> list[str]:
            if 0 in ttls.values():
                self.store.pool.delete_all(list(ttls)[1:2])
            return touch(ttls)

        self.store.pool.touch_all = lose_one  # type: ignore[method-assign]

        self.assertFalse(self.is_answered(lambda: self.replace(self.store, self.data)))

        self.assertTrue(self.content(self.data) == self.former)
        self.assertEqual(3, len(self.all_items()))

    def test_replacement_deletes_the_chunks_of_the_former_object(self) -> None:
        self.put_former(self.store, self.data)

        self.replace(self.store, self.data)

        self.assertTrue(self.content(self.data) == self.data)
        self.assertEqual(4, len(self.all_items()))

    def test_replacement_with_a_lost_answer_deletes_the_chunks_of_the_former_object(self) -> None:
        self.put_former(self.store, self.data)
        self.line.mend()
        self.replace(self.store, self.data)
        swapped = [command.split()[0] for command in self.line.commands].index(b"cas")
        self.store.delete(name=self.data[:16].hex())
        self.put_former(self.store, self.data)
        self.line.break_at(swapped, Break.UNANSWERED, stays=False)

        self.replace(self.store, self.data)

        self.assertTrue(self.content(self.data) == self.data)
        self.assertEqual(4, len(self.all_items()))


class RemovalTest(CrashCase):
    def put(self, store: MemcachedStore, data: bytes) -> None:
        store.put(data)

    def remove(self, store: MemcachedStore, data: bytes) -> None:
        store.remove(hashlib.sha256(data).hexdigest())

    def test_removal_broken_at_any_command_leaves_no_orphaned_chunk_and_can_be_retried(self) -> None:
        runs = self.break_everywhere(self.put, self.remove)

        self.assertEqual(set(), Inventory(self.servers).orphans())
        self.assertEqual([], [run.name for run in runs if run.answered and self.is_found(run.digest)])

        for run in runs:
            with contextlib.suppress(NotFound):
                self.store.remove(run.digest)
        self.assertEqual([], self.all_items())

    def test_upload_after_a_removal_broken_at_any_command_stores_the_object(self) -> None:
        runs = self.break_everywhere(self.put, self.remove)

        for run in runs:
            self.store.put(run.data)

        left = Inventory(self.servers)
        self.assertEqual([], [run.name for run in runs if not left.is_permanent(self.key_of(run))])
        self.assertEqual(4 * len(runs), len(self.all_items()))

    def test_removal_of_a_small_object_with_a_lost_answer_succeeds(self) -> None:
        small = self.store.put(b"tea")
        self.line.break_at(1, Break.UNANSWERED, stays=False)

        self.store.remove(small)

        self.assertFalse(self.is_found(small))

    def test_removal_with_any_lost_answer_succeeds_and_leaves_nothing(self) -> None:
        for number in range(6):
            with self.subTest(command=number):
                self.store.put(self.data)
                self.line.break_at(number, Break.UNANSWERED, stays=False)

                self.store.remove(self.digest)

                self.line.mend()
                self.assertEqual([], self.all_items())

    def test_removal_while_a_server_hangs_keeps_its_chunks_named_until_they_are_deleted(self) -> None:
        data = self.data
        while True:
            self.store.put(data)
            left = Inventory(self.servers)
            ((key, _),) = left.manifests.items()
            without = self.servers[1 - self.store.pool.servers.index(self.store.pool._server_of(key))]
            if without.chunk_keys():
                break
            self.remove(self.store, data)
            data = data[1:]
        without.hang()
        store = self.new_store()
        self.hurry(store, without)

        self.remove(store, data)

        without.wake()
        self.assertEqual(set(), Inventory(self.servers).orphans())
        self.assertRaises(NotFound, self.remove, self.store, data)
        self.assertEqual([], self.all_items())


def token_of(store: MemcachedStore, data: bytes) -> bytes:
    """The token of an object's upload."""
    return store._manifest(hashlib.sha256(data).hexdigest(), None).token


class FullServerTest(TempCase):
    """A server that evicts nothing."""

    def setUp(self) -> None:
        super().setUp()
        self.memcached = start_memcached(self, "-m", "16", "-M")
        self.store = open_store(self, [self.memcached.address])

    def fill(self, size: int) -> int:
        """Store items of that size until the server is full. Returns their number."""
        client, count = self.memcached.client, 0
        while True:
            try:
                client.set(f"{size}-{count}", bytes(size))
            except MemcacheServerError:
                return count
            count += 1

    def test_upload_whose_manifest_does_not_fit_leaves_no_chunks(self) -> None:
        # The manifest has a tail of 60,000 bytes; there is no room for another such item.
        for size in (60_000, 60_500, CHUNK_SIZE):
            self.fill(size)
        for number in range(2):
            self.memcached.client.delete(f"{CHUNK_SIZE}-{number}")
        before = self.memcached.all_keys()

        for _ in range(3):
            self.assertRaises(StorageFull, self.store.put, os.urandom(2 * CHUNK_SIZE + 60_000))

        self.assertEqual(before, self.memcached.all_keys())

    def test_objects_can_be_removed_from_a_full_server(self) -> None:
        digest = self.store.put(os.urandom(2 * CHUNK_SIZE))
        mark = len(removal_mark(*self.manifest()))
        for size in (CHUNK_SIZE, mark, mark + 40, mark + 80, mark - 40):
            self.fill(size)

        self.store.remove(digest)

        self.assertEqual([], [key for key in self.memcached.all_keys() if key.startswith("fsd:")])

    def manifest(self) -> tuple[str, bytes]:
        (key,) = self.memcached.manifest_keys()
        return key, self.memcached.client.get(key)


class RestartTest(TempCase):
    """A server that loses chunks of an upload."""

    def test_upload_during_a_restart_is_unavailable_and_not_full(self) -> None:
        memcached = start_memcached(self)
        store = open_store(self, [memcached.address])
        with self.assertRaises(StoreUnavailable) as caught, store.stage() as staging:
            staging.write(bytes(3 * CHUNK_SIZE))
            memcached.kill()
            memcached.start()
            staging.commit().result(PATIENCE)

        self.assertEqual(503, caught.exception.status)
        self.assertEqual(memcached.address, caught.exception.node)
        self.assertGreater(caught.exception.retry_after, 0)
        self.assertIn("restarted", str(caught.exception))
        self.assertEqual([], memcached.all_keys())

    def test_restart_is_recognised_by_uptime_after_later_evictions(self) -> None:
        memcached = start_memcached(self, "-m", "8")
        store = open_store(self, [memcached.address])
        with self.assertRaises(StoreUnavailable), store.stage() as staging:
            staging.write(bytes(3 * CHUNK_SIZE))
            memcached.kill()
            memcached.start()
            self.assertRaises(StorageFull, open_store(self, [memcached.address]).put, bytes(20 * MIB))
            # As if the upload had begun an hour ago.
            staging._first_sent -= 3600
            staging.commit().result(PATIENCE)

    def test_upload_that_has_lost_a_chunk_is_refused_before_it_is_visible(self) -> None:
        memcached = start_memcached(self)
        store = open_store(self, [memcached.address])
        with mock.patch.object(store.pool, "add") as add, self.assertRaises(Error), store.stage() as staging:
            staging.write(bytes(3 * CHUNK_SIZE))
            memcached.client.delete(memcached.chunk_keys()[0])
            staging.commit().result(PATIENCE)

        add.assert_not_called()
