"""Git LFS: batches, listings, and pushes beside giftless: `python -m tests.proofs.lfs`.

GIFTLESS is the gunicorn of a virtual environment that has giftless with PyJWT below 2.10; without it, nothing is pushed
to giftless.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import requests

from tests.bench.command import run
from tests.bench.contest import QUIET, Bench, timed
from tests.bench.figures import Figure, Goal, median
from tests.bench.machine import CLIENT_CORE, cpu_seconds
from tests.bench.servers import ours, wait_until_listening
from tests.daemon.process import PATIENCE, Daemon, clean_environment, running
from tests.proofs.growth.stores import make_repository_of
from tests.support import free_port

OBJECTS = 1_000_000
FILES, FILE_SIZE = 2_000, 10 * 1024
# Each directory is read once before, as it is on a machine that has been up for long.
WARM_UP, ASKED = 256, 300
# Everybody may push, and links are valid for an hour: its default of a minute is short for a busy machine.
GIFTLESS_CONFIGURATION = {
    "AUTH_PROVIDERS": ["giftless.auth.allow_anon:read_write"],
    "PRE_AUTHORIZED_ACTION_PROVIDER": {"options": {"default_lifetime": 3600}},
}


def batch(bench: Bench) -> list[Figure]:
    """A batch of 100 objects that are there."""
    with ours(bench.directory, *QUIET) as daemon:
        objects = []
        for number in range(100):
            data = f"object {number}".encode()
            requests.put(f"{daemon.url}/data/game", data=data, timeout=PATIENCE).raise_for_status()
            objects.append({"oid": hashlib.sha256(data).hexdigest(), "size": len(data)})
        figures = []
        for operation in ("download", "upload"):
            body = json.dumps({"operation": operation, "objects": objects}).encode()
            ask = partial(_times, daemon, "POST", lambda _: "/data/game/objects/batch", body)
            figures.append(_figure(bench, f"batch of 100 objects, {operation}", ask))
    return figures


def listing(bench: Bench) -> list[Figure]:
    """Pages of 1,000 objects, from all over a repository of a million."""
    make_repository_of(bench.directory / "store", "large", bench.part_of(OBJECTS))
    with ours(bench.directory, *QUIET) as daemon:
        ask = partial(_times, daemon, "GET", lambda number: f"/data/large?after={number % 256:02x}{'0' * 62}", None)
        return [_figure(bench, "page of 1,000 objects", ask)]


def _figure(bench: Bench, name: str, ask: Callable[[], tuple[float, float, float]]) -> Figure:
    seen = [ask() for _ in range(bench.rounds)]
    samples = {what: [each[n] for each in seen] for n, what in enumerate(("median", "99 %", "CPU time"))}
    return Figure(name, "ms", samples, [Goal("ms", median(samples["median"]), 20.0, at_most=True)])


def _times(daemon: Daemon, method: str, path: Callable[[int], str], body: bytes | None) -> tuple[float, float, float]:
    """The median time of a request as its client sees it, that of the slowest hundredth, and the daemon's CPU time."""
    client = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
    os.sched_setaffinity(0, {CLIENT_CORE})

    def ask(number: int) -> None:
        client.request(method, path(number), body)
        answer = client.getresponse()
        answer.read()
        assert answer.status == 200, answer.status

    for number in range(WARM_UP):
        ask(number)
    used = cpu_seconds(daemon.process.pid)
    times = sorted(timed(partial(ask, number)) * 1000 for number in range(ASKED))
    client.close()
    used = (cpu_seconds(daemon.process.pid) - used) / ASKED * 1000
    return statistics.median(times), times[ASKED * 99 // 100], used


def push(bench: Bench) -> list[Figure]:
    """Pushes of 2,000 files of 10 KiB to the daemon and to giftless."""
    with (
        running("--store", str(bench.directory / "pushed")) as daemon,
        giftless(bench.directory) as other,
    ):
        clone = make_repository(bench.directory, bench.part_of(FILES))
        urls = {"filestoraged": f"{daemon.url}/data/game", **({"giftless": f"{other}/org/game"} if other else {})}
        count = bench.part_of(FILES)
        contenders = {name: partial(_push_rate, clone, url, count) for name, url in urls.items()}
        return [bench.compare(f"git lfs push of {count:,} files", "files/s", contenders, {"giftless": 1.0})]


def make_repository(within: Path, count: int) -> Path:
    (within / "clone").mkdir()
    (within / ".gitconfig").write_text("[user]\nname = x\nemail = x@example.org\n[init]\ndefaultBranch = main\n")
    clone = within / "clone"
    for command in (["init", "--quiet"], ["lfs", "install", "--local"], ["lfs", "track", "*.bin"]):
        git(clone, *command)
    for number in range(count):
        (clone / f"{number}.bin").write_bytes(os.urandom(FILE_SIZE))
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "Add")
    git(clone, "remote", "add", "origin", str(within))
    # giftless may refuse a link within the second in which it made it; then git-lfs tries again.
    git(clone, "config", "lfs.transfer.maxretries", "100")
    return clone


def _push_rate(clone: Path, url: str, count: int) -> float:
    git(clone, "config", "lfs.url", f"{url}{time.time_ns()}")
    return count / timed(lambda: git(clone, "lfs", "push", "origin", "main"))


def git(clone: Path, *arguments: str) -> None:
    environment = {**clean_environment(), "HOME": str(clone.parent), "GIT_CONFIG_NOSYSTEM": "1"}
    # git-lfs would write its progress over other output.
    done = subprocess.run(["git", *arguments], cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-1000:]


@contextlib.contextmanager
def giftless(within: Path) -> Iterator[str | None]:
    """Run giftless with as many workers as the daemon has by default. It does not sync what it stores."""
    gunicorn = os.environ.get("GIFTLESS")
    if gunicorn is None:
        yield None
        return
    port = free_port()
    (within / "giftless").mkdir()
    workers = str(len(os.sched_getaffinity(0)))
    command = [gunicorn, "--workers", workers, "--threads", "16", "--bind", f"127.0.0.1:{port}"]
    environment = {**os.environ, "GIFTLESS_CONFIG_STR": json.dumps(GIFTLESS_CONFIGURATION)}
    with open(within / "giftless.log", "wb") as log:
        process = subprocess.Popen(
            [*command, "giftless.wsgi_entrypoint:app"], cwd=within / "giftless", env=environment, stderr=log, stdout=log
        )
    try:
        wait_until_listening(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


if __name__ == "__main__":
    sys.exit(run("tests.proofs.lfs", {"batch": batch, "listing": listing, "push": push}, rounds=2))
