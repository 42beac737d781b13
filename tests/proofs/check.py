"""`filestoraged check` beside sha256sum on all cores: `python -m tests.proofs.check`.

Both read from the page cache, so that the disk does not matter: all files are read once before each run.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.bench.command import run
from tests.bench.contest import Bench, timed
from tests.bench.figures import Figure, Goal
from tests.bench.machine import MIB
from tests.daemon.process import ROOT, clean_environment
from tests.support import find_program

KIB = 1024

# Number of objects by size in bytes: 20,000 of 5 GiB in total, and as many small ones for the cost of each file.
STORES = {
    "equal": {268_435: 20_000},
    "mixed": {4 * KIB: 8000, 64 * KIB: 6000, 256 * KIB: 4000, 2 * MIB: 1984, 16 * MIB - 32 * KIB: 1},
    "small": {4 * KIB: 20_000},
}

# Runs a command and prints its peak memory. The peak of a child includes the memory of its parent at the fork, so the
# parent has to be small.
MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss, file=sys.stderr)
sys.exit(os.WEXITSTATUS(status))
"""


def check(name: str, bench: Bench) -> list[Figure]:
    store = bench.directory / name
    size = sum(_make_objects(store, size, bench.part_of(count)) for size, count in STORES[name].items()) / MIB
    os.sync()
    peaks: list[float] = []

    def ours() -> None:
        command = [sys.executable, "-m", "filestoraged", "check", "--store", str(store), "--json"]
        measured = [sys.executable, "-c", MEASURE, *command]
        done = subprocess.run(measured, capture_output=True, check=True, cwd=ROOT, env=clean_environment())
        assert not json.loads(done.stdout)["findings"]
        peaks.append(int(done.stderr.split()[-1]) / KIB)

    def rate(work: Callable[[], object]) -> float:
        _on_files(store, "cat")
        return size / timed(work)

    cores = len(os.sched_getaffinity(0))
    theirs = partial(_on_files, store, find_program("sha256sum"), f"-n 64 -P {cores}")
    contenders = {"check": partial(rate, ours), "sha256sum": partial(rate, theirs)}
    figure = bench.compare(f"check of {size:,.0f} MiB, {name} objects", "MiB/s", contenders, {"sha256sum": 0.8})
    return [figure, Figure("memory", "MiB", {"check": peaks}, [Goal("MiB", max(peaks), 40.0, at_most=True)])]


def _on_files(store: Path, program: str, options: str = "") -> None:
    command = f"find . -type f -print0 | xargs -0 {options} {program} > /dev/null"
    subprocess.run(command, shell=True, check=True, cwd=store)


def _make_objects(store: Path, size: int, count: int) -> int:
    """Write new objects directly, not by a daemon, which would sync each of them. Returns their size."""
    data = bytearray(os.urandom(size))
    for number in range(count):
        data[:8] = number.to_bytes(8, "big")
        digest = hashlib.sha256(data).hexdigest()
        path = store / digest[:2] / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return size * count


if __name__ == "__main__":
    sys.exit(run("tests.proofs.check", {name: partial(check, name) for name in STORES}))
