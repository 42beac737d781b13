"""Names, and the limits of areas: `python -m tests.proofs.names`. Needs wrk and nginx, as bin/bench does.

Large spaces are made without a daemon: rows as a daemon would have written them, and the objects that are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import shutil
import socket
import sqlite3
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from filestoraged.clock import SYSTEM_CLOCK
from filestoraged.store import layout
from filestoraged.store.limits import EVICTED_TO
from filestoraged.store.name_tables import NAME_ROWS, NAMES_SCHEMA
from filestoraged.store.path_identity import database_identity
from filestoraged.store.sqlite import database
from tests.bench.command import run
from tests.bench.contest import QUIET, Bench, timed
from tests.bench.figures import OURS, Figure, Goal, median
from tests.bench.load import ask, many_paths, run_wrk, uploads
from tests.bench.machine import CLIENT_CORE, MIB, cpu_seconds
from tests.bench.servers import nginx, ours
from tests.daemon.process import PATIENCE, Daemon
from tests.proofs.growth.stores import make_objects
from tests.watch import wait_for_change

KIB = 1024
CLIENTS = 32
IN_TURN = 20_000
MANY = 1_000_000

# Names of the large space that lead to the same object, in the measure of pages.
_NAMES_PER_OBJECT = 1000

# Seconds between two reads beside an eviction, and how many are measured alone.
_READ_INTERVAL = 0.01
_READS = 500


def downloads(bench: Bench) -> list[Figure]:
    """`GET` of a name, of an object by its digest, and of a file from nginx; the same of 20,000 in turn."""
    count = bench.part_of(IN_TURN)
    names = [f"{number % 100}/{number}" for number in range(count)]
    root = bench.directory / "served"
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(_body(name))
    with ours(bench.directory, *QUIET) as daemon, nginx(bench.directory, root) as other:
        with _connected(daemon) as client:
            for name in names:
                _ask(client, "PUT", f"/names/bench/{name}", _body(name))
            digest = json.loads(_ask(client, "POST", "/", _body(names[0])))["hash"]
        named = f"{daemon.url}/names/bench/{names[0]}"
        one = {"GET of a name": named, "GET /HEX": f"{daemon.url}/{digest}", "nginx": f"{other.url}/{names[0]}"}
        ours_in_turn = many_paths(bench.directory, "ours", [f"/names/bench/{name}" for name in names])
        nginx_in_turn = many_paths(bench.directory, "nginx", [f"/{name}" for name in names])
        return [
            bench.compare(
                f"GET 1 KiB, {CLIENTS} clients",
                "requests/s",
                {name: partial(_rate, bench, url) for name, url in one.items()},
                {"GET /HEX": 0.6, "nginx": 0.45},
            ),
            bench.compare(
                f"GET of {count:,} names in turn, {CLIENTS} clients",
                "requests/s",
                {
                    OURS: partial(_rate, bench, daemon.url, *ours_in_turn),
                    "nginx": partial(_rate, bench, other.url, *nginx_in_turn),
                },
                {"nginx": 0.4},
            ),
        ]


def puts(bench: Bench) -> list[Figure]:
    """`PUT` of new names with new bytes, beside `POST /`."""
    with ours(bench.directory, *QUIET) as daemon:

        def rate(method: str, path: str) -> float:
            arguments = uploads(bench.directory, KIB, method=method, path=path, named=method == "PUT")
            return run_wrk(daemon.url, 16, bench.seconds, *arguments).rate

        contenders = {"PUT of a name": partial(rate, "PUT", "/names/bench/"), "POST /": partial(rate, "POST", "/")}
        return [bench.compare("upload of 1 KiB, 16 clients", "requests/s", contenders, {"POST /": 0.6})]


def swaps(bench: Bench) -> list[Figure]:
    """Clients that count in one name by compare-and-swap: each reads the number, and replaces it by the next."""
    rates: list[float] = []
    counted: list[float] = []
    with ours(bench.directory, *QUIET) as daemon:
        os.sched_setaffinity(0, {CLIENT_CORE})
        for number in range(bench.rounds):
            path = f"/names/bench/count-{number}"
            with _connected(daemon) as client:
                _ask(client, "PUT", path, b"0")
            answered, swapped = _count_together(daemon, path, bench.seconds)
            final = int(urllib.request.urlopen(daemon.url + path).read())
            assert final == swapped, f"{swapped} swaps were acknowledged, and the number is {final}"
            rates.append(answered / bench.seconds)
            counted.append(swapped / bench.seconds)
    goal = Goal("requests/s", median(rates), 1500)
    samples = {"answered": rates, "succeeded": counted}
    return [Figure(f"compare-and-swap of one name, {CLIENTS} clients, none lost", "requests/s", samples, [goal])]


def _count_together(daemon: Daemon, path: str, seconds: int) -> tuple[int, int]:
    """How many swaps were answered, and how many of them succeeded."""
    statuses: list[int] = []
    stop = threading.Event()

    def count() -> None:
        with socket.create_connection(("127.0.0.1", daemon.ports[0]), PATIENCE) as connection:
            while not stop.is_set():
                # The ETag is the digest of the number: less work for the client, which shares its core with others.
                value = int(ask(connection, _request("GET", path)).rpartition(b"\r\n\r\n")[2])
                tag = hashlib.sha256(b"%d" % value).hexdigest()
                answer = ask(connection, _request("PUT", path, b"%d" % (value + 1), f'If-Match: "{tag}"\r\n'))
                statuses.append(int(answer[9:12]))

    threads = [threading.Thread(target=count) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 412}, set(statuses)
    return len(statuses), statuses.count(200)


def pages(bench: Bench) -> list[Figure]:
    """A page of 1,000 of 1,000,000 names, and the memory of a worker that serves them."""
    count = bench.part_of(MANY)
    _make_names(bench.directory / "store", count, per_object=_NAMES_PER_OBJECT)
    (bench.directory / "empty").mkdir()
    with ours(bench.directory / "empty", *QUIET) as empty, _connected(empty) as client:
        idle = _settled(client, empty)
    with ours(bench.directory, *QUIET) as daemon, _connected(daemon) as client:
        questions = ("", "prefix=5", "prefix=9/99", "after=7/8", "prefix=3/&after=3/5", "delimiter=/")
        samples = {
            question or "the first": [
                timed(partial(_ask, client, "GET", f"/names/bench?limit=1000&{question}")) * 1000
                for _ in range(3 * bench.rounds)
            ]
            for question in questions
        }
        after = ""
        while after is not None:
            after = json.loads(_ask(client, "GET", f"/names/bench?limit=1000&after={after}"))["next"]
        listed = (daemon.resident() - idle) / MIB
        # Fills the caches of requests and objects, which are as large where there are few names.
        run_wrk(daemon.url, CLIENTS, bench.seconds, *many_paths(bench.directory, "names", _sample_paths(count)))
        read = (daemon.resident() - idle) / MIB
    slowest = max(median(each) for each in samples.values())
    page = Goal("ms", slowest, 20, at_most=True)
    memory = Goal("MiB listed", listed, 5, at_most=True)
    above = {"listed": [listed], "20,000 of them read as well": [read]}
    return [
        Figure(f"a page of 1,000 of {count:,} names", "ms", samples, [page]),
        Figure(f"memory of a worker with {count:,} names, above idle", "MiB", above, [memory]),
    ]


def eviction(bench: Bench) -> list[Figure]:
    """`max-size` on 1,000,000 names: a tenth is removed with its objects, while a client reads others."""
    count, store = bench.part_of(MANY), bench.directory / "store"
    _make_names(store, count, files=count // 9)
    most = int(count * 0.99 * EVICTED_TO)
    rules = f"names/bench=max-size:{count * KIB * 99 // 100}"
    with ours(bench.directory, *QUIET, "--limit", rules) as daemon, _connected(daemon) as client:
        os.sched_setaffinity(0, {CLIENT_CORE})
        kept = _path_of(count - 1)
        _ask(client, "PUT", kept, b"kept")
        used = cpu_seconds(daemon.process.pid)
        answers: list[float] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.wait(_READ_INTERVAL):
                answers.append(timed(partial(_ask, client, "GET", kept)))

        reading = threading.Thread(target=read)
        reading.start()
        try:
            wait_for_change("a tenth is evicted with its objects", store, lambda: _is_evicted(store, most))
        finally:
            stop.set()
            reading.join()
        used = cpu_seconds(daemon.process.pid) - used
        evicted = count - _objects_of(store)
        cost = (used - len(answers) * _cost_of_a_read(client, daemon, kept)) / evicted * 1000
    slowest = max(answers) * 1000
    return [
        Figure(
            f"CPU time for each of {evicted:,.0f} names evicted of {count:,}, with its object",
            "ms",
            {OURS: [cost]},
            [Goal("ms", cost, 0.2, at_most=True)],
        ),
        Figure("slowest GET meanwhile", "ms", {OURS: [slowest]}, [Goal("ms", slowest, 50, at_most=True)]),
    ]


def _cost_of_a_read(client: http.client.HTTPConnection, daemon: Daemon, path: str) -> float:
    """CPU seconds, of reads at the same interval with nothing beside them."""
    used, pause = cpu_seconds(daemon.process.pid), threading.Event()
    for _ in range(_READS):
        pause.wait(_READ_INTERVAL)
        _ask(client, "GET", path)
    return (cpu_seconds(daemon.process.pid) - used) / _READS


def counting(bench: Bench) -> list[Figure]:
    """The first start with a limit for an area of 1,000,000 objects."""
    count = bench.part_of(MANY)
    store = bench.directory / "store"
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    os.umask(0o077)
    make_objects(store, count)
    os.sync()
    samples: dict[str, list[float]] = {"ready": [], "sizes known": []}
    for _ in range(bench.rounds):
        for path in store.glob(f"{layout.NAMES_DATABASE}*"):
            path.unlink()
        started = time.monotonic()
        with ours(bench.directory, *QUIET, "--limit", f"files=quota:{count * KIB}") as daemon:
            urllib.request.urlopen(f"{daemon.url}/-/ready").close()
            samples["ready"].append(time.monotonic() - started)
            wait_for_change("all objects are counted", store, lambda: _is_counted(daemon, count))
            samples["sizes known"].append(time.monotonic() - started)
    ready = Goal("s until ready", max(samples["ready"]), 2, at_most=True)
    known = Goal("s until all are counted", max(samples["sizes known"]), 60, at_most=True)
    return [Figure(f"first start with a quota for {count:,} objects", "s", samples, [ready, known])]


def _make_names(store: Path, count: int, *, per_object: int = 1, files: int | None = None) -> None:
    """`count` names of 100 folders, which lead to `count / per_object` objects of 1 KiB.

    The last is used last. Of the objects, the first `files` have bytes; without it, all.
    """
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    path = str(store / layout.NAMES_DATABASE)
    database.prepare(path, NAMES_SCHEMA)
    now = int(time.time())
    with contextlib.closing(_connect(path)) as connection:
        connection.execute("BEGIN")
        connection.executemany(
            """INSERT INTO names (path, space, oid, size, type, fields, modified, used)
                VALUES (?, 'bench', ?, ?, '', '', ?, ?)""",
            (
                (
                    _path_of(number)[len("/names/") :].encode(),
                    _oid(number // per_object),
                    KIB,
                    now,
                    now - count + number,
                )
                for number in range(count)
            ),
        )
        for statement in (*NAME_ROWS.clear, *NAME_ROWS.derive):
            connection.execute(statement)
        connection.execute("COMMIT")
    for number in range(count // per_object if files is None else files):
        file = store / layout.named_path(f"bench/{_oid(number)}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_body(str(number)))
    os.sync()


def _path_of(number: int) -> str:
    return f"/names/bench/{number % 100}/{number}"


def _body(name: str) -> bytes:
    return name.encode().ljust(KIB)


def _oid(number: int) -> str:
    return hashlib.sha256(_body(str(number))).hexdigest()


def _request(method: str, path: str, body: bytes = b"", fields: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body


def _sample_paths(count: int) -> list[str]:
    return [_path_of(number) for number in random.Random(0).sample(range(count), min(count, IN_TURN))]


def _rate(bench: Bench, url: str, *arguments: str) -> float:
    return run_wrk(url, CLIENTS, bench.seconds, *arguments).rate


@contextlib.contextmanager
def _connected(daemon: Daemon) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)) as client:
        yield client


def _ask(client: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> bytes:
    client.request(method, path, body)
    response = client.getresponse()
    answer = response.read()
    assert response.status in (200, 201), (response.status, answer)
    return answer


def _settled(client: http.client.HTTPConnection, daemon: Daemon) -> int:
    """The memory of a worker that has answered a request for a name, in bytes."""
    _ask(client, "PUT", "/names/bench/a", b"a")
    _ask(client, "GET", "/names/bench/a")
    return daemon.resident()


def _is_evicted(store: Path, most: int) -> bool:
    """Whether a space has at most so many objects, and none without a name that was not removed yet."""
    if _objects_of(store) > most:
        return False
    with contextlib.closing(_connect(str(store / layout.NAMES_DATABASE))) as connection:
        return not connection.execute("SELECT 1 FROM stored WHERE names IN (0, -1) LIMIT 1").fetchall()


def _objects_of(store: Path) -> int:
    with contextlib.closing(_connect(str(store / layout.NAMES_DATABASE))) as connection:
        ((objects,),) = connection.execute("SELECT objects FROM areas WHERE area = 'names/bench'")
        return int(objects)


def _connect(path: str) -> sqlite3.Connection:
    return database.connect_identified(database_identity(path), SYSTEM_CLOCK)


def _is_counted(daemon: Daemon, count: int) -> bool:
    metrics = urllib.request.urlopen(f"{daemon.url}/-/metrics").read().decode()
    return f'\nfilestoraged_area_objects{{area="files"}} {count}\n' in metrics


if __name__ == "__main__":
    measures = {
        "downloads": downloads,
        "puts": puts,
        "swaps": swaps,
        "pages": pages,
        "eviction": eviction,
        "counting": counting,
    }
    sys.exit(run("tests.proofs.names", measures, rounds=3))
