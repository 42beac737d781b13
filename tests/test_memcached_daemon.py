"""A daemon on memcached: what its log names, a kill, its memory, and memcached-check."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence

import requests

from filestoraged.store.memcached.manifest import CHUNK_SIZE, MAX_SIZE, unpack
from tests.daemon.process import ROOT, Daemon, command_of, fork_command, running
from tests.daemon.uploads import upload_until_killed
from tests.store.memcached.servers import Memcached, open_store, patient_main, start_memcached
from tests.support import TempCase, in_threads


class DaemonOnMemcachedTest(TempCase):
    def test_log_at_the_start_names_what_is_in_the_store_directory(self) -> None:
        server = start_memcached(self)
        for mounts, expected in (
            ((), f", locks, drops, keys and uploads in {self.directory / 'store'}"),
            (("--mount", "files=/", "--mount", "kv=/kv"), f", keys in {self.directory / 'store'}"),
            (("--mount", "files=/"), ""),
        ):
            with self.subTest(mounts=mounts), self.running(server, *mounts) as daemon:
                (line,) = [line for line in daemon.lines() if "started filestoraged" in line]

                self.assertTrue(line.endswith(f"storing objects in memcached at {server.address}{expected}"), line)

    def test_kill_during_fifty_uploads_leaves_whole_objects_and_expiring_items(self) -> None:
        server = start_memcached(self, "-m", "1024")
        with self.running(server) as daemon:
            answered = upload_until_killed(daemon, clients=50, enough=100)

        store = open_store(self, [server.address])
        for digest in set(answered):
            with store.get(digest) as stream:
                self.assertEqual(digest, hashlib.sha256(stream.read()).hexdigest())
        staying = {item.key for item in server.items() if item.expires < 0}
        manifests = [unpack(key, server.client.get(key)) for key in set(server.manifest_keys()) & staying]
        named = {chunk.key for manifest in manifests for chunk in manifest.chunks}
        self.assertEqual(set(), staying - named - set(server.manifest_keys()))
        for manifest in manifests:
            if manifest.digest in answered:
                self.assertLessEqual({chunk.key for chunk in manifest.chunks}, staying)
        self.assertLessEqual(set(answered), {manifest.digest for manifest in manifests})

    def test_downloads_stay_within_the_memory_limit(self) -> None:
        server = start_memcached(self, "-m", "256")
        data = os.urandom(MAX_SIZE)
        program = command_of(patient_main)
        with self.running(server, "--workers", "1", "--memory", "100M", program=program) as daemon:
            before = daemon.resident()
            path = requests.post(daemon.url, data=data).json()["hash"]
            stored = daemon.resident("VmHWM") - before

            whole = in_threads(8, lambda _: requests.get(f"{daemon.url}/{path}").content == data)

            fetched = daemon.resident("VmHWM") - before

        self.assertEqual([True] * 8, whole)
        self.assertLess(stored, 20 * 1024 * 1024)
        self.assertLess(fetched, 120 * 1024 * 1024)

    def running(
        self, server: Memcached, *arguments: str, program: Sequence[str] = ()
    ) -> contextlib.AbstractContextManager[Daemon]:
        where = ("--memcached", server.address, "--store", str(self.directory / "store"))
        return running(*where, *arguments, main=patient_main, program=program)


class CheckTest(TempCase):
    def test_each_limit_of_a_server_gets_its_verdict_and_a_bad_one_exits_1(self) -> None:
        good = ("is reachable", "takes items", "has 64 MiB", "has evicted 0 items", "drops old objects")
        small_items = ("-I", "256k", "-o", "slab_chunk_max=128")
        for options, size, status, expected in (
            ((), (), 0, good),
            (("-m", "128", "-M"), ("--size", "125M"), 1, ("\nBAD  .* 128 MiB", "refuses new objects")),
            (("-m", "128", "-M"), ("--size", "120M"), 0, ("128 MiB", "refuses new objects")),
            (small_items, (), 1, ("\nBAD  memcached {address}: takes items of up to 262144 bytes",)),
        ):
            with self.subTest(options=options, size=size):
                address = start_memcached(self, *options).address

                found, out, err = self.check(address, *size)

                self.assertEqual((status, "", bool(status)), (found, err, "BAD" in out))
                for each in expected:
                    self.assertRegex("\n" + out, each.format(address=address))

    def test_memory_of_the_whole_pool_counts(self) -> None:
        pool = ",".join(start_memcached(self).address for _ in range(2))

        self.assertEqual(0, self.check(pool, "--size", "120M")[0])

    def test_evictions_exit_1(self) -> None:
        server = start_memcached(self, "-m", "16")
        client = server.client
        for number in range(40):
            client.set(str(number), bytes(CHUNK_SIZE))

        status, out, _ = self.check(server.address, "--size", "1")

        self.assertEqual(1, status)
        self.assertIn("BAD  memcached " + server.address + ": has evicted", out)

    def test_unreachable_server_exits_1(self) -> None:
        server = start_memcached(self)
        server.kill()

        status, out, err = self.check(server.address)

        self.assertEqual((1, f"BAD  memcached {server.address}: Connection refused\n", ""), (status, out, err))

    def test_invalid_arguments_exit_2(self) -> None:
        for arguments in ((), ("x:99999",), ("unix:/x",), ("localhost", "--size", "many"), ("localhost", "more")):
            with self.subTest(arguments=arguments):
                status, out, err = self.check(*arguments)

                self.assertEqual((2, ""), (status, out))
                self.assertEqual(1, err.count("\n"))

    def check(self, *arguments: str) -> tuple[int, str, str]:
        return fork_command("memcached-check", *arguments, cwd=ROOT)
