"""What grows with the number of objects, keys, drops or repositories: `python -m tests.proofs.growth`.

Each part has two stores: one with that many, and one with a hundred. Both daemons do the same in turns. 1,000,000
objects take two minutes and 5 GiB.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.bench.command import run
from tests.bench.contest import QUIET, Bench
from tests.bench.figures import Figure, median
from tests.bench.machine import SERVER_CORE, pinned
from tests.daemon.process import Daemon
from tests.proofs.growth import measures, stores
from tests.proofs.growth.measures import SAMPLE, Client, Values
from tests.support import free_port

# CPU times have a resolution of 10 ms, so a ratio of smaller ones is not shown.
_TICK = 0.01


class Part(NamedTuple):
    make: Callable[[Path, int], None]
    measure: Callable[[Client, Path], Values]
    full: int


PARTS = {
    "objects": Part(stores.make_objects, measures.objects, 1_000_000),
    "keys": Part(stores.make_keys, measures.keys, 2_000_000),
    "drops": Part(stores.make_drops, measures.drops, 100_000),
    "repositories": Part(stores.make_repositories, measures.repositories, 50_000),
}


def grow(name: str, bench: Bench) -> list[Figure]:
    part, count = PARTS[name], max(SAMPLE + 1, bench.part_of(PARTS[name].full))
    # As the daemon's own directories.
    os.umask(0o077)
    lives = {}
    for number in (count, SAMPLE):
        store = bench.directory / f"{name}-{number}"
        store.mkdir()
        part.make(store, number)
        lives[f"{number:,} {name}"] = partial(_live, store, part)
    os.sync()
    # The first lives read from the disk what the others have in memory.
    bench._replace(rounds=1).take_turns(lives)
    seen = bench.take_turns(lives)
    names = next(iter(seen.values()))[0]
    return [_figure(what, {each: [values[what] for values in lived] for each, lived in seen.items()}) for what in names]


def _live(store: Path, part: Part) -> Values:
    """Start a daemon, measure it, and check its store."""
    with _started(store) as daemon:
        values = {"start": measures.start(daemon)}
        with contextlib.closing(Client(daemon)) as client:
            values |= part.measure(client, store)
            values |= measures.operations(client, daemon)
    return {**values, "check": measures.check(store)}


def _figure(what: str, samples: dict[str, list[float]]) -> Figure:
    large, small = (median(values) for values in samples.values())
    note = f"{large / small:.2f} times" if min(large, small) > _TICK or not what.startswith("CPU") else ""
    return Figure(what, "MiB" if "MiB" in what else "s", samples, [], note=note)


@contextlib.contextmanager
def _started(store: Path) -> Iterator[Daemon]:
    port = free_port()
    # Drops of a store that was made long ago are available as well.
    arguments = ("--listen", f"127.0.0.1:{port}", "--store", str(store), "--workers", "1", "--drop-ttl", "3650d")
    daemon = Daemon(*arguments, *QUIET, before=pinned(SERVER_CORE))
    daemon.ports = [port]
    try:
        yield daemon
        daemon.stop()
    finally:
        daemon.kill()
        daemon.log.close()


if __name__ == "__main__":
    sys.exit(run("tests.proofs.growth", {name: partial(grow, name) for name in PARTS}, rounds=3))
