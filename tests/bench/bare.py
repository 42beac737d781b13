"""Minimal programs that store files, receive a body or hash: upper bounds for the figures of the daemon.

python3 -m tests.bench.bare files DIRECTORY SIZE SECONDS THREADS    prints files stored a second
python3 -m tests.bench.bare sink DIRECTORY                          prints a port, and stores the bodies sent to it
python3 -m tests.bench.bare hash MEBIBYTES                          prints the seconds of SHA-256
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
import time
from pathlib import Path

_PIECE = 256 * 1024


def store_files(directory: Path, size: int, seconds: float, count: int) -> float:
    """Create, write, sync and rename files and sync their directories, as an upload does. Returns files a second."""
    shards = [directory / f"{number:02x}" for number in range(256)]
    for shard in shards:
        shard.mkdir(parents=True, exist_ok=True)
    data = os.urandom(size)
    stored: list[int] = [0] * count
    end = time.monotonic() + seconds

    def run(thread: int) -> None:
        while time.monotonic() < end:
            number = stored[thread]
            _store(directory / f"{thread}-{number}", shards[(number * 17 + thread) % 256], data)
            stored[thread] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(stored) / seconds


def _store(staging: Path, shard: Path, data: bytes) -> None:
    path, target = str(staging), f"{shard}/{staging.name}"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    os.write(file, data)
    os.fsync(file)
    os.rename(path, target)
    os.close(file)
    directory = os.open(shard, os.O_RDONLY)
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
    if command == "files":
        directory, size, seconds, threads = arguments
        print(store_files(Path(directory), int(size), float(seconds), int(threads)))
    elif command == "hash":
        print(hash_memory(int(arguments[0])))
    elif command == "sink":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            print(listener.getsockname()[1], flush=True)
            while True:
                store_stream(listener, Path(arguments[0]))


if __name__ == "__main__":
    main(*sys.argv[1:])
