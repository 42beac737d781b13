"""Ten thousand hostile connections on a real daemon, and what a decent client notices of them.

    python3 -m tests.proofs.soak [CONNECTIONS]

A quarter each: heads that do not end, bodies that do not, downloads that nobody reads, and silence. Meanwhile a
client stores and fetches. Then all are left to the contract's timeouts, and come once more: it takes four minutes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import requests

from filestoraged.daemon.descriptors import raise_limit
from tests.bench.machine import MIB, family, proportional_memory
from tests.daemon.process import PATIENCE, Daemon, running

LARGE = 8 * 1024 * 1024

# An idle connection has a minute. A client's kernel may go on taking a little for one that nobody reads, which then
# has half a minute more.
TIMEOUTS = 100

# Until the threads that have nothing to do have ended.
REST = 12


class Use(NamedTuple):
    """What a daemon and its workers use."""

    mebibytes: float
    threads: int
    descriptors: int

    def __str__(self) -> str:
        return f"{self.mebibytes:.1f} MiB, {self.threads} threads, {self.descriptors} descriptors"


def main(count: int) -> bool:
    """Print what was seen. Returns whether all is as promised."""
    count = min(count, raise_limit() - 100)
    options = ("--workers", "2", "--max-connections", str(count + 500))
    with tempfile.TemporaryDirectory() as directory, running("--store", directory, *options) as daemon:
        large = requests.post(daemon.url, data=os.urandom(LARGE), timeout=PATIENCE).json()["hash"]
        measure_latency(daemon, 200)
        time.sleep(REST)
        before = use(daemon)
        quiet = measure_latency(daemon, 200)
        print(f"before: {before}; a client stores and fetches in {quiet * 1000:.1f} ms (99 %)")
        left = beset(daemon, count, large) - before.descriptors
        once = use(daemon)
        print(f"after: {once}; {left} connections not cut off")
        left += beset(daemon, count, large) - before.descriptors
        twice = use(daemon)
        print(f"after: {twice}; {left} connections not cut off")
        stagings = len(list(Path(directory).glob("staging/*/*")))
        errors = [line for line in daemon.lines() if "ERROR" in line or "Traceback" in line]
        print(f"{stagings} stagings left; errors in the log: {errors[:3]}")
    back = twice.threads <= before.threads and twice.descriptors <= before.descriptors
    # What the crowd has needed stays with Python for the next one, which must not need more. Where threads' allocations
    # fall varies by some MiB; one kibibyte lost with each connection would be ten.
    return left <= 0 and not stagings and not errors and back and twice.mebibytes < once.mebibytes + 10


def beset(daemon: Daemon, count: int, large: str) -> int:
    """Send the crowd, and wait until it is cut off. Returns how many descriptors the daemon has open then."""
    with contextlib.ExitStack() as stack:
        hostile = [stack.enter_context(connect(daemon)) for _ in range(count)]
        for number, connection in enumerate(hostile):
            connection.sendall(openings(large)[number % 4])
        amid = measure_latency(daemon, 200)
        print(f"amid {count} hostile connections: {use(daemon)}; in {amid * 1000:.1f} ms (99 %)", flush=True)
        time.sleep(TIMEOUTS)
        # A client's own kernel may not have noticed: it asks ever less often for what nobody reads.
        left = use(daemon).descriptors
    measure_latency(daemon, 10)
    time.sleep(REST)
    return left


def openings(large: str) -> list[bytes]:
    return [
        b"GET / HTTP/1.1\r\nHost: local",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + b"x" * 1000,
        f"GET /{large} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        b"",
    ]


def connect(daemon: Daemon) -> socket.socket:
    connection = socket.socket()
    # What nobody reads is to stay with the daemon.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.connect(("127.0.0.1", daemon.ports[0]))
    return connection


def measure_latency(daemon: Daemon, count: int) -> float:
    """Store and fetch small files on new connections. Returns the seconds that 99 % of the pairs took at most."""
    taken = []
    for _ in range(count):
        data = os.urandom(1000)
        started = time.monotonic()
        digest = requests.post(daemon.url, data=data, timeout=PATIENCE).json()["hash"]
        assert requests.get(f"{daemon.url}/{digest}", timeout=PATIENCE).content == data
        taken.append(time.monotonic() - started)
    return sorted(taken)[int(count * 0.99) - 1]


def use(daemon: Daemon) -> Use:
    pids = family(daemon.process.pid)
    threads, descriptors = (sum(len(os.listdir(f"/proc/{pid}/{what}")) for pid in pids) for what in ("task", "fd"))
    return Use(proportional_memory(daemon.process.pid) / MIB, threads, descriptors)


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000) else 1)
