"""`filestoraged check` of 20,000 objects, 5 GiB: findings, memory, and speed compared with sha256sum on all cores.

    python3 -m tests.proofs.check [DIRECTORY]

Both read from the page cache, so that the disk does not matter: all files are read once before each run.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.daemon.process import ROOT, clean_environment
from tests.support import find_program

KIB = 1024
MIB = 1024 * KIB
ROUNDS = 5

# Number of objects by size in bytes: 20,000 of 5 GiB in total, and as many small ones for the cost of each file.
MIXED = {4 * KIB: 8000, 64 * KIB: 6000, 256 * KIB: 4000, 2 * MIB: 1984, 16 * MIB - 32 * KIB: 1}
EQUAL = {268_435: 20_000}
SMALL = {4 * KIB: 20_000}

# Bytes of peak memory. Python alone takes 10 MiB.
MAX_MEMORY = 40 * MIB

# Runs a command and prints its peak memory. The peak of a child includes the memory of its parent at the fork, so the
# parent has to be small.
MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss, file=sys.stderr)
sys.exit(os.WEXITSTATUS(status))
"""

DAMAGED = 20


class Run(NamedTuple):
    seconds: float
    peak: int
    report: dict[str, Any]


def main(directory: Path) -> bool:
    """Print the figures. Returns whether all reach their goals."""
    good = []
    for what, sizes in (("equal objects", EQUAL), ("mixed objects", MIXED), ("objects of 4 KiB", SMALL)):
        store = directory / what.replace(" ", "-")
        count = make_objects(store, sizes)
        print(f"{count} {what}, {size_of(store) / MIB:.0f} MiB, {ROUNDS} rounds:")
        good.append(prove_speed(store))
        good.append(prove_findings(store))
        subprocess.run(["rm", "-r", str(store)], check=True)
    return all(good)


def prove_speed(store: Path) -> bool:
    ours: list[Run] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        read_all(store)
        ours.append(check(store))
        read_all(store)
        theirs.append(sha256sum(store))
    seconds, other_seconds = statistics.median(run.seconds for run in ours), statistics.median(theirs)
    ratios = [other / run.seconds for run, other in zip(ours, theirs)]
    peak = max(run.peak for run in ours)
    print(f"  check {seconds:.2f} s; sha256sum on {len(os.sched_getaffinity(0))} cores {other_seconds:.2f} s")
    print(f"  ratios {' '.join(f'{ratio:.2f}' for ratio in ratios)}, median {statistics.median(ratios):.2f}")
    print(f"  peak memory {peak / MIB:.1f} MiB")
    return statistics.median(ratios) >= 0.8 and peak <= MAX_MEMORY and not any(run.report["findings"] for run in ours)


def prove_findings(store: Path) -> bool:
    """Damage some objects. Checks must find exactly those, move them, and then find none."""
    objects = sorted(store.glob("[0-9a-f][0-9a-f]/*"))
    damaged = objects[:: len(objects) // DAMAGED][:DAMAGED]
    for number, path in enumerate(damaged):
        with path.open("r+b") as file:
            if number % 2:
                file.truncate(path.stat().st_size - 1)
            else:
                file.seek(path.stat().st_size // 2)
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 1]))
    expected = sorted(("damaged", str(path.relative_to(store))) for path in damaged)
    runs = [check(store), check(store, "--repair"), check(store)]
    found = [sorted((each["kind"], each["path"]) for each in run.report["findings"]) for run in runs]
    print(f"  {len(expected)} damaged: {len(found[0])} found, {len(found[1])} moved, then {len(found[2])} found")
    return found == [expected, expected, []]


def check(store: Path, *arguments: str) -> Run:
    command = [sys.executable, "-m", "filestoraged", "check", "--store", str(store), "--json", *arguments]
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], capture_output=True, check=False, cwd=ROOT, env=clean_environment()
    )
    seconds = time.monotonic() - started
    report = json.loads(done.stdout)
    assert done.returncode == (1 if report["findings"] else 0), done.stderr
    return Run(seconds, int(done.stderr.split()[-1]) * KIB, report)


def sha256sum(store: Path) -> float:
    command = f"find . -type f -print0 | xargs -0 -n 64 -P {len(os.sched_getaffinity(0))} {find_program('sha256sum')}"
    started = time.monotonic()
    subprocess.run(command, shell=True, check=True, cwd=store, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def read_all(store: Path) -> None:
    subprocess.run("find . -type f -print0 | xargs -0 cat > /dev/null", shell=True, check=True, cwd=store)


def make_objects(store: Path, sizes: dict[int, int]) -> int:
    """Write new objects directly, not by a daemon, which would sync each of them."""
    number = 0
    for size, count in sizes.items():
        data = bytearray(os.urandom(size))
        for _ in range(count):
            number += 1
            data[:8] = number.to_bytes(8, "big")
            digest = hashlib.sha256(data).hexdigest()
            path = store / digest[:2] / digest
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    os.sync()
    return number


def size_of(store: Path) -> int:
    return sum(path.stat().st_size for path in files(store))


def files(store: Path) -> Sequence[Path]:
    return [path for path in store.glob("*/*") if path.is_file()]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as temporary:
        sys.exit(0 if main(Path(temporary)) else 1)
