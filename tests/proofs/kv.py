"""Figures of the key-value database: `python -m tests.proofs.kv`. Needs wrk, which bin/bench installs.

One worker on one core, its clients on another. Rates beside /-/health, the disk's syncs, etcd, and webdis in front of
Redis, where these are installed; reads during a commit of 100,000 keys; memory with 1 GiB of values.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from filestoraged.store.kv import KEYS_SCHEMA, KeyValues
from filestoraged.store.sqlite import database
from tests.bench.command import run
from tests.bench.contest import QUIET, Bench
from tests.bench.figures import Figure, Goal, ratio
from tests.bench.key_value_servers import etcd, etcd_puts, is_installed, webdis
from tests.bench.load import many_paths, run_wrk, script
from tests.bench.machine import MIB, proportional_memory
from tests.bench.servers import ours
from tests.daemon.process import PATIENCE, Daemon
from tests.support import in_threads

CLIENTS = 32
KEYS = 10_000

_MOUNT = ("--mount", "kv=/", *QUIET)

_SET = 'wrk.method, wrk.body = "POST", [[{"key": "value"}]]'

_SET_NEW = """
local asked = 0
request = function()
  asked = asked + 1
  return wrk.format("POST", "/set", nil, '{"new ' .. asked .. '": ' .. asked .. '}')
