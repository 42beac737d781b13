"""The check of objects in memcached, on real servers: it reports lost and changed items and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

from filestoraged.check.findings import Finding
from filestoraged.check.memcached import Listing, MemcachedCheck
from filestoraged.check.throttle import Throttle
from filestoraged.digest import Digest
from filestoraged.errors import NotFound, StoreUnavailable
from filestoraged.store.hashing import HashThreads
from filestoraged.store.memcached.blob import fetch
from filestoraged.store.memcached.client import ServerClient
from filestoraged.store.memcached.manifest import Manifest
from filestoraged.store.memcached.pool import ServerPool, Versioned
from filestoraged.store.memcached.store import MemcachedStore
from tests.runner.marks import long
from tests.store.memcached.servers import open_store, start_memcached
from tests.support import PATIENCE, TempCase, changed

SMALL = b"tea"
LARGE = bytes(range(256)) * 6000


class MemcachedCheckCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.servers = [start_memcached(self, "-m", "128") for _ in range(2)]
        self.store = open_store(self, [server.address for server in self.servers])
        self.pets = self.store.namespace("repositories").namespace("pets")

    def check(self, **settings: Any) -> list[Finding]:
        self.memcached_check = MemcachedCheck(
            self.store, **{"throttle": Throttle(), "threads": 2, "grace": 0.01, **settings}
        )
        return sorted(found for found in self.memcached_check.findings(PATIENCE) if found is not None)

    def chunks(self) -> dict[str, Any]:
        """All chunks, each with a connection to its server."""
        return {key: server.client for server in self.servers for key in server.chunk_keys()}


class DamageTest(MemcachedCheckCase):
    def test_whole_pool_has_no_findings(self) -> None:
        for store in (self.store, self.pets):
            store.put(SMALL)
            store.put(LARGE)
        self.store.put(SMALL, name="cup")
        self.servers[0].client.set("somebody", b"else's")

        self.assertEqual([], self.check(repair=True))
        self.assertEqual(5, self.memcached_check.totals.objects)
        self.assertEqual(5, self.memcached_check.totals.all_objects)
        self.assertEqual(3 * len(SMALL) + 2 * len(LARGE), self.memcached_check.totals.size)

    def test_evicted_chunk_is_reported_and_an_upload_heals_it(self) -> None:
        whole, lost = self.pets.put(LARGE), self.store.put(LARGE[1:])
        key = next(iter(set(self.chunks()) - self.chunks_of(self.pets, whole)))
        self.chunks()[key].delete(key)

        (finding,) = self.check()
        (again,) = self.check(repair=True)

        self.assertEqual(("damaged", self.store.key(lost, name=None)), (finding.kind, finding.path))
        number = int(key.rpartition(":")[2]) + 1
        self.assertEqual(f"sha256 {lost}: chunk {number} of 3 is missing", finding.reason)
        self.assertEqual((None, "removed"), (finding.remedy, again.remedy))
        self.assertEqual([], self.check())
        self.assertRaises(NotFound, self.store.open, lost)
        self.assertEqual(self.chunks_of(self.pets, whole), set(self.chunks()))
        self.store.put(LARGE[1:])
        self.assertEqual(LARGE[1:], self.store.get(lost).read())

    def test_changed_bit_is_reported_as_damaged(self) -> None:
        digest = self.store.put(LARGE)
        key, client = sorted(self.chunks().items())[1]
        client.set(key, changed(client.get(key)))

        (finding,) = self.check()

        self.assertEqual(f"sha256 {digest}: chunk 2 of 3 has other bytes than were stored", finding.reason)

    def test_invalid_manifest_is_reported_and_removed(self) -> None:
        digest = self.store.put(SMALL)
        key = self.store.key(digest, name=None)
        self.store.pool.set(key, b"fsd1 nonsense", ttl=0)

        (finding,) = self.check(repair=True)

        self.assertEqual(
            ("damaged", key, "its manifest is damaged, or belongs to another key", "removed"), tuple(finding)
        )
        self.assertEqual([], self.check())

    def test_orphaned_chunks_are_reported_and_set_to_expire(self) -> None:
        digest = self.store.put(LARGE)
        key = self.store.key(digest, name=None)
        token = next(iter(self.chunks())).split(":")[1]
        self.store.pool.delete_all([key])

        self.assertEqual(("orphaned", f"fsd:{token}", "no manifest lists its 3 chunks", None), tuple(self.check()[0]))
        self.assertEqual(["set to expire in 6 hours"], [finding.remedy for finding in self.check(repair=True)])
        self.assertEqual([], self.check())
        self.assertEqual(3, len(self.chunks()))

    def test_orphaned_chunks_are_reported_after_two_grace_periods(self) -> None:
        digest = self.store.put(LARGE)
        self.store.pool.delete_all([self.store.key(digest, name=None)])
        throttle = Throttle()

        with mock.patch.object(throttle, "sleep") as sleep:
            self.assertEqual(["orphaned"], [finding.kind for finding in self.check(throttle=throttle, grace=7)])

        self.assertEqual([mock.call(7), mock.call(7)], sleep.call_args_list)

    def test_chunks_of_an_interrupted_removal_are_reported_and_removed(self) -> None:
        digest = self.store.put(LARGE)
        delete_all = self.store.pool.delete_all
        with mock.patch.object(self.store.pool, "delete_all", lambda keys: delete_all(keys[1:]) and False):
            self.store.remove(digest)
        (stray,) = self.chunks()

        (finding,) = self.check()
        (again,) = self.check(repair=True)

        self.assertEqual(("orphaned", "no manifest lists its 1 chunks"), (finding.kind, finding.reason))
        self.assertEqual((stray.rpartition(":")[0], finding.reason), (again.path, again.reason))
        self.assertEqual([], [key for server in self.servers for key in server.all_keys()])
        self.assertEqual([], self.check())

    def test_chunks_of_an_upload_in_flight_are_not_reported(self) -> None:
        with self.store.stage() as staging:
            staging.write(LARGE)

            self.assertEqual([], self.check(repair=True))
            staging.commit().result(PATIENCE)
        self.assertEqual([], self.check())

    def chunks_of(self, store: MemcachedStore, digest: str) -> set[str]:
        return {chunk.key for chunk in store._manifest(digest, None).chunks}


class PoolRaceTest(MemcachedCheckCase):
    def test_object_replaced_while_it_is_read_is_not_reported(self) -> None:
        def replace(digest: str) -> None:
            self.store.remove(digest)
            self.store.put(LARGE)

        self.check_while(replace)

    def test_object_removed_while_it_is_read_is_not_reported(self) -> None:
        self.check_while(self.store.remove)

    def check_while(self, do: Callable[[str], None]) -> None:
        """Check an object, and call `do` after its manifest was read and before its chunks are."""
        digest, done = self.store.put(LARGE), threading.Event()

        def fetch_late(pool: ServerPool, manifest: Manifest, threads: HashThreads) -> None:
            if not done.is_set():
                done.set()
                do(digest)
            fetch(pool, manifest, threads)

        with mock.patch("filestoraged.check.memcached.fetch", fetch_late):
            self.assertEqual([], self.check(repair=True))
        self.assertTrue(done.is_set())

    def test_whole_object_stored_before_the_removal_stays(self) -> None:
        digest = self.store.put(LARGE)
        key = next(iter(self.chunks()))
        self.chunks()[key].delete(key)
        is_still = MemcachedCheck._is_confirmed

        def look_late(inspection: MemcachedCheck, key: str, found: Versioned) -> bool:
            self.store.put(LARGE)
            return is_still(inspection, key, found)

        with mock.patch.object(MemcachedCheck, "_is_confirmed", look_late):
            self.assertEqual([], self.check())
            self.assertEqual([], self.check(repair=True))

        self.assertEqual(LARGE, self.store.get(digest).read())

    def test_upload_between_two_listings_is_not_reported(self) -> None:
        manifests = Listing.manifests
        staging = self.store.stage()
        staging.write(LARGE)
        staging._finish()

        staging._require_chunks(0)

        def publish_late(listing: Listing) -> Any:
            # The chunks are listed and permanent; the manifest is added now.
            found = list(manifests(listing))
            if staging._hidden:
                staging._publish(None, Digest("0" * 64), replace=True)
            return iter(found)

        with staging, mock.patch.object(Listing, "manifests", publish_late):
            self.assertEqual([], self.check(repair=True))
        self.assertEqual(3, len(self.chunks()))

    @long("scale: a race that is only found by many attempts")
    def test_uploads_and_removals_at_full_speed_are_not_reported(self) -> None:
        ends = threading.Event()

        def work(number: int) -> None:
            store = self.pets if number % 2 else self.store
            while not ends.is_set():
                digest = store.put(LARGE[number:])
                store.put(LARGE[number:])
                store.put(SMALL * number)
                store.remove(digest)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                # Longer than an upload takes, also on a busy machine.
                self.assertEqual([], self.check(repair=True, grace=2))
        finally:
            ends.set()
            for thread in threads:
                thread.join()
        self.assertEqual([], self.check())


class ServersTest(MemcachedCheckCase):
    def test_stopped_server_raises_store_unavailable(self) -> None:
        self.store.put(LARGE)
        self.servers[0].kill()

        self.assertRaises(StoreUnavailable, self.check)

    def test_server_that_does_not_list_raises_store_unavailable(self) -> None:
        self.servers[1] = start_memcached(self, "-o", "no_lru_crawler")
        self.store = open_store(self, [self.servers[1].address])

        with self.assertRaises(StoreUnavailable) as raised:
            self.check()

        self.assertIn("the server does not list its items", str(raised.exception.__cause__))

    def test_busy_server_is_asked_again(self) -> None:
        self.store.put(SMALL)
        list_items, busy = ServerClient.list_items, [False, False]

        with mock.patch.object(ServerClient, "list_items", lambda *given: busy.pop() if busy else list_items(*given)):
            self.assertEqual([], self.check())

        self.assertEqual(1, self.memcached_check.totals.objects)
