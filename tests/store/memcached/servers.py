"""Real memcached servers, started on free ports by the tests that use them, and made to fail."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock
from urllib.parse import unquote

from pymemcache.client.base import Client

from filestoraged.cli.main import main
from filestoraged.store.memcached.diagnose import examine
from filestoraged.store.memcached.store import MemcachedStore
from tests.server_process import ServerProcess
from tests.support import PATIENCE, find_program, free_port


def patient_main(arguments: Sequence[str] | None = None) -> int:
    """Run a daemon that waits longer than its two seconds for a server that this machine keeps waiting."""
    defaults = MemcachedStore.__init__.__kwdefaults__
    assert defaults
    defaults.update(timeout=PATIENCE, connect_timeout=PATIENCE)
    return main(arguments)


class Item(NamedTuple):
    """A key as memcached lists it. `expires` is in seconds since 1970, -1 for never."""

    key: str
    expires: int


class _ClosingClient(Client):
    """Closes its connection with its last reference."""

    def __del__(self) -> None:
        self.close()


class Memcached(ServerProcess):
    """A server of 64 MiB that keeps its port through `start`, `kill`, `hang` and `wake`."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self.port = free_port()
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def client(self) -> Client:
        """A connection beside the store's, to read and change items."""
        return _ClosingClient(
            ("127.0.0.1", self.port), default_noreply=False, timeout=PATIENCE, connect_timeout=PATIENCE
        )

    def start(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            named = Path(directory, "port")
            command = [find_program("memcached"), "-u", getpass.getuser(), "-l", "127.0.0.1", "-U", "0"]
            process = self.process = subprocess.Popen(
                [*command, "-p", str(self.port), *self._options],
                env={**os.environ, "MEMCACHED_PORT_FILENAME": str(named)},
            )
            # The server writes it when it listens.
            _wait_until_it_listens(process, named)

    def stop(self) -> None:
        self.wake()
        self.kill()

    def items(self) -> list[Item]:
        """All items, unordered. By the hash table: items that move between two queues are on neither."""
        received = b"BUSY"
        # The crawler also runs by itself, and does one task at a time.
        while received.startswith(b"BUSY"):
            received = self._dump()
        lines = [dict(pair.split("=", 1) for pair in line.split()) for line in received.decode().splitlines()[:-1]]
        return [Item(unquote(line["key"]), int(line["exp"])) for line in lines]

    def _dump(self) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
            connection.sendall(b"lru_crawler metadump hash\r\n")
            received = b""
            while not received.endswith(b"END\r\n") and not (received.startswith(b"BUSY") and b"\n" in received):
                data = connection.recv(65536)
                assert data, f"the server ended within a dump: {received!r}"
                received += data
            return received

    def all_keys(self) -> list[str]:
        return sorted(item.key for item in self.items())

    def chunk_keys(self) -> list[str]:
        """The keys of all chunks, in the order of the object if there is only one."""
        return sorted(
            (key for key in self.all_keys() if key.count(":") > 1), key=lambda key: int(key.rpartition(":")[2])
        )

    def manifest_keys(self) -> list[str]:
        return [key for key in self.all_keys() if key.count(":") == 1]

    def statistics(self) -> dict[bytes, Any]:
        statistics: dict[bytes, Any] = self.client.stats()  # type: ignore[no-untyped-call]
        return statistics


def _wait_until_it_listens(process: subprocess.Popen[bytes], named: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not named.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError("memcached does not listen")
        pause.wait(0.005)


def open_store(test: unittest.TestCase, addresses: Sequence[str], **settings: Any) -> MemcachedStore:
    """Open a store whose connections are closed after the test."""
    store = MemcachedStore(addresses, **settings)
    test.addCleanup(store.close)
    return store


def start_memcached(case: unittest.TestCase, *options: str) -> Memcached:
    """Start a server, which is stopped after the test.

    Until then, stores that this process makes wait for servers that this machine keeps waiting.
    """
    server = Memcached(*options)
    case.addCleanup(server.stop)
    for function, names in ((MemcachedStore.__init__, ("timeout", "connect_timeout")), (examine, ("timeout",))):
        patched = mock.patch.dict(function.__kwdefaults__, dict.fromkeys(names, PATIENCE))
        patched.start()
        case.addCleanup(patched.stop)
    return server
