"""A command that measures: its options, its table or JSON, and its chart."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from filestoraged.daemon.descriptors import raise_limit
from tests.bench import machine, report
from tests.bench.contest import Bench
from tests.bench.disk import FILE_SYSTEMS, Disk, unshare_mounts
from tests.bench.figures import Figure


def run(program: str, measures: Mapping[str, Callable[[Bench], Sequence[Figure]]], *, rounds: int = 5) -> int:
    """Measure and print. Returns 0 where every measured goal is reached, else 1."""
    given = _parser(program, measures, rounds).parse_args()
    # The clients need a descriptor for each of thousands of connections.
    raise_limit()
    about = {"date": datetime.date.today().isoformat(), "machine": machine.description()}
    figures: list[Figure] = []
    with contextlib.ExitStack() as stack:
        images = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=given.directory)))
        directory = images if given.disk is None else _mount(stack, images, given.disk)
        # nginx runs as another user, which needs access to the files.
        images.chmod(0o755)
        bench = Bench(directory, given.rounds, given.seconds, given.share, images, given.disk or "")
        for name in given.measures or measures:
            print(f"{program}: {name}", file=sys.stderr, flush=True)
            figures += measures[name](bench)
    if given.plot:
        given.plot.write_text(report.plot(figures, f"{about['date']}, {about['machine']}"))
    if given.json:
        print(report.as_json(figures, about))
    else:
        print(f"{program} {shlex.join(sys.argv[1:])}: {about['date']}, {about['machine']}")
        print(f"medians of {given.rounds} rounds of {given.seconds} s (and their spread)")
        print(report.table(figures))
    return 0 if all(goal.holds is not False for figure in figures for goal in figure.goals) else 1


def _mount(stack: contextlib.ExitStack, images: Path, kind: str) -> Path:
    unshare_mounts()
    disk = stack.enter_context(Disk(images, kind, "loop"))
    stack.enter_context(disk.mounted())
    return disk.path


def _parser(program: str, measures: Mapping[str, object], rounds: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Measure filestoraged on this machine, compared with other programs that are installed.",
        epilog=f"Measures: {', '.join(measures)}. Without a MEASURE, all of them run.",
    )
    parser.add_argument("measures", metavar="MEASURE", nargs="*", choices=[*measures, []], help="a measure to run")
    parser.add_argument("--json", action="store_true", help="print all samples as JSON instead of a table")
    parser.add_argument("--plot", metavar="FILE.svg", type=Path, help="draw a bar chart too")
    parser.add_argument("--rounds", metavar="N", type=int, default=rounds, help=f"of each measure (default: {rounds})")
    parser.add_argument("--seconds", metavar="S", type=int, default=3, help="seconds per measurement (default: 3)")
    parser.add_argument("--share", type=float, default=1.0, help="part of sizes and counts, for a trial (default: 1)")
    parser.add_argument(
        "--in", metavar="DIRECTORY", dest="directory", help="directory for files (default: the temporary directory)"
    )
    parser.add_argument(
        "--disk", choices=FILE_SYSTEMS, help="make such a file system in an image there, on a loop device; needs root"
    )
    return parser
