"""Measures of small durable uploads, compared with bare threads that store files in the same way."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from tests.bench import load, servers
from tests.bench.contest import QUIET, Bench, run_bare
from tests.bench.figures import OURS, Figure, Goal, median, ratio
from tests.bench.machine import MIB, SERVER_CORE
from tests.daemon.process import PATIENCE

_BARE = "16 bare threads"
_KIB, _CLIENTS = 1024, 16


def small_uploads(bench: Bench) -> list[Figure]:
    """Uploads of 1 and 64 KiB by 1, 16 and 64 clients, compared with bare threads and with copyparty."""
    return [
        *_uploads(bench, _KIB, clients=16, bare=2.0),
        *_uploads(bench, _KIB, clients=64, bare=2.5),
        *_uploads(bench, 64 * _KIB, clients=16, bare=1.3),
        *_uploads(bench, _KIB, clients=1, bare=0.5, threads=1),
    ]


def _uploads(bench: Bench, size: int, *, clients: int, bare: float, threads: int = 16) -> list[Figure]:
    root = bench.directory / "uploaded"
    root.mkdir(exist_ok=True)
    slowest: list[float] = []
    beside = f"{threads} bare thread{'s' if threads > 1 else ''}"
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(servers.ours(bench.directory, *QUIET))
        contenders = {
            OURS: lambda: _post(bench, daemon.url, size, clients, slowest),
            beside: lambda: _store_bare(bench, size, threads),
        }
        if clients == _CLIENTS and servers.installed()["copyparty"]:
            other = stack.enter_context(servers.copyparty(bench.directory, root))
            contenders["copyparty, not synced"] = lambda: _put(bench, other.url, size, clients)
        # The first uploads make the store's directories, which is not measured.
        _post(bench, daemon.url, size, clients, [])
        samples = bench.take_turns(contenders)
    goals = [
        Goal(f"of {beside}", ratio(samples, OURS, beside), bare),
        Goal("ms, 99 % answered within", median(slowest), 10.0 if size == _KIB else 40.0, at_most=True),
    ]
    name = f"POST {size // _KIB} KiB of new content, durable, clients: {clients}"
    return [Figure(name, "requests/s", samples, goals, plotted=clients == _CLIENTS)]


def beside_a_large_one(bench: Bench) -> list[Figure]:
    """Uploads of 1 KiB by 16 clients while another client uploads 512 MiB again and again."""
    alone: list[float] = []
    beside: list[float] = []

    def post_beside() -> float:
        with _uploading(daemon.ports[0]):
            return _post(bench, daemon.url, _KIB, _CLIENTS, beside)

    with servers.ours(bench.directory, *QUIET, before=()) as daemon:
        _post(bench, daemon.url, _KIB, _CLIENTS, [])
        samples = bench.take_turns(
            {"alone": lambda: _post(bench, daemon.url, _KIB, _CLIENTS, alone), "beside it": post_beside}
        )
    goals = [
        Goal("of the rate alone", ratio(samples, "beside it", "alone"), 0.5),
        Goal("times the slowest hundredth alone", median(beside) / median(alone), 5.0, at_most=True),
    ]
    return [Figure("POST 1 KiB beside an endless upload of 512 MiB, two cores", "requests/s", samples, goals)]


def _put(bench: Bench, url: str, size: int, clients: int) -> float:
    """Upload to names. Returns uploads a second."""
    script = load.uploads(bench.directory, size, method="PUT", named=True)
    return load.run_wrk(url, clients, bench.seconds, *script).rate


def _post(bench: Bench, url: str, size: int, clients: int, slowest: list[float]) -> float:
    """Returns uploads a second, and appends the 99th percentile of their latency in milliseconds."""
    seen = load.run_wrk(url, clients, bench.seconds, *load.uploads(bench.directory, size))
    slowest.append(seen.p99 * 1000)
    return seen.rate


def _store_bare(bench: Bench, size: int, threads: int) -> float:
    directory = bench.directory / f"bare-{time.monotonic_ns()}"
    return float(run_bare("files", str(directory), str(size), str(bench.seconds), str(threads), on=SERVER_CORE))


@contextlib.contextmanager
def _uploading(port: int) -> Iterator[None]:
    """Upload 512 MiB again and again within the block. The uploads are not whole at its end, and leave nothing."""
    stop = threading.Event()
    uploading = threading.Thread(target=_upload_until, args=(port, stop))
    uploading.start()
    try:
        yield
    finally:
        stop.set()
        uploading.join()


def _upload_until(port: int, stop: threading.Event) -> None:
    piece = bytes(range(256)) * 4096
    while not stop.is_set():
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection, contextlib.suppress(OSError):
            # One byte is never sent: so the object is not stored, and its removal not measured.
            head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {512 * MIB + 1}\r\n\r\n"
            connection.sendall(head.encode())
            for _ in range(512):
                if stop.is_set():
                    break
                connection.sendall(piece)
