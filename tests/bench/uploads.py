"""Measures of small durable uploads and removals, compared with bare threads that do the same with files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.bench import load, servers
from tests.bench.bare import MAX_REMOVALS
from tests.bench.contest import QUIET, Bench, run_bare
from tests.bench.disk import Disk
from tests.bench.figures import OURS, Figure, Goal, median, ratio
from tests.bench.load import Load
from tests.bench.machine import CLIENT_CORE, MIB, SERVER_CORE, kill_family
from tests.daemon.process import PATIENCE, Daemon
from tests.support import find_program

_KIB, _CLIENTS = 1024, 16
_BARE = f"{_CLIENTS} bare threads"
_WORKERS = 2

# So many times the seconds of a measurement are the load whose slowest answer counts, and that which fills journals.
_LONG, _FILLING = 20, 5


class _Case(NamedTuple):
    """Uploads of so many bytes by so many clients, beside threads; the least ratio, and the most ms of 99 % of them."""

    size: int
    clients: int
    threads: int
    ratio: float
    p99: float


_CASES = (
    _Case(_KIB, 16, 16, 2.0, 10.0),
    _Case(_KIB, 64, 16, 2.0, 25.0),
    _Case(_KIB, 1, 1, 1.5, 10.0),
    _Case(16 * _KIB, 16, 16, 1.2, 20.0),
    _Case(64 * _KIB, 16, 16, 1.3, 40.0),
)


def small_uploads(bench: Bench) -> list[Figure]:
    """Uploads of 1, 16 and 64 KiB by 1, 16 and 64 clients, compared with bare threads and with copyparty."""
    return [figure for case in _CASES for figure in _uploads(bench, case)]


def _uploads(bench: Bench, case: _Case) -> list[Figure]:
    root = bench.directory / "uploaded"
    root.mkdir(exist_ok=True)
    beside = _BARE if case.threads > 1 else "one bare thread"
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(servers.ours(bench.directory, *QUIET))
        contenders = {
            OURS: lambda: _post(bench, daemon, case.size, case.clients),
            beside: lambda: _run_bare(bench, "store", case.size, case.threads),
        }
        is_plotted = case[:2] == (_KIB, _CLIENTS)
        if is_plotted and servers.installed()["copyparty"]:
            other = stack.enter_context(servers.copyparty(bench.directory, root))
            contenders["copyparty, not synced"] = lambda: _put(bench, other.url, case.size, case.clients)
        # The first uploads make the store's directories, which is not measured.
        _post(bench, daemon, case.size, case.clients)
        name = f"POST {case.size // _KIB} KiB of new content, durable, clients: {case.clients}"
        return _compare(bench, name, contenders, beside, least=case.ratio, p99=case.p99, is_plotted=is_plotted)


def _compare(
    bench: Bench,
    name: str,
    contenders: Mapping[str, Callable[[], Load]],
    beside: str,
    *,
    least: float,
    p99: float,
    is_plotted: bool = False,
) -> list[Figure]:
    """Take turns. Returns a figure of rates with the ratio to one contender, and one of times."""
    loads = bench.take_turns(contenders)
    rates = {each: [seen.rate for seen in seens] for each, seens in loads.items()}
    times: dict[str, list[float]] = {}
    for each, seens in loads.items():
        times[f"{each}, 50 %"] = [seen.p50 * 1000 for seen in seens]
        times[f"{each}, 99 %"] = [seen.p99 * 1000 for seen in seens]
    first = next(iter(contenders))
    slow = Goal("ms, 99 % answered within", median(times[f"{first}, 99 %"]), p99, at_most=True)
    of = Goal(f"of {beside}", ratio(rates, first, beside), least)
    return [
        Figure(name, "requests/s", rates, [of], plotted=is_plotted),
        Figure(f"{name}: answered within", "ms", times, [slow]),
    ]


def beside_a_large_one(bench: Bench) -> list[Figure]:
    """Uploads of 1 KiB by 16 clients while another client uploads 512 MiB again and again."""
    figures = []
    for cores, before in (("one core", None), ("two cores", ())):
        with servers.ours(bench.directory, *QUIET, before=before) as daemon:
            _post(bench, daemon)

            def post_beside(daemon: Daemon = daemon) -> Load:
                with _uploading(daemon.ports[0]):
                    return _post(bench, daemon)

            contenders: dict[str, Callable[[], Load]] = {
                "beside it": post_beside,
                "alone": partial(_post, bench, daemon),
            }
            name = f"POST 1 KiB beside an endless upload of 512 MiB, server on {cores}"
            figures += _compare(bench, name, contenders, "alone", least=0.6, p99=30.0)
    return figures


def removals(bench: Bench) -> list[Figure]:
    """Removals of 1 KiB by 16 clients, compared with bare threads that unlink and sync the directory."""
    with servers.ours(bench.directory, *QUIET) as daemon:
        # The first uploads make the store's directories and its journal, which is not measured.
        _post(bench, daemon)

        def remove() -> Load:
            paths = _make_objects(bench.directory / "store", bench.seconds * MAX_REMOVALS)
            script = load.many_paths(bench.directory, "removed", paths, method="DELETE")
            return load.run_wrk(daemon.url, _CLIENTS, bench.seconds, *script)

        contenders = {OURS: remove, _BARE: lambda: _run_bare(bench, "remove", _KIB, _CLIENTS)}
        return _compare(bench, f"DELETE 1 KiB, clients: {_CLIENTS}", contenders, _BARE, least=1.5, p99=10.0)


def _make_objects(store: Path, count: int) -> list[str]:
    """Write objects by no daemon, until the store has so many. Returns their paths."""
    mark, names = os.urandom(8).hex(), [path.name for path in store.glob("[0-9a-f][0-9a-f]/*")]
    for number in range(count - len(names)):
        data = f"{mark} {number} ".encode().ljust(_KIB, b"x")
        names.append(hashlib.sha256(data).hexdigest())
        shard = store / names[-1][:2]
        shard.mkdir(exist_ok=True)
        (shard / names[-1]).write_bytes(data)
    os.sync()
    return [f"/{name}" for name in names]


def two_workers(bench: Bench) -> list[Figure]:
    """Uploads to two workers on two cores, compared with one on one core; the clients run on the same cores."""
    contenders: dict[str, Callable[[], Load]] = {}
    with contextlib.ExitStack() as stack:
        for name, count, before in (("two workers", _WORKERS, ()), ("one worker", 1, None)):
            directory = bench.directory / name.replace(" ", "-")
            directory.mkdir(exist_ok=True)
            daemon = stack.enter_context(servers.ours(directory, *QUIET, workers=count, before=before))
            contenders[name] = partial(_post, bench, daemon, clients=64, core=None)
            contenders[name]()
        return _compare(bench, "POST 1 KiB, two workers, clients: 64", contenders, "one worker", least=1.3, p99=25.0)


def slowest_upload(bench: Bench) -> list[Figure]:
    """The slowest answer in a long load."""
    with servers.ours(bench.directory, *QUIET) as daemon:
        _post(bench, daemon)
        seen = _post(bench._replace(seconds=_LONG * bench.seconds), daemon)
    goal = Goal("ms, the slowest", seen.slowest * 1000, 100.0, at_most=True)
    name = f"POST 1 KiB, clients: {_CLIENTS}, {_LONG * bench.seconds} s"
    return [Figure(name, "requests/s", {OURS: [seen.rate]}, [goal], note=f"{seen.requests:,} uploads")]


def bytes_written(bench: Bench) -> list[Figure]:
    """Bytes that the device was sent for each upload of 1 KiB, until nothing is left to write."""
    number = bench.directory.stat().st_dev
    statistics = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
    if not statistics.exists():
        return []

    def written(work: Callable[[], Load]) -> float:
        before = _sectors(statistics)
        count = work().requests
        return (_sectors(statistics) - before) / 2 / count

    with servers.ours(bench.directory, *QUIET) as daemon:
        _post(bench, daemon)
        samples = bench.take_turns(
            {
                OURS: lambda: written(lambda: _post(bench, daemon)),
                _BARE: lambda: written(lambda: _run_bare(bench, "store", _KIB, _CLIENTS)),
            }
        )
    value = ratio(samples, OURS, _BARE)
    name = f"POST 1 KiB, clients: {_CLIENTS}: written to the device, with all that others write to it"
    return [Figure(name, "KiB/upload", samples, [Goal(f"of {_BARE}", value, 1.0, at_most=True)])]


def _sectors(statistics: Path) -> int:
    """The number of sectors of 512 bytes that were written, once all is written."""
    os.sync()
    return int(statistics.read_text().split()[6])


def start_after_power_cut(bench: Bench) -> list[Figure]:
    """Starts of two workers whose journals were full when the power was cut."""
    if not bench.kind:
        return []
    samples: list[float] = []
    with tempfile.TemporaryDirectory(dir=bench.images, prefix="cut-") as name, Disk(Path(name), bench.kind) as disk:
        _cut_with_full_journals(bench, disk)
        left = disk.image.with_suffix(".cut")
        _copy(disk.image, left)
        for _ in range(bench.rounds):
            _copy(left, disk.image)
            with disk.mounted():
                started = time.monotonic()
                with servers.ours(disk.path, *QUIET, workers=_WORKERS) as daemon:
                    with socket.create_connection(("127.0.0.1", daemon.ports[0]), PATIENCE) as connection:
                        answer = load.ask(connection, b"GET /-/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    samples.append(time.monotonic() - started)
            assert answer.startswith(b"HTTP/1.1 200 "), answer
    goal = Goal("s, the slowest", max(samples), 2.0, at_most=True)
    return [Figure("start after a power cut with full journals", "s", {OURS: samples}, [goal])]


def _cut_with_full_journals(bench: Bench, disk: Disk) -> None:
    """Load the daemon, whose checkpoints never end, and cut the power."""
    hold = (find_program("strace"), "-f", "-qq", "--seccomp-bpf", "-o/dev/null", "--trace=syncfs")
    delay = f"--inject=syncfs:delay_enter={3600 * 10**6}"
    with disk.mounted(), servers.ours(disk.path, *QUIET, workers=_WORKERS, before=(*hold, delay)) as daemon:
        # Uploads wait as soon as the journals are full, and are never answered.
        with contextlib.suppress(AssertionError):
            _post(bench._replace(seconds=_FILLING * bench.seconds), daemon, clients=64)
        disk.cut()
        kill_family(daemon.process.pid)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", source, target], check=True)


def _put(bench: Bench, url: str, size: int, clients: int) -> Load:
    """Upload to names."""
    return load.run_wrk(url, clients, bench.seconds, *load.uploads(bench.directory, size, method="PUT", named=True))


def _post(
    bench: Bench, daemon: Daemon, size: int = _KIB, clients: int = _CLIENTS, *, core: int | None = CLIENT_CORE
) -> Load:
    return load.run_wrk(daemon.url, clients, bench.seconds, *load.uploads(bench.directory, size), core=core)


def _run_bare(bench: Bench, command: str, size: int, threads: int) -> Load:
    directory = bench.directory / f"bare-{time.monotonic_ns()}"
    arguments = (str(directory), str(size), str(bench.seconds), str(threads))
    rate, p50, p99, slowest, count = run_bare(command, *arguments, on=SERVER_CORE).split()
    return Load(float(rate), float(p50), float(p99), float(slowest), int(count))


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


MEASURES: dict[str, Callable[[Bench], Sequence[Figure]]] = {
    "small-uploads": small_uploads,
    "uploads-beside-a-large-one": beside_a_large_one,
    "removals": removals,
    "uploads-to-two-workers": two_workers,
    "slowest-upload": slowest_upload,
    "bytes-written": bytes_written,
    "start-after-power-cut": start_after_power_cut,
}
