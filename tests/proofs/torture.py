"""Torture: rounds of 100 uploads at once, `kill -9` during them, a restart, and a check of the store.

python3 -m tests.proofs.torture [ROUNDS]
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import random
import sys
import tempfile
import threading
from pathlib import Path

from tests.daemon.process import PATIENCE, Daemon, running

UPLOADS = 100


def main(directory: Path, rounds: int) -> bool:
    """Print the result of each round. Returns whether no answered upload was lost and no object is damaged."""
    store = directory / "store"
    answered: set[str] = set()
    good = True
    for number in range(rounds):
        with running("--store", str(store)) as daemon:
            before = len(answered)
            upload_until_killed(daemon, answered)
        left = len(list((store / "staging").glob("*/*")))
        with running("--store", str(store)):
            swept = not list((store / "staging").glob("*/*"))
        lost, damaged = check(store, answered)
        good = good and swept and not lost and not damaged
        print(
            f"round {number + 1}: {len(answered) - before} uploads answered, {left} interrupted; "
            f"lost {lost}, damaged {damaged}, stagings swept: {swept}",
            flush=True,
        )
    return good


def upload_until_killed(daemon: Daemon, answered: set[str]) -> None:
    threads = [threading.Thread(target=upload, args=(daemon.ports[0], answered)) for _ in range(UPLOADS)]
    for thread in threads:
        thread.start()
    threading.Event().wait(random.uniform(0.3, 2.0))
    daemon.kill()
    for thread in threads:
        thread.join()


def upload(port: int, answered: set[str]) -> None:
    """Upload files of different sizes, one after the other, and record those that were answered."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.suppress(OSError, http.client.HTTPException):
        while True:
            data = os.urandom(random.choice([0, 1, 1000, 100_000, 1_000_000, 5_000_000]))
            client.request("POST", "/", data, {"Accept": "text/plain"})
            digest = client.getresponse().read().decode().strip()
            if len(digest) == 64:
                answered.add(digest)
    client.close()


def check(store: Path, answered: set[str]) -> tuple[int, int]:
    """Return the number of lost objects, and the number of objects whose bytes do not match their name."""
    visible = {path.name: path for path in store.glob("[0-9a-f][0-9a-f]/*")}
    damaged = [name for name, path in visible.items() if hashlib.sha256(path.read_bytes()).hexdigest() != name]
    return len(answered - set(visible)), len(damaged)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(0 if main(Path(temporary), int(sys.argv[1]) if len(sys.argv) > 1 else 10) else 1)
