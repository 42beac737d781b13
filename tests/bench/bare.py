"""Minimal programs that store files, receive a body or hash: upper bounds for the figures of the daemon.

python3 -m tests.bench.bare store DIRECTORY SIZE SECONDS THREADS     prints the rate and the times of storing files
python3 -m tests.bench.bare remove DIRECTORY SIZE SECONDS THREADS    the same of removing them
python3 -m tests.bench.bare sink DIRECTORY                           prints a port, and stores the bodies sent to it
python3 -m tests.bench.bare hash MEBIBYTES                           prints the seconds of SHA-256
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

_PIECE = 256 * 1024

# Files that are made for each second of removing them: more than are removed.
MAX_REMOVALS = 20_000


def store_files(directory: Path, size: int, seconds: float, threads: int) -> list[float]:
    """Create, write, sync and rename files and sync their directories, as an upload does. Returns their times."""
    shards, data = _make_shards(directory), os.urandom(size)

    def store(thread: int, number: int) -> None:
        _store(directory / f"{thread}-{number}", shards[(number * 17 + thread) % 256], data)

    return _repeat(store, seconds, threads)


def remove_files(directory: Path, size: int, seconds: float, threads: int) -> list[float]:
    """Remove files, and sync their directories. Returns their times."""
    shards, data = _make_shards(directory), os.urandom(size)
    for thread in range(threads):
        for number in range(int(seconds * MAX_REMOVALS / threads)):
            (shards[(number * 17 + thread) % 256] / f"{thread}-{number}").write_bytes(data)
    os.sync()

    def remove(thread: int, number: int) -> None:
        shard = shards[(number * 17 + thread) % 256]
        os.unlink(f"{shard}/{thread}-{number}")
        _sync_directory(shard)

    return _repeat(remove, seconds, threads)


def _make_shards(directory: Path) -> list[Path]:
    shards = [directory / f"{number:02x}" for number in range(256)]
    for shard in shards:
        shard.mkdir(parents=True, exist_ok=True)
    return shards


def _repeat(work: Callable[[int, int], None], seconds: float, count: int) -> list[float]:
    """Call `work` with the number of a thread and of a file, again and again. Returns the seconds of each call."""
    times: list[list[float]] = [[] for _ in range(count)]
    end = time.monotonic() + seconds

    def run(thread: int) -> None:
        now = time.monotonic()
        while now < end:
            work(thread, len(times[thread]))
            started, now = now, time.monotonic()
            times[thread].append(now - started)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return sorted(taken for each in times for taken in each)


def _store(staging: Path, shard: Path, data: bytes) -> None:
    path, target = str(staging), f"{shard}/{staging.name}"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    os.write(file, data)
    os.fsync(file)
    os.rename(path, target)
    os.close(file)
    _sync_directory(shard)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def store_stream(listener: socket.socket, directory: Path) -> None:
    """Receive, hash, write and sync one body in one loop, then respond. The head must arrive in one piece."""
    connection, _ = listener.accept()
    buffer = memoryview(bytearray(_PIECE))
    head = connection.recv(65536)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    body = head.partition(b"\r\n\r\n")[2]
    digest = hashlib.sha256(body)
    file = os.open(directory / "bare", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.write(file, body)
    left = length - len(body)
    while left:
        received = connection.recv_into(buffer[: min(left, _PIECE)])
        digest.update(buffer[:received])
        os.write(file, buffer[:received])
        left -= received
    os.fsync(file)
    os.close(file)
    connection.sendall(f"HTTP/1.1 200 OK\r\n\r\n{digest.hexdigest()}".encode())
    connection.close()
    # Not measured, as the removal of the daemon's object is not.
    (directory / "bare").unlink()


def hash_memory(mebibytes: int) -> float:
    data = os.urandom(1024 * 1024)
    digest = hashlib.sha256()
    started = time.monotonic()
    for _ in range(mebibytes):
        digest.update(data)
    return time.monotonic() - started


def main(command: str, *arguments: str) -> None:
    if command in _REPEATED:
        directory, size, seconds, threads = arguments
        times = _REPEATED[command](Path(directory), int(size), float(seconds), int(threads))
        count = len(times)
        print(count / float(seconds), times[count // 2], times[count * 99 // 100], times[-1], count)
    elif command == "hash":
        print(hash_memory(int(arguments[0])))
    elif command == "sink":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            print(listener.getsockname()[1], flush=True)
            while True:
                store_stream(listener, Path(arguments[0]))


_REPEATED = {"store": store_files, "remove": remove_files}

if __name__ == "__main__":
    main(*sys.argv[1:])
