"""The daemon on an S3 store beside the store itself: rates of uploads and downloads, and memory with 2 GiB.

    python3 -m tests.proofs.s3 [URL]

Both are asked in turn, by the same program with as many connections, in rounds; ratios are of medians. The store gets
presigned requests, whose bytes it neither hashes nor compares: that is its own rate. Without a URL, `rclone serve s3`
is started; with one, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are those of the store. Requires curl.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from filestoraged.store.layout import object_path
from tests.daemon.process import Daemon, running
from tests.store.s3.servers import REGION, Rclone
from tests.support import find_program, in_threads

MIB = 1024 * 1024
ROUNDS = 5
GOAL = 0.8
MEMORY_GOAL = 25 * MIB
LARGE = 2048 * MIB

# Seconds for which a presigned request is valid.
_VALID = 3600

_COPY_SIZE = 256 * 1024


class Gateway(NamedTuple):
    """An S3 store, and what signs requests to it."""

    url: str
    credentials: Credentials

    def presigned(self, method: str, key: str) -> str:
        request = AWSRequest(method, f"{self.url}/{key}")
        S3SigV4QueryAuth(self.credentials, "s3", REGION, expires=_VALID).add_auth(request)
        return str(request.url)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": str(self.credentials.access_key),
            "AWS_SECRET_ACCESS_KEY": str(self.credentials.secret_key),
        }


class Load(NamedTuple):
    """So many requests with bodies of `size` bytes, on so many connections."""

    size: int
    requests: int
    connections: int

    def __str__(self) -> str:
        size = f"{self.size // MIB} MiB" if self.size >= MIB else f"{self.size // 1024} KiB"
        return f"{size:>7} x {self.connections}"


class FastRclone(Rclone):
    """Without ETags, for which it would read an object to its end before it sends the first byte."""

    def command(self) -> list[str]:
        *command, directory = super().command()
        return [*command, "--etag-hash", "", directory]


LOADS = (Load(1024, 400, 4), Load(MIB, 48, 1), Load(MIB, 48, 4), Load(512 * MIB, 1, 1))


def main(url: str | None) -> bool:
    """Print the figures. Returns whether all reach their goals."""
    if url is not None:
        keys = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
        return prove(Gateway(url.rstrip("/"), keys))
    server = FastRclone()
    try:
        return prove(Gateway(server.make_bucket().url, Credentials(server.access_key, server.secret_key)))
    finally:
        server.kill()


def prove(gateway: Gateway) -> bool:
    with tempfile.TemporaryDirectory(prefix="filestoraged-proof-") as directory:
        store = str(Path(directory, "store"))
        arguments = ("--s3", gateway.url, "--store", store, "--log-level", "warning")
        with running(*arguments, "--log-level", "info", environment=gateway.environment) as daemon:
            print(f"requests/s, medians of {ROUNDS} rounds; the store's own and the daemon's:")
            good = [prove_rates(gateway, daemon, load) for load in LOADS]
        with running(*arguments, "--log-level", "info", "--workers", "1", environment=gateway.environment) as daemon:
            return all([*good, prove_memory(daemon, Path(directory))])


def prove_rates(gateway: Gateway, daemon: Daemon, load: Load) -> bool:
    bodies = [os.urandom(32) + bytes(load.size - 32) for _ in range(load.requests)]
    digests = [hashlib.sha256(body).hexdigest() for body in bodies]
    keys = [object_path(digest) for digest in digests]
    plain = f"{daemon.url}/"
    puts = [gateway.presigned("PUT", f"plain/{key}") for key in keys]
    gets = [gateway.presigned("GET", f"plain/{key}") for key in keys]
    announced = [f"{daemon.url}/?hash={digest}" for digest in digests]
    downloads = [f"{daemon.url}/{digest}" for digest in digests]
    figures = medians_in_turn(
        [
            lambda: transfer("PUT", puts, bodies, load.connections),
            lambda: transfer("POST", [plain] * len(bodies), bodies, load.connections),
            lambda: transfer("POST", announced, bodies, load.connections),
            lambda: transfer("GET", gets, [], load.connections),
            lambda: transfer("GET", downloads, [], load.connections),
        ]
    )
    put, post, streamed, get, download = (load.requests / seconds for seconds in figures)
    print(
        f"  {load}: upload {put:8.1f}, {post:8.1f} ({post / put:.2f}), announced {streamed:8.1f} ({streamed / put:.2f})"
    )
    print(f"  {'':11}  download {get:8.1f}, {download:8.1f} ({download / get:.2f})")
    return load.size < MIB or min(post / put, streamed / put, download / get) >= GOAL


def prove_memory(daemon: Daemon, directory: Path) -> bool:
    file = directory / "large"
    with open(file, "wb") as stream:
        os.truncate(stream.fileno(), LARGE)
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while piece := stream.read(_COPY_SIZE):
            digest.update(piece)
    curl = [find_program("curl"), "-sSf", "-o", os.devnull]
    subprocess.run([*curl, "--data-binary", "tea", daemon.url], check=True)
    idle = daemon.resident()
    for target in ("/data/large", f"/data/large?hash={digest.hexdigest()}"):
        subprocess.run([*curl, "-T", str(file), f"{daemon.url}{target}"], check=True)
    uploading = daemon.resident("VmHWM") - idle
    subprocess.run([*curl, f"{daemon.url}/data/large/{digest.hexdigest()}"], check=True)
    in_total = daemon.resident("VmHWM") - idle
    subprocess.run([*curl, "-X", "DELETE", f"{daemon.url}/data/large/{digest.hexdigest()}"], check=True)
    print("memory of a worker during uploads of 2 GiB, staged and streamed, and a download:")
    print(f"  idle {idle / MIB:.1f} MiB; uploads {uploading / MIB:.1f} MiB more, all {in_total / MIB:.1f} MiB more")
    return in_total <= MEMORY_GOAL


def medians_in_turn(works: Sequence[Callable[[], object]]) -> list[float]:
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for work, taken in zip(works, seconds):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
    return [statistics.median(each) for each in seconds]


def transfer(method: str, urls: Sequence[str], bodies: Sequence[bytes], connections: int) -> None:
    """Send the requests, with these bodies if there are some, and read the answers."""

    def take(first: int) -> None:
        parts = urlsplit(urls[0])
        client = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)
        for number in range(first, len(urls), connections):
            target = urls[number][len(f"{parts.scheme}://{parts.netloc}") :]
            client.request(method, target, bodies[number] if bodies else None)
            answer = client.getresponse()
            while answer.read(_COPY_SIZE):
                pass
            if answer.status >= 300:
                raise RuntimeError(f"{method} {target} answers {answer.status}")
        client.close()

    in_threads(connections, take)


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1] if len(sys.argv) > 1 else None) else 1)
