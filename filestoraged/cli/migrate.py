"""`filestoraged migrate`: copies all that one daemon keeps to where the configuration of another one keeps it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from filestoraged.check.findings import Finding
from filestoraged.check.throttle import Throttle
from filestoraged.cli.check import parse_limit
from filestoraged.cli.migrate_sides import open_sides, prepare, require
from filestoraged.cli.options import CommandParser
from filestoraged.cli.progress import Progress
from filestoraged.cli.report import (
    JsonReport,
    Report,
    ReportEntry,
    finding_text,
    found_text,
    report_all,
    speed_fields,
    speed_text,
)
from filestoraged.cli.serve import parse_arguments
from filestoraged.cli.stopping import STOPPED, run_with_output, stopped_by_signals
from filestoraged.command_errors import CheckError, UsageError
from filestoraged.daemon.config import Config
from filestoraged.errors import Error
from filestoraged.migration.findings import MIGRATION_KINDS, MigrationTotals
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
            return _run(migration, JsonReport(sys.stdout, "findings") if given.json else Report(sys.stdout))

    return run_with_output(run)


def _prepared(given: argparse.Namespace, throttle: Throttle, closing: contextlib.ExitStack) -> Migration | Comparison:
    source, target, parts = open_sides(_read(given.source), _read(given.target), closing)
    require(source)
    if given.verify:
        require(target)
        return Comparison(source.service, target.service, parts, throttle)
    prepare(target, closing)
    return Migration(source.service, target.service, parts, throttle, delete=given.delete)


def _run(run: Migration | Comparison, report: Report) -> int:
    progress = Progress(sys.stderr)
    found: dict[str, int] = {}

    def findings() -> Iterator[Finding]:
        for finding in _findings(run):
            progress.show(run.totals)
            if finding is not None:
                found[finding.kind] = found.get(finding.kind, 0) + 1
                yield finding

    def summarize(*, complete: bool) -> ReportEntry:
        return _totals(_Summary(run.totals, progress.seconds, found, complete, isinstance(run, Comparison)))

    if not report_all(report, findings(), _entry, summarize, progress):
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


class _Summary(NamedTuple):
    """`complete` is False where the run was stopped. With `is_comparison`, nothing was to be copied."""

    totals: MigrationTotals
    seconds: float
    found: dict[str, int]
    complete: bool
    is_comparison: bool

    @property
    def size(self) -> int:
        """Bytes that were read in that time."""
        return self.totals.size if self.is_comparison else self.totals.copied_size


def _entry(finding: Finding) -> ReportEntry:
    fields = {"kind": finding.kind, "path": finding.path, "reason": finding.reason}
    return ReportEntry(finding_text(finding), fields)


def _totals(summary: _Summary) -> ReportEntry:
    totals = summary.totals
    fields = {
        "objects": totals.objects,
        "copied": totals.copied,
        "existing": totals.existing,
        "extra": totals.extra,
        "removed": totals.removed,
        **speed_fields(summary.size, summary.seconds),
        "keys": totals.keys,
        "drops": totals.drops,
        "skipped_drops": totals.skipped_drops,
        "locks": totals.locks,
        "names": totals.names,
        "found": {kind: summary.found.get(kind, 0) for kind in MIGRATION_KINDS},
        "complete": summary.complete,
    }
    return ReportEntry(f"{_objects_text(summary)}\n{_rows_text(summary)}", fields)


def _objects_text(summary: _Summary) -> str:
    totals = summary.totals
    verb = "compared" if summary.is_comparison else "copied"
    number = totals.objects if summary.is_comparison else totals.copied
    parts = [] if summary.is_comparison else [f"{totals.existing} were there already"]
    if totals.extra and not summary.is_comparison:
        left = totals.extra - totals.removed
        parts += [f"{left} only at the target, which --delete removes"] if left else []
        parts += [f"{totals.removed} removed from the target"] if totals.removed else []
    found = found_text(summary.found, MIGRATION_KINDS)
    return (
        f"{'' if summary.complete else 'stopped: '}{verb} {number} objects,"
        f" {speed_text(summary.size, summary.seconds)}; {'; '.join([*parts, found or 'nothing found'])}"
    )


def _rows_text(summary: _Summary) -> str:
    totals = summary.totals
    verb = "equal" if summary.is_comparison else "copied"
    text = f"{verb} {totals.keys} keys, {totals.drops} drops, {totals.locks} locks, {totals.names} names"
    if totals.skipped_drops:
        text += f"; skipped {totals.skipped_drops} drops in use or new: run this again when the old daemon has stopped"
    return text


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
