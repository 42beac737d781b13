"""Run every test, and end with a line that counts them: `python -m tests [-v] [NAME …]`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType

from tests.runner.durations import read_durations, write_durations
from tests.runner.progress import Progress
from tests.runner.real_time import sleeps
from tests.runner.scheduler import Scheduler
from tests.runner.units import fast_only, group, load_tests_named, shuffled, without_long

# More than the cores, as most tests wait for others most of the time. With three for each core, ten processes wanted a
# core at a time, and now and then a test met something that happens only on a machine so busy.
_MORE_THAN_CORES = 1
# Seconds. The longest test takes ten on an idle machine, and a hundred where twenty processes compete for two cores.
_LIMIT = 300.0


def main(arguments: list[str]) -> int:
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _exit)
    sleeps.install()
    tests = load_tests_named(given.names or ["tests"])
    if not given.long:
        tests = without_long(tests)
    if given.fast:
        tests = fast_only(tests)
    durations = read_durations()
    units = group(tests, durations)
    if given.shuffle is not None:
        units = shuffled(units, given.shuffle)
    progress = Progress(len(tests), verbose=given.verbose, refuse_slow=given.refuse_slow)
    scheduler = Scheduler(progress, jobs=given.jobs, limit=given.limit, refuse_programs=given.fast)
    try:
        scheduler.run(units)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    progress.finish(given.durations, shuffle=given.shuffle)
    write_durations({**durations, **progress.durations})
    print(f"{progress.passed} passed, {progress.failed} failed")  # noqa: T201
    return 0 if progress.durations and not progress.failed else 1


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bin/test",
        description="Run the tests in several processes: one for each class, or for the short classes of a module."
        " Tests that measure time or memory run last, one at a time."
        " The last line counts the tests; a skipped test counts as failed.",
        epilog="PYTHON=/path/to/python chooses the interpreter.",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print the name and the seconds of each test")
    parser.add_argument(
        "--fast",
        action="store_true",
        help="run only the tests that start no program such as the daemon or nginx, and try no thousands of inputs",
    )
    parser.add_argument(
        "--long",
        action="store_true",
        help="run the tests of the long tier, too: gigabytes, storms of kills, packages, scale, real time",
    )
    parser.add_argument(
        "-j",
        "--jobs",
        metavar="N",
        type=int,
        default=min(8, _MORE_THAN_CORES + (os.cpu_count() or 1)),
        help="run at most N classes at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--durations", metavar="N", type=int, default=20, help="print the N slowest tests (default: %(default)s)"
    )
    parser.add_argument(
        "--refuse-slow",
        action="store_true",
        help="fail a test that takes more than 2 s of an idle machine and is not listed in tests/slow.txt;"
        " without it, such a test is only named",
    )
    parser.add_argument(
        "--shuffle",
        metavar="SEED",
        help="run the classes, and the tests of each class, in a random order that this number or word decides",
    )
    parser.add_argument(
        "--limit",
        metavar="SECONDS",
        type=float,
        default=_LIMIT,
        help="end a test that takes longer: it has failed, and the stacks of its threads are printed (default: 300)",
    )
    parser.add_argument(
        "names",
        metavar="NAME",
        nargs="*",
        help="a package (tests.wire), a module (tests.wire.test_head), a class or a test in it; all tests without one",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
