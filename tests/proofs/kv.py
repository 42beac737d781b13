"""Figures of the key-value database: `python -m tests.proofs.kv [DIRECTORY]`. Needs wrk, which bin/bench installs.

One worker on one core, its clients on another. Requests a second, compared with /-/health, with the disk's rate of
syncs, with etcd, and with webdis in front of Redis, where these are installed; latency of reads during a commit of
100,000 keys; memory with 1 GiB of values.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from filestoraged.store.kv import KeyValues, prepare_keys
from tests.bench.key_value_servers import etcd, etcd_puts, is_installed, webdis
from tests.bench.load import Load, many_paths, run_wrk
from tests.bench.machine import MIB, proportional_memory
from tests.bench.servers import ours
from tests.daemon.process import PATIENCE, Daemon

CLIENTS = 32
SECONDS = 3.0
ROUNDS = 5
KEYS = 10_000

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


def main(directory: Path) -> None:
    rates(directory / "rates")
    latency(directory / "latency")
    memory(directory / "memory")


def rates(directory: Path) -> None:
    directory.mkdir()
    seen: dict[str, list[Load]] = {}
    with contextlib.ExitStack() as stack:
        cases = our_cases(directory, stack) + other_cases(directory, stack)
        syncs = []
        for _ in range(ROUNDS):
            for case in cases:
                case.prepare()
                seen.setdefault(case.name, []).append(run_wrk(case.url, CLIENTS, SECONDS, *case.arguments))
            syncs.append(sync_rate(directory / "synced"))
    for name, loads in seen.items():
        rates = [load.rate for load in loads]
        waited = statistics.median(load.p99 for load in loads) * 1000
        print(f"{name}: {statistics.median(rates):,.0f} requests/s ({min(rates):,.0f} to {max(rates):,.0f})", end=", ")
        print(f"99 % within {waited:.1f} ms")
    print(f"syncs of the disk: {statistics.median(syncs):,.0f} a second")
    # A commit or a put of etcd is durable: a pair of requests of ours is one of etcd's.
    for name, other, share in (
        ("GET", "health", 1.0),
        ("POST /set", "health", 1.0),
        ("POST /set, new keys", "health", 1.0),
        ("set and commit", "etcd put", 0.5),
        (f"GET of {KEYS:,} keys", f"webdis GET of {KEYS:,} keys", 1.0),
    ):
        if other in seen:
            values, others = ([load.rate for load in seen[each]] for each in (name, other))
            print(f"{name}: {share * ratio(values, others):.2f} of {other}")
    committed = [load.rate for load in seen["set and commit"]]
    print(f"set and commit: {ratio(committed, syncs) / 2:.2f} of the disk's rate of syncs")


class Case(NamedTuple):
    """One load. `prepare` is called before it in each round."""

    name: str
    url: str
    arguments: Sequence[str] = ()
    prepare: Callable[[], object] = lambda: None


def our_cases(directory: Path, stack: contextlib.ExitStack) -> list[Case]:
    ours_directory = directory / "ours"
    ours_directory.mkdir()
    daemon = stack.enter_context(ours(ours_directory, "--mount", "kv=/", "--log-level", "warning"))
    ask(daemon, "POST", "/set", '{"key": "value"}')
    fill(ours_directory / "store" / "kv.sqlite")
    paths = [f"/key%20{number}" for number in range(1, KEYS + 1)]

    def commit_all() -> None:
        # The queue of the load before takes a second to be moved behind its commit.
        ask(daemon, "POST", "/commit")
        time.sleep(1)

    return [
        Case("health", daemon.url + "/-/health"),
        Case("GET", daemon.url + "/key"),
        Case(f"GET of {KEYS:,} keys", daemon.url, many_paths(directory, "ours", paths)),
        Case("POST /set", daemon.url + "/set", script(directory, "set", _SET)),
        Case("POST /set, new keys", daemon.url + "/set", script(directory, "new", _SET_NEW), commit_all),
        Case("set and commit", daemon.url + "/set", script(directory, "commit", _COMMIT), commit_all),
    ]


def other_cases(directory: Path, stack: contextlib.ExitStack) -> list[Case]:
    """The same loads for other servers. One that is not installed is left out."""
    cases = []
    if is_installed("etcd"):
        server = stack.enter_context(etcd(directory))
        bodies = directory / "puts"
        bodies.write_text("\n".join(etcd_puts(KEYS)) + "\n")
        puts = script(directory, "puts", _PUTS.format(file=bodies))
        cases.append(Case("etcd put", server.url, puts))
    else:
        print("etcd is not installed (Debian: etcd-server): not compared")
    if is_installed("webdis", "redis-server"):
        server = stack.enter_context(webdis(directory, KEYS))
        paths = [f"/GET/key%20{number}" for number in range(1, KEYS + 1)]
        cases.append(Case(f"webdis GET of {KEYS:,} keys", server.url, many_paths(directory, "webdis", paths)))
    else:
        print("webdis and redis-server are not installed: not compared")
    return cases


def script(directory: Path, name: str, text: str) -> Sequence[str]:
    path = directory / f"{name}.lua"
    path.write_text(text)
    return ("-s", str(path))


def fill(path: Path) -> None:
    keys = KeyValues(str(path))
    for number in range(1, KEYS + 1):
        keys.set_later(f"key {number}", b'"value"')
    keys.commit()
    keys.close()


def ratio(values: list[float], beside: list[float]) -> float:
    return statistics.median(value / other for value, other in zip(values, beside))


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


def latency(directory: Path) -> None:
    """Measure reads of random keys, without and during a large commit."""
    directory.mkdir()
    with ours(directory, "--mount", "kv=/", "--log-level", "warning") as daemon:
        keys = KeyValues(str(directory / "store" / "kv.sqlite"))
        for number in range(20_000):
            keys.set_later(f"old {number}", b'"value"')
        keys.commit()
        idle = percentile_99(daemon, after(time.monotonic() + 3))
        for number in range(100_000):
            keys.set_later(f"new {number}", b'"value"')
        keys.set("last", b"1")
        committing = threading.Thread(target=ask, args=(daemon, "POST", "/commit"))
        started = time.monotonic()
        committing.start()
        busy = percentile_99(daemon, lambda: not committing.is_alive())
        seconds = time.monotonic() - started
        keys.close()
    print(f"a commit of 100,000 keys takes {seconds:.2f} s; 99 % of reads take at most", end=" ")
    print(f"{idle * 1000:.2f} ms before it and {busy * 1000:.2f} ms during it, ratio {busy / idle:.1f}")


def after(deadline: float) -> Callable[[], bool]:
    return lambda: time.monotonic() > deadline


def percentile_99(daemon: Daemon, is_done: Callable[[], bool]) -> float:
    client = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
    waited: list[float] = []
    while not is_done():
        started = time.perf_counter()
        client.request("GET", f"/old%20{random.randrange(20_000)}")
        assert client.getresponse().read()
        waited.append(time.perf_counter() - started)
    client.close()
    return sorted(waited)[len(waited) * 99 // 100]


def memory(directory: Path) -> None:
    """Fill a database, and measure the memory of a daemon that reads and writes random keys."""
    (directory / "store").mkdir(parents=True)
    path = directory / "store" / "kv.sqlite"
    prepare_keys(str(path))
    keys = KeyValues(str(path))
    value = b'"' + b"x" * 16 * 1024 + b'"'
    for number in range(65_536):
        keys.set_later(str(number), value)
        if number % 4096 == 4095:
            keys.commit()
    keys.close()
    with ours(directory, "--mount", "kv=/", "--log-level", "warning") as daemon:
        idle = proportional_memory(daemon.process.pid)
        use_random_keys(daemon)
        used = proportional_memory(daemon.process.pid)
    size = sum(each.stat().st_size for each in path.parent.glob("kv.sqlite*"))
    print(f"a database of {size / MIB:,.0f} MiB: {idle / MIB:.1f} MiB of memory idle, {used / MIB:.1f} MiB in use")


def use_random_keys(daemon: Daemon) -> None:
    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
        for step in range(300):
            key = random.randrange(65_536)
            connection.request("GET", f"/{key}")
            assert len(connection.getresponse().read()) > 16_000
            connection.request("POST", "/set", f'{{"{key}": "{"y" * 16_000}"}}')
            connection.getresponse().read()
            if step % 100 == number:
                connection.request("POST", "/commit")
                connection.getresponse().read()
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def ask(daemon: Daemon, method: str, path: str, body: str = "") -> None:
    client = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
    client.request(method, path, body)
    client.getresponse().read()
    client.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as temporary:
        main(Path(temporary))
