"""Resumable uploads: what cuts cost, the rate beside POST, and uploads that nobody continues.

python -m tests.proofs.uploads
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from tests.bench.command import run
from tests.bench.contest import Bench, timed
from tests.bench.figures import Figure, Goal
from tests.bench.machine import MIB
from tests.cutting_proxy import CuttingProxy
from tests.daemon.process import PATIENCE, Daemon, running
from tests.tus import OCTETS, VERSION

# Of the upload that is cut, in bytes; and how often it is cut.
CUT_SIZE = 1024 * MIB
CUTS = 20

# Of the uploads that are compared, and of a piece of them, in bytes.
SIZE = 512 * MIB
PIECE = 64 * MIB

ABANDONED = 10_000

# Bytes that a client sends at once.
_BLOCK = 256 * 1024


def cuts(bench: Bench) -> list[Figure]:
    """Upload through a proxy that cuts, with a restart in the middle and a kill later."""
    store, block, size = str(bench.directory / "cuts"), os.urandom(MIB), bench.part_of(CUT_SIZE // MIB) * MIB
    digest = hashlib.sha256()
    for _ in range(size // MIB):
        digest.update(block)
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(running("--store", store, "--workers", "2"))
        proxy = stack.enter_context(CuttingProxy(daemon.ports[0], every=size // (CUTS + 1), cuts=CUTS, waits=False))
        port = int(proxy.url.rpartition(":")[2])
        path = create(daemon, size)
        offset = 0
        stops: list[tuple[int, Callable[[Daemon], object]]] = [(size // 3, Daemon.stop), (2 * size // 3, Daemon.kill)]
        while offset < size:
            with contextlib.suppress(OSError, http.client.HTTPException):
                append(port, path, offset, size, block)
            if stops and offset >= stops[0][0]:
                stops.pop(0)[1](daemon)
                daemon = stack.enter_context(running("--store", store, "--workers", "2"))
                proxy.server_port = daemon.ports[0]
            offset = find_offset(daemon, path)
        named = head(daemon, path)["Content-Location"]
    assert named == f"/{digest.hexdigest()}", named
    goal = Goal("of the size", proxy.sent / size, 1.05, at_most=True)
    return [Figure(f"{proxy.cuts} cuts, a restart and a kill: sent", "MiB", {"tus": [proxy.sent / MIB]}, [goal])]


def speed(bench: Bench) -> list[Figure]:
    """One client, by POST, and by pieces on one connection."""
    with running("--store", str(bench.directory / "speed"), "--workers", "2") as daemon:
        contenders = {
            "tus, pieces of 64 MiB": partial(_in_pieces, bench, daemon),
            "POST": partial(_post, bench, daemon),
        }
        return [bench.compare("upload of 512 MiB", "MiB/s", contenders, {"POST": 0.85})]


def _post(bench: Bench, daemon: Daemon) -> float:
    # Other bytes each time: an object that exists would be replaced.
    block, size = os.urandom(MIB), bench.part_of(SIZE)
    fields, body = {"Content-Length": str(size)}, repeated(block, 0, size)
    return size / MIB / timed(lambda: ask(daemon.ports[0], "POST", "/", fields, body))


def _in_pieces(bench: Bench, daemon: Daemon) -> float:
    block, size, piece = os.urandom(MIB), bench.part_of(SIZE), bench.part_of(PIECE)

    def send() -> None:
        path = create(daemon, size)
        client = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
        with contextlib.closing(client):
            for offset in range(0, size, piece):
                stop = min(size, offset + piece)
                fields = {"Tus-Resumable": VERSION, "Upload-Offset": str(offset), "Content-Type": OCTETS}
                body = repeated(block, offset, stop)
                client.request("PATCH", path, body, {**fields, "Content-Length": str(stop - offset)})
                response = client.getresponse()
                response.read()
                assert response.status == 204, response.status

    return size / MIB / timed(send)


def abandoned(bench: Bench) -> list[Figure]:
    store = bench.directory / "abandoned"
    with running("--store", str(store), "--workers", "1") as daemon:
        create(daemon, 1)
        before = daemon.resident()
        client = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
        for _ in range(bench.part_of(ABANDONED)):
            client.request("POST", "/uploads", headers={"Tus-Resumable": VERSION, "Upload-Length": "1000000"})
            client.getresponse().read()
        client.close()
        grown = (daemon.resident() - before) / MIB
    started = time.monotonic()
    with running("--store", str(store), "--workers", "1"):
        restart = time.monotonic() - started
    assert not (store / "uploads").exists() or not list((store / "uploads").iterdir())
    goals = [Goal("MiB", grown, 16.0, at_most=True), Goal("s for a start", restart, 2.0, at_most=True)]
    return [Figure(f"memory after {ABANDONED:,} uploads were begun and left", "MiB", {"above idle": [grown]}, goals)]


def create(daemon: Daemon, length: int) -> str:
    answer = ask(daemon.ports[0], "POST", "/uploads", {"Upload-Length": str(length)})
    return answer["Location"]


def head(daemon: Daemon, path: str) -> http.client.HTTPMessage:
    return ask(daemon.ports[0], "HEAD", path, {})


def find_offset(daemon: Daemon, path: str) -> int:
    """Ask until no other request holds the upload."""
    while True:
        with contextlib.suppress(KeyError, TypeError):
            return int(head(daemon, path)["Upload-Offset"])
        time.sleep(0.01)


def append(port: int, path: str, offset: int, size: int, block: bytes) -> http.client.HTTPMessage:
    fields = {"Upload-Offset": str(offset), "Content-Type": OCTETS, "Content-Length": str(size - offset)}
    return ask(port, "PATCH", path, fields, body=repeated(block, offset, size))


def ask(
    port: int, method: str, path: str, fields: dict[str, str], body: Iterator[bytes] | None = None
) -> http.client.HTTPMessage:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(client):
        client.request(method, path, body, {"Tus-Resumable": VERSION, **fields})
        response = client.getresponse()
        response.read()
        return response.headers


def repeated(block: bytes, start: int, stop: int) -> Iterator[bytes]:
    """The bytes from `start` to `stop` of a file that repeats the block."""
    view = memoryview(block)
    while start < stop:
        within = start % len(block)
        size = min(_BLOCK, stop - start, len(block) - within)
        yield bytes(view[within : within + size])
        start += size


if __name__ == "__main__":
    sys.exit(run("tests.proofs.uploads", {"cuts": cuts, "speed": speed, "abandoned": abandoned}))
