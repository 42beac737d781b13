"""The measures of `bin/bench`. Each returns its figures; contenders alternate in each round."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.bench import load, servers, uploads
from tests.bench.contest import QUIET, Bench, run_bare, write_new
from tests.bench.figures import OURS, Figure, Goal, median, ratio
from tests.bench.machine import CLIENT_CORE, MIB, SERVER_CORE, cpu_seconds, pinned, proportional_memory
from tests.daemon.process import ROOT, Daemon

LARGE = 512
HEALTH = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n"

_P99 = "99 % answered within"


def small_downloads(bench: Bench) -> list[Figure]:
    """Downloads of 1 and 64 KiB by 32 kept-alive clients, from the daemon and from other servers, of the same files."""
    return [
        *_downloads(bench, 1024, nginx=0.65, copyparty=6.0, p99=2.0),
        *_downloads(bench, 64 * 1024, nginx=0.85, copyparty=1.0, p99=8.0),
    ]


def _downloads(bench: Bench, size: int, *, nginx: float, copyparty: float, p99: float) -> list[Figure]:
    name = f"GET {size // 1024} KiB, 32 kept-alive clients"
    slowest: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(servers.ours(bench.directory, *QUIET))
        digest = _store(daemon.ports[0], os.urandom(size))
        root = bench.directory / "store" / digest[:2]
        urls = {OURS: f"{daemon.url}/{digest}"}
        here = servers.installed()
        if here["nginx"]:
            urls["nginx"] = f"{stack.enter_context(servers.nginx(bench.directory, root)).url}/{digest}"
        if here["copyparty"]:
            urls["copyparty"] = f"{stack.enter_context(servers.copyparty(bench.directory, root)).url}/{digest}"
        urls["python3 -m http.server"] = f"{stack.enter_context(servers.stock(bench.directory, root)).url}/{digest}"

        def ask(contender: str) -> float:
            seen = load.run_wrk(urls[contender], 32, bench.seconds)
            slowest.setdefault(contender, []).append(seen.p99 * 1000)
            return seen.rate

        samples = bench.take_turns({contender: partial(ask, contender) for contender in urls})
    goals = [
        Goal("of nginx", ratio(samples, OURS, "nginx"), nginx),
        Goal("times copyparty", ratio(samples, OURS, "copyparty"), copyparty),
    ]
    return [
        Figure(name, "requests/s", samples, goals, plotted=True, note="no access logs"),
        Figure(f"{name}: {_P99}", "ms", slowest, [Goal("ms", median(slowest[OURS]), p99, at_most=True)]),
    ]


def many_downloads(bench: Bench) -> list[Figure]:
    """Downloads of 20,000 objects in turn, which fit into the daemon's cache by default."""
    if not servers.installed()["nginx"]:
        return []
    with servers.ours(bench.directory, *QUIET) as daemon:
        digests = _store_many(daemon.ports[0], 20_000)
        with servers.nginx(bench.directory, bench.directory / "store") as other:
            mine = load.many_paths(bench.directory, "ours", [f"/{digest}" for digest in digests])
            theirs = load.many_paths(bench.directory, "nginx", [f"/{digest[:2]}/{digest}" for digest in digests])
            contenders = {
                OURS: partial(_rate, daemon.url, 32, bench, *mine),
                "nginx": partial(_rate, other.url, 32, bench, *theirs),
            }
            name = "GET 1 KiB, 20,000 different objects"
            return [bench.compare(name, "requests/s", contenders, {"nginx": 0.45})]


def large_download(bench: Bench) -> list[Figure]:
    """A download of 512 MiB, and its CPU time."""
    costs: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(servers.ours(bench.directory, *QUIET))
        digest = load.upload(daemon.ports[0], "/", _large_file(bench))[1].rpartition(b"\n\r\n")[2].strip().decode()
        servings = {OURS: (daemon.process.pid, daemon.url, f"/{digest}")}
        if servers.installed()["nginx"]:
            other = stack.enter_context(servers.nginx(bench.directory, bench.directory / "store"))
            servings["nginx"] = (other.pid, other.url, f"/{digest[:2]}/{digest}")

        def fetch(contender: str) -> float:
            pid, url, path = servings[contender]
            before = cpu_seconds(pid)
            seconds = load.fetch(int(url.rpartition(":")[2]), path)
            costs.setdefault(contender, []).append((cpu_seconds(pid) - before) * 1024 / LARGE)
            return LARGE / seconds

        samples = bench.take_turns({contender: partial(fetch, contender) for contender in servings})
        _remove(daemon.ports[0], digest)
    name = "GET 512 MiB, one stream"
    cost = Goal("CPU seconds a GiB", median(costs[OURS]), 0.12, at_most=True)
    return [
        Figure(name, "MiB/s", samples, [Goal("of nginx", ratio(samples, OURS, "nginx"), 0.97)]),
        Figure(f"{name}: cost", "s/GiB", costs, [cost]),
    ]


