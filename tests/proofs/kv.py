"""Figures of the key-value database: `python -m tests.proofs.kv [DIRECTORY]`. Needs wrk, which bin/bench installs.

One worker on one core, its clients on another. Requests a second, compared with /-/health and with the disk's rate of
syncs; latency of reads during a commit of 100,000 keys; memory with 1 GiB of values.
"""

from __future__ import annotations

import http.client
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from filestoraged.store.kv import KeyValues, prepare_keys
from tests.bench.load import run_wrk
from tests.bench.machine import MIB, proportional_memory
from tests.bench.servers import ours
from tests.daemon.process import PATIENCE, Daemon

CLIENTS = 32
SECONDS = 3.0
ROUNDS = 5

_SET = 'wrk.method, wrk.body = "POST", [[{"key": "value"}]]'

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
    scripts = {"set": directory / "set.lua", "commit": directory / "commit.lua"}
    scripts["set"].write_text(_SET)
    scripts["commit"].write_text(_COMMIT)
    seen: dict[str, list[float]] = {}
    with ours(directory, "--mount", "kv=/", "--log-level", "warning") as daemon:
        ask(daemon, "POST", "/set", '{"key": "value"}')
        ask(daemon, "POST", "/commit")
        for _ in range(ROUNDS):
            for name, path, script in (
                ("health", "/-/health", None),
                ("GET", "/key", None),
                ("POST /set", "/set", scripts["set"]),
                ("set and commit", "/set", scripts["commit"]),
            ):
                arguments = () if script is None else ("-s", str(script))
                load = run_wrk(daemon.url + path, CLIENTS, SECONDS, *arguments)
                seen.setdefault(name, []).append(load.rate)
            seen.setdefault("syncs", []).append(sync_rate(directory / "synced"))
    for name, values in seen.items():
        print(f"{name}: {statistics.median(values):,.0f} requests/s ({min(values):,.0f} to {max(values):,.0f})")
    for name in ("GET", "POST /set"):
        print(f"{name}: {ratio(seen[name], seen['health']):.2f} of health")
    print(f"commits: {ratio(seen['set and commit'], seen['syncs']) / 2:.2f} of the disk's rate of syncs")


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
