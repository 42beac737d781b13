"""`filestoraged put` beside curl: 1 GiB, in turns, each time other bytes. curl hashes nothing.

    python3 -m tests.proofs.client [DIRECTORY]

DIRECTORY holds all files, including the store: its disk determines the speeds.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

from tests.daemon.process import ROOT, Daemon, clean_environment, running
from tests.support import find_program

SIZE = 1 << 30
MIB = 1 << 20
ROUNDS = 5
REPOSITORY = "client"

# The least part of curl's rate, and the most memory of `put`, in bytes.
MIN_SPEED = 0.9
MAX_MEMORY = 64 * MIB


def main(directory: Path) -> bool:
    """Print the figures. Returns whether they reach their goals."""
    path = directory / "large"
    times: dict[str, list[float]] = {"curl": [], "put": []}
    # As installed: with the byte code of its modules.
    environment = {**clean_environment(), "PYTHONPYCACHEPREFIX": str(directory / "cache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with running("--store", str(directory / "store"), "--workers", "1") as daemon:
        for _ in range(ROUNDS):
            for name, command in (("curl", curl(daemon, path)), ("put", put(daemon, path))):
                write(path)
                times[name].append(measure(command, environment))
                remove_objects(daemon)
    rates = {name: SIZE / statistics.median(each) / 1e6 for name, each in times.items()}
    # Of the same round, as other work on the machine changes all the time.
    share = statistics.median(of_curl / of_put for of_curl, of_put in zip(times["curl"], times["put"], strict=True))
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    for name, each in times.items():
        print(f"1 GiB by {name}: {rates[name]:.0f} MB/s; seconds: {', '.join(f'{value:.2f}' for value in each)}")
    print(
        f"put has {share:.2f} of curl's rate (at least {MIN_SPEED}); memory {memory / MIB:.0f} MiB at most", flush=True
    )
    return share >= MIN_SPEED and memory <= MAX_MEMORY


def curl(daemon: Daemon, path: Path) -> list[str]:
    # To a repository: with -T, curl would append the name of the file to the path of `files`.
    return [find_program("curl"), "-sf", "-T", str(path), "-o", "/dev/null", f"{daemon.url}/data/{REPOSITORY}"]


def put(daemon: Daemon, path: Path) -> list[str]:
    command = [sys.executable, "-m", "filestoraged", "put", str(path), "--to", daemon.url]
    return [*command, "--repository", REPOSITORY, "--quiet"]


def measure(command: list[str], environment: dict[str, str]) -> float:
    with tempfile.TemporaryDirectory(prefix="client-") as state:
        begun = time.monotonic()
        subprocess.run(
            command, check=True, cwd=ROOT, env={**environment, "XDG_STATE_HOME": state}, stdout=subprocess.DEVNULL
        )
        return time.monotonic() - begun


def remove_objects(daemon: Daemon) -> None:
    url = f"{daemon.url}/data/{REPOSITORY}"
    for each in requests.get(url).json()["objects"]:
        requests.delete(f"{url}/{each['oid']}").raise_for_status()


def write(path: Path) -> None:
    """Write SIZE bytes that no file had before."""
    piece = os.urandom(MIB)
    with path.open("wb") as stream:
        for number in range(SIZE // MIB):
            stream.write(number.to_bytes(8, "big") + piece[8:])
    os.sync()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=(sys.argv[1:] or [None])[0], prefix="client-") as temporary:
        sys.exit(0 if main(Path(temporary)) else 1)