def large_upload(bench: Bench) -> list[Figure]:
    """Uploads of 512 MiB: on one core compared with a bare loop, on two cores compared with SHA-256 alone."""
    file = _large_file(bench)
    costs: list[float] = []
    growth: list[float] = []

    def through(daemon: Daemon) -> float:
        os.sync()
        pid = daemon.process.pid
        load.upload(daemon.ports[0], "/", bench.directory / "tiny")
        idle, before = daemon.resident(), cpu_seconds(pid)
        seconds, answer = load.upload(daemon.ports[0], "/", file)
        costs.append((cpu_seconds(pid) - before) * 1024 / LARGE)
        growth.append((daemon.resident("VmHWM") - idle) / MIB)
        _remove(daemon.ports[0], answer.rpartition(b"\n\r\n")[2].strip().decode())
        return LARGE / seconds

    (bench.directory / "tiny").write_bytes(b"tea")
    command = [*pinned(SERVER_CORE), sys.executable, "-m", "tests.bench.bare", "sink", str(bench.directory)]
    with (
        servers.ours(bench.directory, *QUIET) as daemon,
        subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as sink,
    ):
        assert sink.stdout is not None
        port = int(sink.stdout.readline())

        def inline() -> float:
            os.sync()
            return LARGE / load.upload(port, "/", file)[0]

        one = bench.take_turns({OURS: lambda: through(daemon), "bare loop": inline})
        sink.terminate()
    one_cost = median(costs)
    with servers.ours(bench.directory, *QUIET, before=()) as daemon:
        hashing = {"SHA-256 alone": lambda: LARGE / float(run_bare("hash", str(LARGE)))}
        two = bench.take_turns({OURS: lambda: through(daemon), **hashing})
    goals = [
        Goal("of a bare loop", ratio(one, OURS, "bare loop"), 0.95),
        Goal("CPU seconds a GiB", one_cost, 4.0, at_most=True),
        Goal("MiB of memory above idle", max(growth), 12.0, at_most=True),
    ]
    of_hash = Goal("of SHA-256 alone", ratio(two, OURS, "SHA-256 alone"), 0.6)
    return [
        Figure("POST 512 MiB, durable, on one core", "MiB/s", one, goals),
        Figure("POST 512 MiB, durable, on two cores", "MiB/s", two, [of_hash]),
    ]


def workers(bench: Bench) -> list[Figure]:
    """Two workers on two cores, compared with one on one core; the client runs on the same cores.

    The client leaves two workers two cores less its own CPU time, and one worker a whole core. So the goal is for the
    rate that two workers would have on two whole cores, if they were as fast for each CPU second as they are now. With
    64 connections each worker has 32, as one worker has in other measures.
    """
    shares: list[float] = []
    digest = ""

    def ask(url: str) -> float:
        return _rate(f"{url}/{digest}", 64, bench, core=None)

    def ask_two(url: str) -> float:
        seen = load.run_wrk(f"{url}/{digest}", 64, bench.seconds, core=None)
        shares.append(seen.client_share)
        return seen.rate

    with (
        servers.ours(bench.directory, *QUIET) as one,
        servers.ours(bench.directory, *QUIET, workers=2, before=()) as two,
    ):
        digest = _store(one.ports[0], os.urandom(1024))
        samples = bench.take_turns({"one worker": lambda: ask(one.url), "two workers": lambda: ask_two(two.url)})
    rounds = zip(samples["two workers"], samples["one worker"], shares, strict=True)
    scaled = median([2 * rate / (2 - share) / alone for rate, alone, share in rounds])
    goal = Goal("times one worker, of what the client leaves", scaled, 1.6)
    plain = ratio(samples, "two workers", "one worker")
    note = f"{plain:.2f} times with the client, which used {median(shares):.2f} of the two cores"
    return [Figure("GET 1 KiB, two workers", "requests/s", samples, [goal], note=note)]


