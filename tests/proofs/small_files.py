"""Many small files: 32 clients at once store, fetch and compare 10,000 files.

python3 -m tests.proofs.small_files [DIRECTORY]
"""

from __future__ import annotations

import hashlib
import http.client
import sys
import tempfile
import time
from pathlib import Path

from tests.daemon.process import PATIENCE, running
from tests.support import in_threads

CLIENTS = 32
FILES = 10_000


def main(directory: Path) -> bool:
    """Print the figures. Returns whether all files were fetched unchanged, and the store contains no others."""
    with running("--store", str(directory / "store")) as daemon:
        started = time.monotonic()
        counts = in_threads(CLIENTS, lambda number: store_and_fetch(daemon.ports[0], number))
        seconds = time.monotonic() - started
    visible = list((directory / "store").glob("[0-9a-f][0-9a-f]/*"))
    whole = all(path.name == hashlib.sha256(path.read_bytes()).hexdigest() for path in visible)
    print(
        f"{sum(counts)} files stored and fetched by {CLIENTS} clients in {seconds:.1f} s; {len(visible)} in the store"
    )
    return sum(counts) == len(visible) == FILES and whole


def store_and_fetch(port: int, number: int) -> int:
    """Store this client's share of the files. Returns the number of those that were fetched unchanged."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    good = 0
    for step in range(number, FILES, CLIENTS):
        data = f"file {step} ".encode() * (step % 100)
        data += str(step).encode()
        client.request("POST", "/", data, {"Accept": "text/plain"})
        digest = client.getresponse().read().decode().strip()
        client.request("GET", f"/{digest}")
        good += client.getresponse().read() == data
    client.close()
    return good


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as temporary:
        sys.exit(0 if main(Path(temporary)) else 1)
