"""What grows with the number of objects, keys, drops or repositories: `python -m tests.proofs.growth`.

    python -m tests.proofs.growth [--directory DIR] [--objects N] [--keys N] [--drops N] [--repositories N]

Each part has two stores: one with that many, and one with a hundred. Both daemons do the same in turns, and a row shows
the medians of both and the ratio. A store in DIR is made once: 1,000,000 objects take two minutes and 5 GiB. The number
0 leaves a part out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

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
    count: int


PARTS = {
    "objects": Part(stores.make_objects, measures.objects, 1_000_000),
    "keys": Part(stores.make_keys, measures.keys, 2_000_000),
    "drops": Part(stores.make_drops, measures.drops, 100_000),
    "repositories": Part(stores.make_repositories, measures.repositories, 50_000),
}


def prove(directory: Path, name: str, count: int, rounds: int) -> None:
    """Print a table of one part."""
    part = PARTS[name]
    sizes = {f"{name}-{number}": number for number in (SAMPLE, count)}
    seen: list[dict[str, list[float]]] = [{}, {}]
    for store, number in sizes.items():
        stores.make_once(directory / store, part.make, number)
    for number in range(rounds):
        for values, store in zip(seen, sizes):
            for what, value in life(directory / store, part).items():
                # The first of several rounds reads from the disk what the others have in memory.
                if number or rounds == 1:
                    values.setdefault(what, []).append(value)
    print(f"\n| {SAMPLE:,} and {count:,} {name} | {SAMPLE:,} | {count:,} | ratio |\n|---|---|---|---|")
    for what, small in seen[0].items():
        large = seen[1][what]
        print(f"| {what} | {shown(what, small)} | {shown(what, large)} | {ratio(what, small, large)} |", flush=True)


def life(store: Path, part: Part) -> Values:
    """Start a daemon, measure it, and check its store."""
    with started(store) as daemon:
        values = {"start": measures.start(daemon)}
        with contextlib.closing(Client(daemon)) as client:
            values |= part.measure(client, store)
            values |= measures.operations(client, daemon)
    return {**values, "check": measures.check(store)}


@contextlib.contextmanager
def started(store: Path) -> Iterator[Daemon]:
    port = free_port()
    arguments = ("--listen", f"127.0.0.1:{port}", "--store", str(store), "--workers", "1", "--log-level", "warning")
    # Drops of a store that was made long ago are available as well.
    daemon = Daemon(*arguments, "--drop-ttl", "3650d", before=pinned(SERVER_CORE))
    daemon.ports = [port]
    try:
        yield daemon
        daemon.stop()
    finally:
        daemon.kill()
        daemon.log.close()


def shown(what: str, values: list[float]) -> str:
    value = statistics.median(values)
    if "MiB" in what:
        return f"{value:.1f}"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.2f} ms"


def ratio(what: str, small: list[float], large: list[float]) -> str:
    least = 0.0
    if what.startswith("CPU"):
        if statistics.median(large) <= _TICK:
            return "-"
        least = _TICK
    return f"{statistics.median(value / max(beside, least) for value, beside in zip(large, small)):.2f}"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="tests.proofs.growth", description="Measure what grows with a store.")
    parser.add_argument("--rounds", type=int, default=4, help="the first of several is not counted; default: 4")
    parser.add_argument("--directory", help="keeps the stores for the next run; default: none are kept")
    for name, part in PARTS.items():
        parser.add_argument(f"--{name}", type=int, default=part.count, help=f"default: {part.count:,}")
    options = vars(parser.parse_args(arguments))
    # As the daemon's own directories.
    os.umask(0o077)
    with tempfile.TemporaryDirectory() as temporary:
        for name in PARTS:
            if options[name]:
                prove(Path(options["directory"] or temporary), name, options[name], options["rounds"])


if __name__ == "__main__":
    main(sys.argv[1:])
