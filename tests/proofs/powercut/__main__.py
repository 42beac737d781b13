"""Power cuts during mixed load: `sudo .venv-3.11/bin/python -m tests.proofs.powercut`. Needs root and loop devices.

A round starts daemons on a file system of its own, lets clients load them, and cuts the power at a random moment: what
no sync has made durable is lost. After a remount and a restart, all that was acknowledged before the cut must be there
and whole, what was removed must be gone, what was in flight may be there, whole, or not, and `filestoraged check` must
find nothing. In a part of the rounds the power is cut again and again while a daemon starts, and in another part the
first that sees the store is the check. Five rounds share a file system: what was acknowledged in one round must survive
the cuts of the others.

Each client has connections to several workers and daemons: what one of them stored another one removes, and stores
again. What no name leads to any more is collected while all this happens. Sometimes all daemons are killed and started
again before the cut, in the same boot.

`--break fsync,syncfs` makes system calls of the daemon do nothing, by strace: the proof must then fail.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.bench.disk import FILE_SYSTEMS, Disk, unshare_mounts
from tests.bench.machine import kill_family
from tests.daemon.hasty import run_hasty_daemon
from tests.daemon.process import PATIENCE, Daemon
from tests.proofs.powercut.load import Connection, Load
from tests.proofs.powercut.names import NameClient, SwappingClient, verify_names
from tests.proofs.powercut.record import Record
from tests.proofs.powercut.resumable import ResumingClient, verify_uploads
from tests.proofs.powercut.verify import verify_check, verify_drops, verify_files, verify_keys, verify_objects
from tests.support import find_program

# The clients of a round besides those of `load`.
_MORE = (*(4 * (ResumingClient,)), *(4 * (NameClient,)), *(3 * (SwappingClient,)))

# A file system is made anew after so many rounds, so that its image stays small: a round writes 300 MiB at most.
_ROUNDS_PER_DISK = 5

# Errors shown for each round.
_SHOWN = 10

# The share of rounds in which the cut follows the last response of all clients: no later request then syncs what the
# last one should have synced. In the others, the cut hits requests in flight.
_QUIET = 0.4

# The share of rounds in which `filestoraged check` sees the store before a daemon does.
_CHECKED_FIRST = 0.2

# The share of rounds in which the daemons are killed and started again before the cut.
_KILLED = 0.3

# Seconds for which the daemon runs on after the cut: what it then acknowledges is ignored, but it must not hang.
_AFTER_CUT = 0.05

# The most cuts while the daemon starts, which follow one another.
_MAX_CUTS = 3

# Such a cut comes within this part of the time that the last start took, where the daemon recovers what the cut left.
_RECOVERY = (0.4, 1.1)


class Proof:
    """All rounds on one kind of file system."""

    def __init__(self, kind: str, options: argparse.Namespace, directory: Path) -> None:
        self._kind = kind
        self._options = options
        self._directory = directory
        self._random = random.Random(f"{options.seed} {kind}")
        self._counts: Counter[str] = Counter()
        self._failed = 0
        # Seconds of the last start.
        self._start = 0.5

    def run(self) -> bool:
        """Print the result of each round, and a summary. Returns whether nothing was lost."""
        number = 0
        while number < self._options.rounds:
            record = Record()
            with Disk(self._directory, self._kind) as disk:
                for _ in range(min(_ROUNDS_PER_DISK, self._options.rounds - number)):
                    number += 1
                    if not self._round(disk, record, number):
                        # What was lost would be missing in the next round as well.
                        break
            self._counts += record.counts
        print(f"{self._kind}: {number} rounds, {self._failed} failed; acknowledged before the cuts:")
        for what, count in sorted(self._counts.items()):
            print(f"  {count:,} {what}")
        return not self._failed

    def _round(self, disk: Disk, record: Record, number: int) -> bool:
        started, before = time.monotonic(), record.counts.total()
        errors: list[str] = []
        with disk.mounted():
            if self._random.random() < _KILLED:
                record.forget_removals(self._load(disk, record, f"{number}.killed", lambda: None, errors))
                self._counts["kills before a cut"] += 1
            cut = self._load(disk, record, str(number), disk.cut, errors)
        if self._random.random() < self._options.twice:
            for _ in range(self._random.randint(1, _MAX_CUTS)):
                self._cut_while_starting(disk)
                self._counts["cuts while a daemon started"] += 1
        self._verify(disk, record, cut, errors)
        self._failed += bool(errors)
        acknowledged, seconds = record.counts.total() - before, time.monotonic() - started
        print(f"{self._kind} round {number}: {acknowledged} acknowledged, {len(errors)} errors, {seconds:.1f} s")
        for what, count in Counter(error.split(" ")[0].rstrip(":") for error in errors).items():
            print(f"  {count} of {what}")
        for error in errors[:_SHOWN]:
            print(f"  {error}")
        sys.stdout.flush()
        return not errors

    def _load(self, disk: Disk, record: Record, name: str, cut: Callable[[], None], errors: list[str]) -> float:
        """Load the daemons, `cut` the power at a random moment, and kill them. Returns the time of the cut."""
        record.begin_round()
        with contextlib.ExitStack() as stack:
            daemons = [
                stack.enter_context(self._serving(disk, self._options.broken)) for _ in range(self._options.daemons)
            ]
            ports = [daemon.wait_until_listening().ports[0] for daemon in daemons]
            with Load(ports, record, f"{self._options.seed}.{name}", _MORE) as load:
                time.sleep(self._random.uniform(0.05, self._options.after))
                if self._random.random() < _QUIET:
                    load.finish_with_one()
                record.end_round()
                time_of_cut = time.monotonic()
                cut()
                time.sleep(_AFTER_CUT)
                for daemon in daemons:
                    kill_family(daemon.process.pid)
        errors += record.unexpected
        return time_of_cut

    def _cut_while_starting(self, disk: Disk) -> None:
        with disk.mounted(), self._serving(disk):
            time.sleep(self._start * self._random.uniform(*_RECOVERY))
            disk.cut()

    def _verify(self, disk: Disk, record: Record, cut: float, errors: list[str]) -> None:
        store = disk.path / "store"
        with disk.mounted():
            if self._random.random() < _CHECKED_FIRST:
                errors += verify_check(store, "half-made")
            try:
                started = time.monotonic()
                with self._serving(disk) as daemon:
                    connection = Connection([daemon.wait_until_listening().ports[0]])
                    self._start = time.monotonic() - started
                    errors += verify_files(store, record)
                    errors += verify_objects(connection.ask, record)
                    errors += verify_uploads(connection, record)
                    errors += verify_drops(connection.ask, record, cut)
                    errors += verify_keys(connection.ask, record)
                    errors += verify_names(connection.ask, record, store)
                    connection.close()
                    if daemon.stop():
                        errors.append(f"the daemon's exit status is {daemon.process.returncode}")
            except (AssertionError, OSError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
                errors.append(f"the daemon: {error}")
            errors += verify_check(store)

    @contextlib.contextmanager
    def _serving(self, disk: Disk, broken: str | None = None) -> Iterator[Daemon]:
        """Start a daemon, and kill it at the end. Its system calls in `broken` do nothing."""
        workers = str(self._options.workers)
        arguments = ("--listen", "127.0.0.1:0", "--workers", workers, "--store", str(disk.path / "store"))
        daemon = Daemon(*arguments, before=(*disk.before, *_breaking(broken)), main=run_hasty_daemon)
        try:
            yield daemon
        finally:
            kill_family(daemon.process.pid)
            daemon.process.wait(PATIENCE)
            daemon.log.close()


def _breaking(calls: str | None) -> Sequence[str]:
    """A command prefix that makes system calls return 0 and do nothing."""
    if calls is None:
        return ()
    inject = (f"--inject={call}:retval=0" for call in calls.split(","))
    return (find_program("strace"), "-f", "-qq", "--seccomp-bpf", "-o/dev/null", f"--trace={calls}", *inject)


def main(arguments: Sequence[str]) -> bool:
    parser = argparse.ArgumentParser(prog="tests.proofs.powercut", description="Cut the power during mixed load.")
    parser.add_argument("--fs", choices=FILE_SYSTEMS, help="the kind of file system; default: each")
    parser.add_argument("--rounds", type=int, default=10, help="for each kind; default: 10")
    parser.add_argument("--after", type=float, default=2.0, help="the longest time until a cut, in seconds; default: 2")
    parser.add_argument("--workers", type=int, default=2, help="of each daemon; default: 2")
    parser.add_argument("--daemons", type=int, default=1, help="that share the store; default: 1")
    parser.add_argument("--twice", type=float, default=0.3, help="the share of rounds with more cuts; default: 0.3")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the random choices")
    parser.add_argument("--directory", help="holds the image, 4 GiB at most; default: that of temporary files")
    parser.add_argument("--break", dest="broken", metavar="CALLS", help="system calls that do nothing, as fsync,syncfs")
    options = parser.parse_args(arguments)
    unshare_mounts()
    print(f"seed {options.seed}")
    kinds = FILE_SYSTEMS if options.fs is None else (options.fs,)
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="powercut-") as directory:
        results = [Proof(kind, options, Path(directory)).run() for kind in kinds]
    return all(results)


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1:]) else 1)