end
"""

_PUTS = """
local puts, asked = {{}}, 0
init = function()
  for line in io.lines("{file}") do puts[#puts + 1] = wrk.format("POST", "/v3/kv/put", nil, line) end
end
request = function()
  asked = asked % #puts + 1
  return puts[asked]
end
"""

# Half of the requests are sets, half are commits.
_COMMIT = """
local asked = 0
request = function()
  asked = asked + 1
  if asked % 2 == 0 then return wrk.format("POST", "/commit") end
  return wrk.format("POST", "/set", nil, '{"key": ' .. asked .. '}')
end
"""


def rates(bench: Bench) -> list[Figure]:
    with contextlib.ExitStack() as stack:
        contenders = {
            **_our_contenders(bench, stack),
            **_other_contenders(bench, stack),
            "syncs of the disk": lambda: sync_rate(bench.directory / "synced"),
        }
        samples = bench.take_turns(contenders)
    # A commit or a put of etcd is durable: a pair of requests of ours is one of etcd's.
    samples["pairs of set and commit"] = [rate / 2 for rate in samples["set and commit"]]
    goals = [
        Goal(f"{name} of {other}", ratio(samples, name, other), limit)
        for name, other, limit in (
            ("GET", "health", 0.8),
            ("POST /set", "health", 0.3),
            ("POST /set, new keys", "health", 0.3),
            (f"GET of {KEYS:,} keys", f"webdis GET of {KEYS:,} keys", 0.9),
            ("pairs of set and commit", "etcd put", 1.0),
            ("pairs of set and commit", "syncs of the disk", 0.5),
        )
    ]
    return [Figure("keys and values", "requests/s", samples, goals)]


def _our_contenders(bench: Bench, stack: contextlib.ExitStack) -> dict[str, Callable[[], float]]:
    home = bench.directory / "ours"
    home.mkdir(exist_ok=True)
    daemon = stack.enter_context(ours(home, *_MOUNT))
    ask(daemon, "POST", "/set", '{"key": "value"}')
    fill(home / "store" / "kv.sqlite")

    def rate(path: str, *arguments: str) -> float:
        # The queue of the load before takes a second to be moved behind its commit.
        ask(daemon, "POST", "/commit")
        time.sleep(1)
        return run_wrk(daemon.url + path, CLIENTS, bench.seconds, *arguments).rate

    paths = [f"/key%20{number}" for number in range(1, KEYS + 1)]
    return {
        "health": partial(rate, "/-/health"),
        "GET": partial(rate, "/key"),
        f"GET of {KEYS:,} keys": partial(rate, "/", *many_paths(home, "ours", paths)),
        "POST /set": partial(rate, "/set", *script(home, "set", _SET)),
        "POST /set, new keys": partial(rate, "/set", *script(home, "new", _SET_NEW)),
        "set and commit": partial(rate, "/set", *script(home, "commit", _COMMIT)),
    }


def _other_contenders(bench: Bench, stack: contextlib.ExitStack) -> dict[str, Callable[[], float]]:
    """The same loads for other servers. One that is not installed (Debian: etcd-server, webdis) is left out."""

    def rate(url: str, arguments: Sequence[str]) -> float:
        return run_wrk(url, CLIENTS, bench.seconds, *arguments).rate

    contenders: dict[str, Callable[[], float]] = {}
    if is_installed("etcd"):
        server = stack.enter_context(etcd(bench.directory))
        bodies = bench.directory / "puts"
        bodies.write_text("\n".join(etcd_puts(KEYS)) + "\n")
        puts = script(bench.directory, "puts", _PUTS.format(file=bodies))
        contenders["etcd put"] = partial(rate, server.url, puts)
    if is_installed("webdis", "redis-server"):
        server = stack.enter_context(webdis(bench.directory, KEYS))
        paths = many_paths(bench.directory, "webdis", [f"/GET/key%20{number}" for number in range(1, KEYS + 1)])
        contenders[f"webdis GET of {KEYS:,} keys"] = partial(rate, server.url, paths)
    return contenders


def fill(path: Path) -> None:
    keys = KeyValues(str(path))
    for number in range(1, KEYS + 1):
        keys.set(f"key {number}", b'"value"')
    keys.commit().result()
    keys.close()


def sync_rate(path: Path) -> float:
    """Return how many times a second the disk writes and syncs a page, one after the other."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < 1:
        os.pwrite(descriptor, os.urandom(8192), 0)
        os.fdatasync(descriptor)
        count += 1
    os.close(descriptor)
    return count / (time.perf_counter() - started)


def latency(bench: Bench) -> list[Figure]:
    """Reads of random keys, without and during a large commit."""
    with ours(bench.directory, *_MOUNT) as daemon:
        keys = KeyValues(str(bench.directory / "store" / "kv.sqlite"))
        for number in range(20_000):
            keys.set(f"old {number}", b'"value"')
        keys.commit().result()

        def committing() -> float:
            for number in range(bench.part_of(100_000)):
                keys.set(f"new {number}", b'"value"')
            keys.set("last", b"1").result()
            commit = threading.Thread(target=ask, args=(daemon, "POST", "/commit"))
            commit.start()
            return _percentile_99(daemon, lambda: not commit.is_alive())

        def idle() -> float:
            deadline = time.monotonic() + bench.seconds
            return _percentile_99(daemon, lambda: time.monotonic() > deadline)

        figure = bench.compare(
            "GET of random keys: 99 % answered within", "ms", {"in a commit of 100,000 keys": committing, "idle": idle}
        )
        keys.close()
    return [figure]


def _percentile_99(daemon: Daemon, is_done: Callable[[], bool]) -> float:
    """In milliseconds."""
    client = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
    waited: list[float] = []
    while not (waited and is_done()):
        started = time.perf_counter()
        client.request("GET", f"/old%20{random.randrange(20_000)}")
        assert client.getresponse().read()
        waited.append(time.perf_counter() - started)
    client.close()
    return sorted(waited)[len(waited) * 99 // 100] * 1000


def memory(bench: Bench) -> list[Figure]:
    """A daemon that reads and writes random keys of a large database."""
    path, count = bench.directory / "store" / "kv.sqlite", bench.part_of(65_536)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    database.prepare(str(path), KEYS_SCHEMA)
    keys = KeyValues(str(path))
    value = b'"' + b"x" * 16 * 1024 + b'"'
    for number in range(count):
        keys.set(str(number), value)
        if number % 4096 == 4095:
            keys.commit().result()
    keys.commit().result()
    keys.close()
    with ours(bench.directory, *_MOUNT) as daemon:
        idle = proportional_memory(daemon.process.pid) / MIB
        in_threads(CLIENTS, partial(_use_random_keys, daemon, count))
        used = proportional_memory(daemon.process.pid) / MIB
    size = sum(each.stat().st_size for each in path.parent.glob("kv.sqlite*")) / MIB
    return [Figure(f"memory with a database of {size:,.0f} MiB", "MiB", {"idle": [idle], "in use": [used]}, [])]


def _use_random_keys(daemon: Daemon, count: int, number: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
    for step in range(300):
        key = random.randrange(count)
        connection.request("GET", f"/{key}")
        assert len(connection.getresponse().read()) > 16_000
        connection.request("POST", "/set", f'{{"{key}": "{"y" * 16_000}"}}')
        connection.getresponse().read()
        if step % 100 == number:
            connection.request("POST", "/commit")
            connection.getresponse().read()
    connection.close()


def ask(daemon: Daemon, method: str, path: str, body: str = "") -> None:
    client = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
    client.request(method, path, body)
    client.getresponse().read()
    client.close()


if __name__ == "__main__":
    sys.exit(run("tests.proofs.kv", {"rates": rates, "latency": latency, "memory": memory}))
