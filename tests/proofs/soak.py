"""10,000 hostile connections to a daemon, and the latency of another client meanwhile. Takes four minutes.

    python -m tests.proofs.soak

A quarter each: incomplete heads, incomplete bodies, downloads that are not read, and connections without a request. All
of them wait until the daemon's timeouts close them; then they connect once more.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from typing import NamedTuple

import requests

from filestoraged.daemon.descriptors import raise_limit
from tests.bench.command import run
from tests.bench.contest import Bench
from tests.bench.figures import Figure, Goal
from tests.bench.machine import MIB, family, proportional_memory
from tests.daemon.process import PATIENCE, Daemon, running

CONNECTIONS = 10_000

LARGE = 8 * 1024 * 1024

# Seconds. An idle connection is closed after 60 s. The kernel of a client that does not read may still accept some
# bytes, which extends the timeout of the download by 30 s.
TIMEOUTS = 100

# Seconds until idle threads end.
REST = 12


class Use(NamedTuple):
    """Resources of a daemon and its workers."""

    mebibytes: float
    threads: int
    descriptors: int


def soak(bench: Bench) -> list[Figure]:
    count = min(bench.part_of(CONNECTIONS), raise_limit() - 100)
    options = ("--workers", "2", "--max-connections", str(count + 500))
    waits: dict[str, list[float]] = {"before": [], "during": []}
    with running("--store", str(bench.directory), *options) as daemon:
        large = requests.post(daemon.url, data=os.urandom(LARGE), timeout=PATIENCE).json()["hash"]
        measure_latency(daemon, 200)
        time.sleep(REST)
        before = use(daemon)
        waits["before"].append(measure_latency(daemon, 200))
        uses, left = [before], 0
        for _ in range(2):
            during, descriptors = attack(daemon, count, large)
            waits["during"].append(during)
            left += descriptors - before.descriptors
            uses.append(use(daemon))
        stagings = list(bench.directory.glob("staging/*/*"))
        errors = [line for line in daemon.lines() if "ERROR" in line or "Traceback" in line]
    assert not stagings and not errors, (stagings[:3], errors[:3])
    once, twice = uses[1:]
    # Python keeps the memory that the first connections needed; the second ones must not need more. Allocations of
    # threads vary by some MiB; a leak of 1 KiB for each connection would be 10 MiB.
    goals = [
        Goal("connections not closed", left, 0, at_most=True),
        Goal("more threads", twice.threads - before.threads, 0, at_most=True),
        Goal("more descriptors", twice.descriptors - before.descriptors, 0, at_most=True),
        Goal("MiB more after the second", twice.mebibytes - once.mebibytes, 10, at_most=True),
    ]
    memory = {name: [each.mebibytes] for name, each in zip(("before", "after", "after another"), uses)}
    return [
        Figure(f"memory of a daemon with {count:,} hostile connections", "MiB", memory, goals),
        Figure("99 % of stores and fetches within", "ms", waits, []),
    ]


def attack(daemon: Daemon, count: int, large: str) -> tuple[float, int]:
    """Open hostile connections, wait until they are closed. Returns the latency, and the daemon's open descriptors."""
    with contextlib.ExitStack() as stack:
        hostile = [stack.enter_context(connect(daemon)) for _ in range(count)]
        for number, connection in enumerate(hostile):
            connection.sendall(openings(large)[number % 4])
        during = measure_latency(daemon, 200)
        time.sleep(TIMEOUTS)
        # Counted in the daemon: the client's kernel may not know yet that a connection is closed.
        left = use(daemon).descriptors
    measure_latency(daemon, 10)
    time.sleep(REST)
    return during, left


def openings(large: str) -> list[bytes]:
    return [
        b"GET / HTTP/1.1\r\nHost: local",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + b"x" * 1000,
        f"GET /{large} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        b"",
    ]


def connect(daemon: Daemon) -> socket.socket:
    connection = socket.socket()
    # A small buffer: unread bytes must stay in the daemon.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.connect(("127.0.0.1", daemon.ports[0]))
    return connection


def measure_latency(daemon: Daemon, count: int) -> float:
    """Store and fetch small files on new connections. Returns the 99th percentile of a pair, in ms."""
    taken = []
    for _ in range(count):
        data = os.urandom(1000)
        started = time.monotonic()
        digest = requests.post(daemon.url, data=data, timeout=PATIENCE).json()["hash"]
        assert requests.get(f"{daemon.url}/{digest}", timeout=PATIENCE).content == data
        taken.append(time.monotonic() - started)
    return sorted(taken)[int(count * 0.99) - 1] * 1000


def use(daemon: Daemon) -> Use:
    pids = family(daemon.process.pid)
    threads, descriptors = (sum(len(os.listdir(f"/proc/{pid}/{what}")) for pid in pids) for what in ("task", "fd"))
    return Use(proportional_memory(daemon.process.pid) / MIB, threads, descriptors)


if __name__ == "__main__":
    sys.exit(run("tests.proofs.soak", {"soak": soak}, rounds=1))
