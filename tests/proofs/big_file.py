"""Large files: memory during upload and download of 2 GiB, and the speed of 512 MiB compared with other programs.

    python3 -m tests.proofs.big_file [DIRECTORY]

DIRECTORY holds all files, including the store: its disk determines the speeds. Requires curl and nginx.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from tests.bench.servers import nginx
from tests.daemon.process import Daemon, running
from tests.support import find_program

MIB = 1024 * 1024
ROUNDS = 5


def main(directory: Path) -> bool:
    """Print the figures. Returns whether all reach their goals."""
    print("memory during upload and download of 2 GiB:")
    good = [prove_memory(directory)]
    print(f"speed of 512 MiB, medians of {ROUNDS} rounds:")
    file = make_file(directory / "medium", 512)
    return all([*good, prove_upload(directory, file), prove_download(directory, file)])


def prove_memory(directory: Path) -> bool:
    file = make_file(directory / "large", 2048)
    digest = digest_of(file)
    with running("--workers", "1", "--store", str(directory / "store")) as daemon:
        # The first request loads modules, whose memory does not belong to the large file.
        run_curl("--data-binary", "tea", daemon.url)
        idle = daemon.resident()
        upload(daemon, file)
        uploading = daemon.resident("VmHWM") - idle
        command = [find_program("curl"), "-sS", f"{daemon.url}/data/big/{digest}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
            assert curl.stdout is not None
            whole = digest_of_stream(curl.stdout) == digest
        in_total = daemon.resident("VmHWM") - idle
    shutil.rmtree(directory / "store")
    file.unlink()
    print(f"  idle {idle / MIB:.1f} MiB; upload {uploading / MIB:.1f} MiB more, both {in_total / MIB:.1f} MiB more")
    print(f"  downloaded bytes are equal: {whole}")
    return whole and in_total <= 40 * MIB


def prove_upload(directory: Path, file: Path) -> bool:
    """Compare an upload with sha256sum and a synced copy of the same file at the same time."""
    copy = directory / "copy"

    def start_anew() -> None:
        # Freeing the blocks of replaced files must not be measured.
        copy.unlink(missing_ok=True)
        for stored in (directory / "store" / "repositories").glob("*/*/*"):
            stored.unlink()
        os.sync()

    def hash_and_copy() -> None:
        with subprocess.Popen(["sha256sum", str(file)], stdout=subprocess.DEVNULL):
            run("dd", f"if={file}", f"of={copy}", "bs=1M", "conv=fsync", "status=none")

    with running("--workers", "1", "--store", str(directory / "store")) as daemon:
        both, hashed, uploaded = medians_in_turn(
            [hash_and_copy, lambda: digest_of(file), lambda: upload(daemon, file)], before=start_anew
        )
    print(f"  upload {uploaded:.2f} s; sha256sum and dd conv=fsync {both:.2f} s; ratio {both / uploaded:.2f}")
    print(f"  hashlib's SHA-256 alone {hashed:.2f} s")
    return both / uploaded >= 0.8


def prove_download(directory: Path, file: Path) -> bool:
    digest = digest_of(file)
    # nginx's worker runs as another user, which needs access to the files.
    directory.chmod(0o755)
    with (
        running("--workers", "1", "--store", str(directory / "store")) as daemon,
        nginx(directory, file.parent, before=()) as other,
    ):
        upload(daemon, file)
        ours, theirs = medians_in_turn(
            [lambda: fetch(f"{daemon.url}/data/big/{digest}"), lambda: fetch(f"{other.url}/{file.name}")],
            before=lambda: None,
        )
    print(f"  download {ours:.3f} s; nginx with sendfile {theirs:.3f} s; ratio {theirs / ours:.2f}")
    return theirs / ours >= 0.8


def medians_in_turn(tries: Sequence[Callable[[], object]], *, before: Callable[[], None]) -> list[float]:
    """Return the median seconds of each try. They alternate, so that a drift of the machine affects all."""
    seconds: list[list[float]] = [[] for _ in tries]
    for _ in range(ROUNDS):
        for number, attempt in enumerate(tries):
            before()
            started = time.monotonic()
            attempt()
            seconds[number].append(time.monotonic() - started)
    return [statistics.median(each) for each in seconds]


def upload(daemon: Daemon, file: Path) -> None:
    run_curl("-T", str(file), "-H", "Expect:", f"{daemon.url}/data/big")


def fetch(url: str) -> None:
    run_curl("-o", "/dev/null", url)


def run_curl(*arguments: str) -> None:
    run("curl", "-sSf", "-o", "/dev/null", *arguments)


def run(program: str, *arguments: str) -> None:
    subprocess.run([find_program(program), *arguments], check=True, stdout=subprocess.DEVNULL)


def make_file(path: Path, mebibytes: int) -> Path:
    with path.open("wb") as stream:
        for _ in range(mebibytes):
            stream.write(os.urandom(MIB))
    return path


def digest_of(path: Path) -> str:
    with path.open("rb") as stream:
        return digest_of_stream(stream)


def digest_of_stream(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    for piece in iter(lambda: stream.read(MIB), b""):
        digest.update(piece)
    return digest.hexdigest()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as temporary:
        sys.exit(0 if main(Path(temporary)) else 1)
