"""Other key-value servers with an HTTP interface, each on the server's core: etcd, and webdis in front of Redis."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.bench.servers import Other, run_server
from tests.support import PATIENCE, free_port


def is_installed(*programs: str) -> bool:
    return all(shutil.which(program) for program in programs)


@contextlib.contextmanager
def etcd(directory: Path) -> Iterator[Other]:
    """Run etcd with its data, which it syncs at each put, in `directory`."""
    port, peers = free_port(), free_port()
    url, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
    command = ["etcd", "--data-dir", str(directory / "etcd"), "--listen-client-urls", url]
    command += ["--advertise-client-urls", url, "--listen-peer-urls", peer]
    command += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
    with run_server(command, port, directory) as server:
        yield server


@contextlib.contextmanager
def webdis(directory: Path, keys: int) -> Iterator[Other]:
    """Run webdis in front of Redis, which has the keys `key 1` and so on, and writes nothing to the disk."""
    port, redis_port = free_port(), free_port()
    configuration = directory / "webdis.json"
    names = {"redis_host": "127.0.0.1", "redis_port": redis_port, "http_host": "127.0.0.1", "http_port": port}
    log = {"verbosity": 0, "logfile": str(directory / "webdis.log")}
    configuration.write_text(json.dumps({**names, **log, "threads": 1, "daemonize": False, "database": 0}))
    redis = ["redis-server", "--port", str(redis_port), "--save", "", "--dir", str(directory)]
    with run_server(redis, redis_port, directory):
        _fill(redis_port, keys)
        with run_server(["webdis", str(configuration)], port, directory) as server:
            yield server


def etcd_puts(count: int) -> list[str]:
    """The bodies of puts of so many keys."""
    return [json.dumps({"key": _base64(f"key {n}"), "value": _base64(str(n))}) for n in range(1, count + 1)]


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _fill(port: int, keys: int) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(b"".join(b'SET "key %d" value\r\n' % number for number in range(1, keys + 1)))
        answers = b""
        while answers.count(b"+OK\r\n") < keys:
            answers += connection.recv(65536)
