"""Resumable uploads: what cuts cost, the speed beside POST, and uploads that nobody continues.

    python3 -m tests.proofs.uploads [DIRECTORY]

DIRECTORY holds all files, including the store: its disk determines the speeds.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cutting_proxy import CuttingProxy
from tests.daemon.process import PATIENCE, Daemon, running
from tests.tus import OCTETS, VERSION

MIB = 1024 * 1024

# Of the upload that is cut, in bytes; how often it is cut; and the greatest share that may be sent.
CUT_SIZE = 1024 * MIB
CUTS = 20
MAX_SENT = 1.05

# Of the uploads that are compared, in bytes; the size of a piece; rounds; and the least share of POST's speed.
SIZE = 512 * MIB
PIECE = 64 * MIB
ROUNDS = 5
MIN_SPEED = 0.85

ABANDONED = 10_000

# Bytes that a client sends at once.
_BLOCK = 256 * 1024


def main(directory: Path) -> bool:
    """Print the figures. Returns whether all reach their goals."""
    block = os.urandom(MIB)
    return all([prove_cuts(directory, block), prove_speed(directory, block), prove_abandoned(directory)])


def prove_cuts(directory: Path, block: bytes) -> bool:
    """Upload through a proxy that cuts, with a restart in the middle and a kill later."""
    store = str(directory / "cuts")
    digest = hashlib.sha256()
    for _ in range(CUT_SIZE // MIB):
        digest.update(block)
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(running("--store", store, "--workers", "2"))
        proxy = stack.enter_context(CuttingProxy(daemon.ports[0], every=CUT_SIZE // (CUTS + 1), cuts=CUTS, waits=False))
        port = int(proxy.url.rpartition(":")[2])
        path = create(daemon, CUT_SIZE)
        offset, answer = 0, http.client.HTTPMessage()
        stops = [(CUT_SIZE // 3, Daemon.stop), (2 * CUT_SIZE // 3, Daemon.kill)]
        while offset < CUT_SIZE:
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = append(port, path, offset, CUT_SIZE, block)
            if stops and offset >= stops[0][0]:
                stops.pop(0)[1](daemon)
                daemon = stack.enter_context(running("--store", store, "--workers", "2"))
                proxy.server_port = daemon.ports[0]
            offset = find_offset(daemon, path)
        named = head(daemon, path)["Content-Location"]
    shutil.rmtree(store)
    share = proxy.sent / CUT_SIZE
    whole = named == f"/{digest.hexdigest()}"
    print(f"{CUTS} cuts, a restart and a kill in 1 GiB: sent {share:.4f} of its size (at most {MAX_SENT});", end=" ")
    print(f"{proxy.cuts} cuts; the bytes are equal: {whole}", flush=True)
    return whole and share <= MAX_SENT and proxy.cuts == CUTS and answer is not None


def prove_speed(directory: Path, block: bytes) -> bool:
    """One client, uploads in turn: by POST, and by pieces on one connection."""
    times: dict[str, list[float]] = {"POST": [], "tus": []}
    store = directory / "speed"
    with running("--store", str(store), "--workers", "2") as daemon:
        for number in range(ROUNDS):
            for kind, upload in (("POST", post), ("tus", upload_in_pieces)):
                # Other bytes each time: an object that exists would be replaced.
                own = f"{kind} {number}".encode() + block
                started = time.monotonic()
                upload(daemon, own[:MIB])
                times[kind].append(time.monotonic() - started)
    shutil.rmtree(store)
    rates = {kind: SIZE / MIB / statistics.median(each) for kind, each in times.items()}
    share = rates["tus"] / rates["POST"]
    print(f"512 MiB: POST {rates['POST']:.0f} MiB/s, tus in 64 MiB pieces {rates['tus']:.0f} MiB/s:", end=" ")
    print(f"{share:.2f} (at least {MIN_SPEED})", flush=True)
    return share >= MIN_SPEED


def prove_abandoned(directory: Path) -> bool:
    store = directory / "abandoned"
    with running("--store", str(store), "--workers", "1") as daemon:
        create(daemon, 1)
        before = daemon.resident()
        client = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
        started = time.monotonic()
        for _ in range(ABANDONED):
            client.request("POST", "/uploads", headers={"Tus-Resumable": VERSION, "Upload-Length": "1000000"})
            client.getresponse().read()
        seconds = time.monotonic() - started
        grown = daemon.resident() - before
    started = time.monotonic()
    with running("--store", str(store), "--workers", "1"):
        restart = time.monotonic() - started
    files = len(list((store / "uploads").iterdir())) if (store / "uploads").exists() else 0
    shutil.rmtree(store)
    print(f"{ABANDONED:,} uploads begun and left, in {seconds:.0f} s: {grown / MIB:.1f} MiB more memory,", end=" ")
    print(f"{files} files, start in {restart:.2f} s", flush=True)
    return grown < 16 * MIB and not files


# Requests.


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


def post(daemon: Daemon, block: bytes) -> None:
    ask(daemon.ports[0], "POST", "/", {"Content-Length": str(SIZE)}, repeated(block, 0, SIZE))


def upload_in_pieces(daemon: Daemon, block: bytes) -> None:
    path = create(daemon, SIZE)
    client = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
    with contextlib.closing(client):
        for offset in range(0, SIZE, PIECE):
            fields = {"Tus-Resumable": VERSION, "Upload-Offset": str(offset), "Content-Type": OCTETS}
            body = repeated(block, offset, offset + PIECE)
            client.request("PATCH", path, body, {**fields, "Content-Length": str(PIECE)})
            response = client.getresponse()
            response.read()
            assert response.status == 204, response.status


def repeated(block: bytes, start: int, stop: int) -> Iterator[bytes]:
    """The bytes from `start` to `stop` of a file that repeats the block."""
    view = memoryview(block)
    while start < stop:
        within = start % len(block)
        size = min(_BLOCK, stop - start, len(block) - within)
        yield bytes(view[within : within + size])
        start += size


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=(sys.argv[1:] or [None])[0], prefix="uploads-") as temporary:
        sys.exit(0 if main(Path(temporary)) else 1)