def new_connections(bench: Bench) -> list[Figure]:
    """Downloads with a new connection for each request."""
    with servers.ours(bench.directory, *QUIET) as daemon:
        url = f"{daemon.url}/{_store(daemon.ports[0], os.urandom(1024))}"
        anew = partial(_rate, url, 32, bench, "-H", "Connection: close")
        contenders = {"opened anew": anew, "kept alive": partial(_rate, url, 32, bench)}
        return [bench.compare("GET 1 KiB, connections opened anew", "requests/s", contenders, {"kept alive": 0.5})]


def access_log(bench: Bench) -> list[Figure]:
    """Downloads with and without the access log, compared with nginx with its log."""
    with contextlib.ExitStack() as stack:
        loud = stack.enter_context(servers.ours(bench.directory))
        quiet = stack.enter_context(servers.ours(bench.directory, *QUIET))
        digest = _store(loud.ports[0], os.urandom(1024))
        urls = {"with a log": f"{loud.url}/{digest}", "without": f"{quiet.url}/{digest}"}
        if servers.installed()["nginx"]:
            root = bench.directory / "store" / digest[:2]
            log = str(bench.directory / "access.log")
            nginx = stack.enter_context(servers.nginx(bench.directory, root, access_log=log))
            urls["nginx with a log"] = f"{nginx.url}/{digest}"
        contenders = {name: partial(_rate, url, 32, bench) for name, url in urls.items()}
        least = {"without": 0.85, "nginx with a log": 0.5}
        return [bench.compare("GET 1 KiB with the access log", "requests/s", contenders, least)]


def idle_connections(bench: Bench) -> list[Figure]:
    """Memory at start-up and with thousands of idle connections, half of them after a request; latency of a new one."""
    figures = []
    for count, limit in ((0, 24.0), (2000, 28.0), (5000, 32.0)):
        memory: list[float] = []
        latency: list[float] = []
        for _ in range(bench.rounds):
            with servers.ours(bench.directory, *QUIET) as daemon, contextlib.ExitStack() as stack:
                for number in range(count):
                    connection = stack.enter_context(socket.create_connection(("127.0.0.1", daemon.ports[0])))
                    if number % 2:
                        load.ask(connection, HEALTH)
                # The worker serves by now.
                _fresh_request(daemon.ports[0])
                memory.append(proportional_memory(daemon.process.pid) / MIB)
                latency.append(statistics.median(_fresh_request(daemon.ports[0]) for _ in range(20)) * 1000)
        fresh = Goal("ms for a fresh request", median(latency), 5.0, at_most=True)
        bound = Goal("MiB in total", median(memory), limit, at_most=True)
        name = f"{count:,} idle connections" if count else "no connection, after the start"
        figures.append(Figure(name, "MiB", {OURS: memory}, [bound, fresh]))
    return figures


def _rate(url: str, clients: int, bench: Bench, *arguments: str, core: int | None = CLIENT_CORE) -> float:
    return load.run_wrk(url, clients, bench.seconds, *arguments, core=core).rate


def _fresh_request(port: int) -> float:
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        load.ask(connection, HEALTH)
    return time.monotonic() - started


def _store(port: int, data: bytes) -> str:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        return _store_by(connection, data)


def _store_many(port: int, count: int) -> list[str]:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        return [_store_by(connection, f"{number} ".encode() + os.urandom(1024)) for number in range(count)]


def _store_by(connection: socket.socket, data: bytes) -> str:
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\nContent-Length: {len(data)}\r\n\r\n"
    answer = load.ask(connection, head.encode() + data)
    digest = answer.rpartition(b"\r\n\r\n")[2].strip().decode()
    assert digest == hashlib.sha256(data).hexdigest(), answer
    return digest


def _remove(port: int, digest: str) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        answer = load.ask(connection, f"DELETE /{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200 "), answer


def _large_file(bench: Bench) -> Path:
    file = bench.directory / "large"
    if not file.exists():
        write_new(file, LARGE * MIB)
    return file


MEASURES: dict[str, Callable[[Bench], Sequence[Figure]]] = {
    "small-downloads": small_downloads,
    "many-downloads": many_downloads,
    "large-download": large_download,
    **uploads.MEASURES,
    "large-upload": large_upload,
    "workers": workers,
    "new-connections": new_connections,
    "access-log": access_log,
    "idle-connections": idle_connections,
}
