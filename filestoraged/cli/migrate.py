"""`filestoraged migrate`: copies all that one daemon keeps to where the configuration of another one keeps it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence

from filestoraged.check.findings import Finding
from filestoraged.check.throttle import CheckStopped, Throttle
from filestoraged.cli.check import parse_limit
from filestoraged.cli.check_output import Progress, show_findings
from filestoraged.cli.migrate_output import MigrationJson, MigrationReport, MigrationText, Summary
from filestoraged.cli.migrate_sides import open_sides, prepare, require
from filestoraged.cli.options import CommandParser
from filestoraged.cli.serve import parse_arguments
from filestoraged.cli.stopping import STOPPED, run_with_output, stopped_by_signals
from filestoraged.daemon.config import Config
from filestoraged.errors import CheckError, Error, UsageError
from filestoraged.migration.migration import Comparison, Migration
from filestoraged.migration.transfer import reason_of

# Seconds between two updates of the progress while nothing is found.
_PROGRESS_INTERVAL = 0.1

# Exit statuses.
_DONE, _FOUND = range(2)


def migrate(arguments: Sequence[str]) -> int:
    """Print what is not copied, or differs. Returns 0 if that is nothing, 1 with some, 2 if the run was stopped.

    Raises CheckError where nothing can be copied, and UsageError.
    """
    given = make_parser().parse_args(arguments)
    throttle = Throttle(parse_limit(given.limit))
    if given.verify and given.delete:
        raise UsageError("--verify changes nothing, and --delete removes objects: give one of them")

    def run() -> int:
        with stopped_by_signals(throttle), contextlib.ExitStack() as closing:
            migration = _prepared(given, throttle, closing)
            return _run(migration, MigrationJson(sys.stdout) if given.json else MigrationText(sys.stdout))

    return run_with_output(run)


def _prepared(given: argparse.Namespace, throttle: Throttle, closing: contextlib.ExitStack) -> Migration | Comparison:
    source, target, parts = open_sides(_read(given.source), _read(given.target), closing)
    require(source)
    if given.verify:
        require(target)
        return Comparison(source.service, target.service, parts, throttle)
    prepare(target, closing)
    return Migration(source.service, target.service, parts, throttle, delete=given.delete)


def _run(run: Migration | Comparison, report: MigrationReport) -> int:
    progress = Progress(sys.stderr)
    found: dict[str, int] = {}
    complete = False
    try:
        show_findings(_findings(run), report.add, progress, run.totals, found)
        complete = True
    except CheckStopped:
        # By a signal.
        pass
    finally:
        progress.clear()
        report.end(Summary(run.totals, progress.seconds, found, complete, isinstance(run, Comparison)))
    if not complete:
        return STOPPED
    return _FOUND if found else _DONE


def _findings(run: Migration | Comparison) -> Iterator[Finding | None]:
    """Raises CheckError where it cannot go on: an OSError is then one of the output."""
    try:
        yield from run.findings(_PROGRESS_INTERVAL)
    except CheckError:
        raise
    except Error as error:
        raise CheckError(f"cannot go on: {reason_of(error)}") from error
    except OSError as error:
        raise CheckError(f"cannot go on: {error.strerror or error}") from error


def _read(path: str) -> Config:
    return parse_arguments(["--config", path])


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="filestoraged migrate",
        description="Copy the objects and databases of one configuration of the daemon to where another one keeps them,"
        " and verify each object. The old daemon may serve meanwhile, the new one must not. Run again, it copies what"
        " has changed.",
        epilog="Exit status: 0: everything is copied, or the same; 1: something is not; 2: not done, or usage or"
        " configuration error.",
    )
    parser.add_argument(
        "--from", dest="source", metavar="FILE", required=True, help="configuration of the old daemon, only read from"
    )
    parser.add_argument("--to", dest="target", metavar="FILE", required=True, help="configuration of the new daemon")
    parser.add_argument("--verify", action="store_true", help="copy nothing, and compare both: reads all objects")
    parser.add_argument(
        "--delete", action="store_true", help="remove objects from the target that the source does not have"
    )
    parser.add_argument("--limit", metavar="BYTES", help="bytes to read per second at most, such as 50M (no limit)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser
