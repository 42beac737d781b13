"""Backups of restic, beside `rclone serve restic`, which syncs nothing: `python -m tests.proofs.restic`."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tests.bench.command import run
from tests.bench.contest import QUIET, Bench, timed, write_new
from tests.bench.figures import Figure, Goal, median
from tests.bench.machine import CLIENT_CORE, MIB, SERVER_CORE, pinned
from tests.bench.servers import ours, wait_until_listening
from tests.daemon.process import PATIENCE, Daemon, clean_environment
from tests.support import find_program, free_port

LARGE_FILES, LARGE_SIZE = 64, 16 * MIB
SMALL_FILES, SMALL_SIZE = 20_000, 4096
PACKS = 200_000


def backups(bench: Bench) -> list[Figure]:
    """Backup and restore of 1 GiB in 64 files, and of 20,000 files of 4 KiB; and the memory of the daemon."""
    figures = []
    with _rclone(bench.directory) as other, ours(bench.directory, *QUIET, "--mount", "restic=/") as daemon:
        idle = _idle(daemon)
        for count, size in ((LARGE_FILES, LARGE_SIZE), (SMALL_FILES, SMALL_SIZE)):
            source = _files(bench, bench.part_of(count), size)
            clients = {
                name: _Client(bench.directory / f"{name}-{size}", url)
                for name, url in {"filestoraged": daemon.url, "rclone": other}.items()
            }
            what = f"{bench.part_of(count):,} files of {size // 1024:,} KiB"
            for name, work in (("backup", _Client.backup), ("restore", _Client.restore)):
                contenders = {each: partial(_seconds, partial(work, clients[each], source)) for each in clients}
                samples = bench.take_turns(contenders)
                shares = [other / own for own, other in zip(*samples.values())]
                goal = Goal("speed of rclone's", sorted(shares)[len(shares) // 2], 0.95)
                figures.append(Figure(f"{name} of {what}", "s", samples, [goal]))
            shutil.rmtree(source)
        above = (daemon.resident("VmHWM") - idle) / MIB
    return [*figures, Figure("memory above idle", "MiB", {"daemon": [above]}, [Goal("MiB", above, 8, at_most=True)])]


def listing(bench: Bench) -> list[Figure]:
    """A list of 200,000 packs with their sizes, alone, and while another client asks for a small file."""
    store = bench.directory / "store"
    data = store / "restic" / "large" / "data"
    for number in range(bench.part_of(PACKS)):
        name = f"{number % 256:02x}{number:062x}"
        (data / name[:2]).mkdir(parents=True, exist_ok=True)
        (data / name[:2] / name).touch()
    with ours(bench.directory, *QUIET) as daemon:
        os.sched_setaffinity(0, {CLIENT_CORE})
        before = _idle(daemon)
        seconds = [timed(partial(_list, daemon.url)) for _ in range(bench.rounds)]
        above = (daemon.resident("VmHWM") - before) / MIB
        alone, beside = _small_downloads(daemon.url, _nothing), _small_downloads(daemon.url, partial(_list, daemon.url))
    longest = Goal("ms", max(beside), 50, at_most=True)
    return [
        Figure("list of 200,000 packs", "s", {"daemon": seconds}, [Goal("s", min(seconds), 1.0, at_most=True)]),
        Figure("its memory", "MiB", {"daemon": [above]}, [Goal("MiB", above, 10, at_most=True)]),
        Figure("median of small downloads", "ms", {"alone": [median(alone)], "beside a list": [median(beside)]}, []),
        Figure("longest of small downloads", "ms", {"alone": [max(alone)], "beside a list": [max(beside)]}, [longest]),
    ]


def _list(base: str) -> None:
    asked = urllib.request.Request(f"{base}/restic/large/data/")
    asked.add_header("Accept", "application/vnd.x.restic.rest.v2")
    with urllib.request.urlopen(asked) as answer:
        while answer.read(MIB):
            pass


def _nothing() -> None:
    threading.Event().wait(1)


def _small_downloads(base: str, meanwhile: Callable[[], None]) -> list[float]:
    """Download a small file again and again while the work lasts. Returns the milliseconds of each."""
    connection = http.client.HTTPConnection(base.removeprefix("http://"))
    connection.request("POST", "/", bytes(1000), {"Accept": "text/plain"})
    path = f"/{connection.getresponse().read().decode().strip()}"

    def download() -> None:
        connection.request("GET", path)
        connection.getresponse().read()

    with contextlib.closing(connection), ProcessPoolExecutor(1) as other:
        # The process starts before the first is measured.
        other.submit(os.getpid).result()
        working, samples = other.submit(meanwhile), []
        while not working.done():
            samples.append(timed(download) * 1000)
        working.result()
    return samples


def kills(bench: Bench) -> list[Figure]:
    """A backup of 1 GiB while the daemon is killed every five seconds."""
    source = _files(bench, bench.part_of(LARGE_FILES), LARGE_SIZE)
    port, stop, killed = free_port(), threading.Event(), 0
    # In KiB for each second: it lasts for half a minute.
    client = _Client(bench.directory / "killed", f"http://127.0.0.1:{port}", "--limit-upload", "35000")
    where = ("--listen", f"127.0.0.1:{port}", "--store", str(bench.directory / "store"), "--mount", "restic=/")
    with _daemon(*where):
        client.run("init")
        # restic does not try again to open a repository: it does that within these seconds.
        process = client.start("backup", str(source))
        stop.wait(5)
    while process.poll() is None:
        killed += 1
        with _daemon(*where):
            stop.wait(5)
    assert process.returncode == 0, process.communicate()
    with _daemon(*where):
        client.run("check", "--read-data")
    return [Figure("kills that a backup survives, whole", "", {"daemon": [float(killed)]}, [])]


class _Client:
    def __init__(self, directory: Path, base: str, *options: str) -> None:
        self._directory = directory
        self._base = base
        self._options = options
        self._number = 0

    def backup(self, source: Path) -> Callable[[], object]:
        """Make a new repository, and return what makes a backup to it."""
        self._number += 1
        self.run("init")
        return lambda: self.run("backup", str(source))

    def restore(self, source: Path) -> Callable[[], object]:
        """Return what restores the last backup."""
        target = self._directory / "restored"
        shutil.rmtree(target, ignore_errors=True)
        os.sync()
        return lambda: self.run("restore", "latest", "--target", str(target))

    def run(self, *arguments: str) -> None:
        process = self.start(*arguments)
        printed, _ = process.communicate()
        assert process.returncode == 0, printed

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        self._directory.mkdir(exist_ok=True)
        settings = {"RESTIC_CACHE_DIR": str(self._directory / "cache"), "RESTIC_PASSWORD": "x"}
        repository = f"rest:{self._base}/{self._directory.name}{self._number}/"
        return subprocess.Popen(
            [*pinned(CLIENT_CORE), find_program("restic"), *self._options, "--repo", repository, *arguments],
            env={**clean_environment(), "HOME": str(self._directory), "RESTIC_PROGRESS_FPS": "0.001", **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def _idle(daemon: Daemon) -> int:
    """The memory of the worker, in bytes, once it serves."""
    urllib.request.urlopen(f"{daemon.url}/-/health").close()
    return daemon.resident()


def _seconds(prepare: Callable[[], Callable[[], object]]) -> float:
    return timed(prepare())


def _files(bench: Bench, count: int, size: int) -> Path:
    source = bench.directory / "source"
    source.mkdir()
    whole = bench.directory / "whole"
    write_new(whole, count * size)
    with whole.open("rb") as stream:
        for number in range(count):
            (source / str(number)).write_bytes(stream.read(size))
    whole.unlink()
    os.sync()
    return source


@contextlib.contextmanager
def _daemon(*arguments: str) -> Iterator[None]:
    daemon = Daemon(*arguments, *QUIET, "--workers", "1", before=pinned(SERVER_CORE))
    try:
        daemon.wait_until_listening()
        yield
    finally:
        daemon.kill()
        daemon.log.close()


@contextlib.contextmanager
def _rclone(directory: Path) -> Iterator[str]:
    port = free_port()
    (directory / "served").mkdir()
    command = [find_program("rclone"), "serve", "restic", "--addr", f"127.0.0.1:{port}", str(directory / "served")]
    process = subprocess.Popen([*pinned(SERVER_CORE), *command], stderr=subprocess.DEVNULL)
    try:
        wait_until_listening(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


if __name__ == "__main__":
    sys.exit(run("tests.proofs.restic", {"backups": backups, "listing": listing, "kills": kills}, rounds=1))
