"""The daemon on an S3 store beside the store itself: `python -m tests.proofs.s3`. Requires curl.

The store gets presigned requests, whose bytes it neither hashes nor compares: that is its own rate. With S3_URL in the
environment, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are those of that store; else `rclone serve s3` is started.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from filestoraged.store.layout import object_path
from tests.bench.command import run
from tests.bench.contest import Bench, timed, write_new
from tests.bench.figures import Figure, Goal
from tests.bench.machine import MIB
from tests.daemon.process import running
from tests.store.s3.servers import REGION, Rclone
from tests.support import find_program, in_threads

# Sizes of bodies, requests, and connections.
LOADS = ((1024, 400, 4), (MIB, 48, 1), (MIB, 48, 4), (512 * MIB, 1, 1))

# The least part of the store's own rate, for larger ones.
GOAL = 0.8

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


class FastRclone(Rclone):
    """Without ETags, for which it would read an object to its end before it sends the first byte."""

    def command(self) -> list[str]:
        *command, directory = super().command()
        return [*command, "--etag-hash", "", directory]


@contextlib.contextmanager
def _gateway() -> Iterator[Gateway]:
    if url := os.environ.get("S3_URL"):
        keys = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
        yield Gateway(url.rstrip("/"), keys)
        return
    server = FastRclone()
    try:
        yield Gateway(server.make_bucket().url, Credentials(server.access_key, server.secret_key))
    finally:
        server.kill()


def rates(bench: Bench) -> list[Figure]:
    with _gateway() as gateway:
        options = ("--s3", gateway.url, "--store", str(bench.directory / "store"))
        with running(*options, environment=gateway.environment) as daemon:
            return [figure for load in LOADS for figure in _compare(bench, gateway, daemon.url, load)]


def _compare(bench: Bench, gateway: Gateway, url: str, load: tuple[int, int, int]) -> list[Figure]:
    size, count, connections = load
    bodies = [os.urandom(32) + bytes(bench.part_of(size)) for _ in range(count)]
    digests = [hashlib.sha256(body).hexdigest() for body in bodies]
    keys = [f"plain/{object_path(digest)}" for digest in digests]

    def rate(method: str, urls: Sequence[str], bodies: Sequence[bytes]) -> float:
        return count / timed(partial(_transfer, method, urls, bodies, connections))

    uploads = {
        "POST": partial(rate, "POST", [f"{url}/"] * count, bodies),
        "announced": partial(rate, "POST", [f"{url}/?hash={digest}" for digest in digests], bodies),
        "store": partial(rate, "PUT", [gateway.presigned("PUT", key) for key in keys], bodies),
    }
    downloads = {
        "GET": partial(rate, "GET", [f"{url}/{digest}" for digest in digests], []),
        "store": partial(rate, "GET", [gateway.presigned("GET", key) for key in keys], []),
    }
    name, least = f"{size // 1024:,} KiB, {connections} connections", {"store": GOAL} if size >= MIB else {}
    return [
        bench.compare(f"upload of {name}", "requests/s", uploads, least),
        bench.compare(f"download of {name}", "requests/s", downloads, least),
    ]


def memory(bench: Bench) -> list[Figure]:
    """A worker, while 2 GiB are staged, streamed and downloaded."""
    file = bench.directory / "large"
    write_new(file, bench.part_of(LARGE))
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    curl = [find_program("curl"), "-sSf", "-o", os.devnull]
    with _gateway() as gateway:
        options = ("--s3", gateway.url, "--store", str(bench.directory / "store"), "--workers", "1")
        with running(*options, environment=gateway.environment) as daemon:
            subprocess.run([*curl, "--data-binary", "tea", daemon.url], check=True)
            idle, url = daemon.resident(), f"{daemon.url}/data/large"
            for arguments in (("-T", file, url), ("-T", file, f"{url}?hash={digest}"), (f"{url}/{digest}",)):
                subprocess.run([*curl, *arguments], check=True)
            used = (daemon.resident("VmHWM") - idle) / MIB
            subprocess.run([*curl, "-X", "DELETE", f"{url}/{digest}"], check=True)
    goal = Goal("MiB above idle", used, 25.0, at_most=True)
    return [Figure("memory while 2 GiB go to the store and back", "MiB", {"above idle": [used]}, [goal])]


def _transfer(method: str, urls: Sequence[str], bodies: Sequence[bytes], connections: int) -> None:
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
    sys.exit(run("tests.proofs.s3", {"rates": rates, "memory": memory}))
