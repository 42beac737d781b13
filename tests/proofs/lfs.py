"""Git LFS: batches, pushes beside giftless, listings and races for a lock.

python3 -m tests.proofs.lfs DIRECTORY [PART...]

The parts are `batch`, `push`, `listing` and `locks`. A repository of 1,000,000 objects is made in the directory at the
first listing, and used again. GIFTLESS is the gunicorn of a virtual environment that has giftless with PyJWT below
2.10; without it, nothing is pushed to giftless.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench.machine import CLIENT_CORE, cpu_seconds
from tests.bench.servers import ours, wait_until_listening
from tests.daemon.process import PATIENCE, Daemon, clean_environment, running
from tests.support import free_port, in_threads

OBJECTS = 1_000_000
FILES, FILE_SIZE = 2_000, 10 * 1024
CLIENTS = 32
WARM_UP = 256
# Everybody may push, and links are valid for an hour: its default of a minute is short for a busy machine.
GIFTLESS_CONFIGURATION = {
    "AUTH_PROVIDERS": ["giftless.auth.allow_anon:read_write"],
    "PRE_AUTHORIZED_ACTION_PROVIDER": {"options": {"default_lifetime": 3600}},
}
ROUNDS = 2


def main(directory: Path, parts: list[str]) -> None:
    for part in parts or list(PARTS):
        PARTS[part](directory)


def batch(directory: Path) -> None:
    """Measure a batch of 100 objects that are there; the server has a core of its own."""
    os.sched_setaffinity(0, {CLIENT_CORE})
    with scratch(directory) as within, ours(within, "--log-level", "warning") as daemon:
        objects = []
        for number in range(100):
            data = f"object {number}".encode()
            send(daemon, "PUT", "/data/game", data)
            objects.append({"oid": hashlib.sha256(data).hexdigest(), "size": len(data)})
        for operation in ("download", "upload"):
            body = json.dumps({"operation": operation, "objects": objects}).encode()
            report(f"batch of 100 objects, {operation}", daemon, "POST", "/data/game/objects/batch", body)


def listing(directory: Path) -> None:
    """Measure pages of 1,000 objects, from all over a repository of a million."""
    os.sched_setaffinity(0, {CLIENT_CORE})
    repository = directory / "store" / "repositories" / "large"
    if not repository.is_dir():
        fill(repository)
    with ours(directory, "--log-level", "warning") as daemon:
        report("page of 1,000 objects", daemon, "GET", lambda number: f"/data/large?after={number % 256:02x}{'0' * 62}")


def fill(repository: Path) -> None:
    for shard in range(256):
        (repository / f"{shard:02x}").mkdir(parents=True)
    for number in range(OBJECTS):
        oid = hashlib.sha256(str(number).encode()).hexdigest()
        os.close(os.open(repository / oid[:2] / oid, os.O_WRONLY | os.O_CREAT, 0o600))


def report(name: str, daemon: Daemon, method: str, path: Any, body: bytes | None = None) -> None:
    """Print the time of a request, as its client sees it, and the CPU time that it takes the daemon."""
    client = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
    times = []
    # Each directory is read once before, as it is on a machine that has been up for long.
    for number in range(WARM_UP + 300):
        if number == WARM_UP:
            used = cpu_seconds(daemon.process.pid)
        started = time.perf_counter()
        client.request(method, path(number) if callable(path) else path, body)
        answer = client.getresponse()
        assert answer.status == 200 and len(answer.read()) > 1000
        times.append(time.perf_counter() - started)
    used = (cpu_seconds(daemon.process.pid) - used) / 300
    times = sorted(times[WARM_UP:])
    milliseconds = [1000 * each for each in (statistics.median(times), times[297], used)]
    print(
        "{}: median {:.2f} ms, 99 % at most {:.2f} ms, {:.2f} ms of the daemon's CPU time".format(name, *milliseconds)
    )


def locks(directory: Path) -> None:
    """Let 32 clients race for one lock, of a daemon with four workers."""
    won = []
    with scratch(directory) as within, running("--store", str(within / "store"), "--workers", "4") as daemon:
        for path in range(20):
            body = json.dumps({"path": f"file {path}"}).encode()
            statuses = in_threads(CLIENTS, lambda _, body=body: send(daemon, "POST", "/data/game/locks", body))
            assert set(statuses) <= {201, 409}, statuses
            won.append(statuses.count(201))
    print(
        f"{CLIENTS} clients, {len(won)} races for a lock: {won.count(1)} with one 201, {len(won) - won.count(1)} others"
    )


def push(directory: Path) -> None:
    """Push 2,000 files of 10 KiB to the daemon and to giftless, in turns."""
    with scratch(directory) as within, running("--store", str(within / "store")) as daemon, giftless(within) as other:
        clone = make_repository(within)
        urls = {"filestoraged": f"{daemon.url}/data/game"}
        if other:
            urls["giftless"] = f"{other}/org/game"
        seconds: dict[str, list[float]] = {name: [] for name in urls}
        for number in range(ROUNDS):
            for name, url in urls.items():
                seconds[name].append(push_to(clone, url + str(number)))
    for name, each in seconds.items():
        print(
            f"git lfs push of {FILES} files to {name}: {statistics.median(each):.2f} s"
            f" ({min(each):.2f} to {max(each):.2f})"
        )
    if other:
        ratios = [ours_ / theirs for ours_, theirs in zip(seconds["filestoraged"], seconds["giftless"])]
        print(f"filestoraged takes {statistics.median(ratios):.2f} of the time of giftless")


def make_repository(within: Path) -> Path:
    (within / "clone").mkdir()
    (within / ".gitconfig").write_text("[user]\nname = x\nemail = x@example.org\n[init]\ndefaultBranch = main\n")
    clone = within / "clone"
    for command in (["init", "--quiet"], ["lfs", "install", "--local"], ["lfs", "track", "*.bin"]):
        git(clone, *command)
    for number in range(FILES):
        (clone / f"{number}.bin").write_bytes(os.urandom(FILE_SIZE))
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "Add")
    git(clone, "remote", "add", "origin", str(within))
    # giftless may refuse a link within the second in which it made it; then git-lfs tries again.
    git(clone, "config", "lfs.transfer.maxretries", "100")
    return clone


def push_to(clone: Path, url: str) -> float:
    git(clone, "config", "lfs.url", url)
    started = time.perf_counter()
    git(clone, "lfs", "push", "origin", "main")
    return time.perf_counter() - started


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


def send(daemon: Daemon, method: str, path: str, body: bytes) -> int:
    client = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
    client.request(method, path, body)
    answer = client.getresponse()
    answer.read()
    client.close()
    return answer.status


@contextlib.contextmanager
def scratch(directory: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=directory))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


PARTS: dict[str, Callable[[Path], None]] = {"batch": batch, "push": push, "listing": listing, "locks": locks}

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
