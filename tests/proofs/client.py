"""`filestoraged put` beside curl, which hashes nothing: `python -m tests.proofs.client`."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile

import requests

from tests.bench.command import run
from tests.bench.contest import Bench, timed, write_new
from tests.bench.figures import Figure, Goal
from tests.bench.machine import MIB
from tests.daemon.process import ROOT, clean_environment, running
from tests.support import find_program

SIZE = 1024 * MIB


def put(bench: Bench) -> list[Figure]:
    """1 GiB in turns, each time other bytes."""
    path, size = bench.directory / "large", bench.part_of(SIZE)
    # As installed: with the byte code of its modules.
    environment = {**clean_environment(), "PYTHONPYCACHEPREFIX": str(bench.directory / "cache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def rate(*command: str) -> float:
        write_new(path, size)
        with tempfile.TemporaryDirectory(prefix="client-") as state:
            settings = {**environment, "XDG_STATE_HOME": state}
            seconds = timed(
                lambda: subprocess.run(command, check=True, cwd=ROOT, env=settings, stdout=subprocess.DEVNULL)
            )
        for each in requests.get(url).json()["objects"]:
            requests.delete(f"{url}/{each['oid']}").raise_for_status()
        return size / MIB / seconds

    with running("--store", str(bench.directory / "store"), "--workers", "1") as daemon:
        url = f"{daemon.url}/data/client"
        ours = [sys.executable, "-m", "filestoraged", "put", str(path), "--to", daemon.url, "--repository", "client"]
        # To a repository: with -T, curl would append the name of the file to the path of `files`.
        curl = [find_program("curl"), "-sf", "-T", str(path), "-o", "/dev/null", url]
        contenders = {"put": lambda: rate(*ours, "--quiet"), "curl": lambda: rate(*curl)}
        figure = bench.compare("upload of 1 GiB", "MiB/s", contenders, {"curl": 0.9})
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return [figure, Figure("memory", "MiB", {"put": [memory]}, [Goal("MiB", memory, 64.0, at_most=True)])]


if __name__ == "__main__":
    sys.exit(run("tests.proofs.client", {"put": put}))
