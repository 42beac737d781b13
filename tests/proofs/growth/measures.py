"""What is measured of a daemon with a store: each function returns values by name.

Values are seconds unless the name says otherwise. They are called in the order of the table, after a start: what the
daemon remembers of a store is not yet in its memory.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from filestoraged.store.disk.store import DiskStore
from tests.bench.load import ask
from tests.bench.machine import CLIENT_CORE, MIB, cpu_seconds, pinned, proportional_memory
from tests.daemon.process import PATIENCE, ROOT, Daemon, clean_environment
from tests.proofs.growth.stores import digest, repository

# Objects, keys, drops or repositories that are requested, and the size of the smaller store, so that both have them.
SAMPLE = 100

_DROPS = "/vimeo/api/v1.0/file"

# Seconds: one round of the janitor, and a little more.
_IDLE = 3.5

# Counting objects takes a fifth of a core. A daemon that uses less than a twentieth for so many seconds is idle.
_POLL = 0.5
_IDLE_SHARE = 0.05
_COUNT_TIMEOUT = 120.0

Values = dict[str, float]


class Client:
    """A kept-alive connection."""

    def __init__(self, daemon: Daemon) -> None:
        self._connection = socket.create_connection(("127.0.0.1", daemon.ports[0]), PATIENCE)

    def ask(self, method: str, path: str, body: bytes = b"", fields: str = "") -> bytes:
        """Send a request. Returns the response, which must be a 2xx and fit into one segment."""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
        response = ask(self._connection, head.encode() + body)
        assert response.startswith(b"HTTP/1.1 2"), (method, path, response[:300])
        return response

    def mean(self, method: str, requests: Iterator[tuple[str, bytes]], fields: str = "") -> float:
        """Send requests one after the other. Returns the mean time of one."""
        started, count = time.perf_counter(), 0
        for path, body in requests:
            self.ask(method, path, body, fields)
            count += 1
        return (time.perf_counter() - started) / count

    def close(self) -> None:
        self._connection.close()


def objects(client: Client, store: Path) -> Values:
    new = [b"%s %d" % (str(time.time_ns()).encode(), number) for number in range(SAMPLE)]
    fields = "Accept: text/plain\r\n"
    values = {
        "GET": client.mean("GET", ((f"/{digest(number)}", b"") for number in range(SAMPLE))),
        "POST": client.mean("POST", (("/", data) for data in new), fields),
    }
    names = [client.ask("POST", "/", data, fields).split()[-1].decode() for data in new]
    values["DELETE"] = client.mean("DELETE", ((f"/{name}", b"") for name in names))
    values["a page of a listing"] = _page(store)
    return values


def _page(store: Path) -> float:
    """The mean time of a page of 1,000 names, in 20 pages."""
    listed, after, count, started = DiskStore(store), "", 0, time.perf_counter()
    while count < 20:
        names = listed.list(after, 1000)
        after = names[-1] if names else ""
        count += 1
    return (time.perf_counter() - started) / count


def keys(client: Client, _: Path) -> Values:
    numbers = range(SAMPLE)
    return {
        "GET": client.mean("GET", ((f"/kv/{number}", b"") for number in numbers)),
        "set": client.mean("POST", (("/kv/set", json.dumps({str(number): "new"}).encode()) for number in numbers)),
        "commit": client.mean("POST", (("/kv/commit", b"") for _ in numbers)),
        "set and commit": client.mean(
            "POST", (each for number in numbers for each in (("/kv/set", b'{"%d": 1}' % number), ("/kv/commit", b"")))
        ),
    }


def drops(client: Client, _: Path) -> Values:
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="name"\r\n\r\nmeow\r\n--b--\r\n'
    fields = "Content-Type: multipart/form-data; boundary=b\r\n"
    values = {"PUT": client.mean("PUT", ((_DROPS, part) for _ in range(SAMPLE)), fields)}
    answers = [client.ask("PUT", _DROPS, part, fields) for _ in range(SAMPLE)]
    links = [re.findall(rb'"url": "http://[^/]+([^"]+)"', answer)[0].decode() for answer in answers]
    return {**values, "GET": client.mean("GET", ((link, b"") for link in links))}


def repositories(client: Client, _: Path) -> Values:
    paths = [f"/data/{repository(number)}" for number in range(SAMPLE)]
    new = [f"/data/new-{time.time_ns()}-{number}" for number in range(SAMPLE)]
    return {
        "GET": client.mean("GET", ((f"{path}/{digest(0)}", b"") for path in paths)),
        "PUT": client.mean("PUT", ((path, str(time.time_ns()).encode()) for path in paths)),
        "PUT to a new one": client.mean("PUT", ((path, b"meow") for path in new)),
    }


def operations(client: Client, daemon: Daemon) -> Values:
    """Readiness, metrics, memory, and what the daemon does without requests."""

    def seconds(path: str) -> float:
        return client.mean("GET", iter([(path, b"")]))

    return {
        "/-/ready": seconds("/-/ready"),
        "first scrape": seconds("/-/metrics"),
        "CPU time of the first count": _used_until_idle(daemon),
        "second scrape": seconds("/-/metrics"),
        "CPU time of the second count": _used_until_idle(daemon),
        "CPU time of an idle second": _used_while_idle(daemon),
        "MiB of memory": proportional_memory(daemon.process.pid) / MIB,
    }


def _used_until_idle(daemon: Daemon) -> float:
    """CPU time from now until the daemon is idle."""
    deadline = time.monotonic() + _COUNT_TIMEOUT
    first = last = cpu_seconds(daemon.process.pid)
    while time.monotonic() < deadline:
        time.sleep(_POLL)
        now = cpu_seconds(daemon.process.pid)
        if now - last < _IDLE_SHARE * _POLL:
            return now - first
        last = now
    raise AssertionError(f"the daemon still works {_COUNT_TIMEOUT:.0f} s after a request")


def _used_while_idle(daemon: Daemon) -> float:
    before = cpu_seconds(daemon.process.pid)
    time.sleep(_IDLE)
    return (cpu_seconds(daemon.process.pid) - before) / _IDLE


def start(daemon: Daemon) -> float:
    """Wait until a daemon that was just started answers. Returns the seconds."""
    started = time.perf_counter()
    while time.perf_counter() - started < PATIENCE:
        with contextlib.suppress(OSError), contextlib.closing(Client(daemon)) as client:
            client.ask("GET", "/-/health")
            return time.perf_counter() - started
        time.sleep(0.002)
    raise AssertionError(f"the daemon does not answer: {daemon.lines()}")


def check(store: Path) -> float:
    """The seconds of a whole check."""
    command = [*pinned(CLIENT_CORE), sys.executable, "-m", "filestoraged", "check", "--store", str(store)]
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env=clean_environment())
    return time.perf_counter() - started
