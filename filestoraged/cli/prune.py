"""`filestoraged prune`: moves the objects of a repository that a list does not name to the quarantine."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from filestoraged.check.prune import Prune, Pruned, PruneTotals, read_keep_list
from filestoraged.check.throttle import Throttle
from filestoraged.cli.options import CommandParser
from filestoraged.cli.progress import size_text
from filestoraged.cli.report import JsonReport, Report, ReportEntry, report_all
from filestoraged.cli.stopping import STOPPED, run_with_output, stopped_by_signals
from filestoraged.clock import SYSTEM_CLOCK
from filestoraged.command_errors import CheckError, StartError, UsageError
from filestoraged.daemon.backend import default_store
from filestoraged.daemon.backends import StoreOptions, selected
from filestoraged.daemon.config import file_values
from filestoraged.daemon.values import parse_duration
from filestoraged.errors import StorageFull, StoreUnavailable
from filestoraged.store import layout
from filestoraged.wire.dates import format_timestamp

# Exit statuses.
_NOTHING, _MOVED = range(2)

_DEFAULT_AGE = "14d"

_STORE_FIELDS = {field.attribute: field for field in StoreOptions.fields}


def prune(arguments: Sequence[str]) -> int:
    """Print what is moved. Returns 0 if that is nothing, 1 if it is something, 2 if the run was stopped.

    Raises CheckError where nothing can be moved, and UsageError.
    """
    given = make_parser().parse_args(arguments)
    age = parse_duration(given.older)
    if given.keep == "-" and sys.stdin is None:
        # As `<&-` of a shell does.
        raise CheckError("standard input is closed")

    def run() -> int:
        throttle = Throttle()
        pruning = _open_run(given, throttle, before=SYSTEM_CLOCK.date() - age)
        with stopped_by_signals(throttle):
            return _run(pruning, given)

    return run_with_output(run, "what is moved")


def _run(run: Prune, given: argparse.Namespace) -> int:
    fields = {"repository": given.repository, "dry_run": given.dry_run}
    report = JsonReport(sys.stdout, "objects", fields) if given.json else Report(sys.stdout)
    verb = "would move" if given.dry_run else "moved"

    def summarize(*, complete: bool) -> ReportEntry:
        return _totals(run.totals, verb, complete=complete)

    if not report_all(report, _pruned(run, is_dry=given.dry_run), lambda pruned: _entry(pruned, verb), summarize):
        return STOPPED
    return _MOVED if run.totals.pruned else _NOTHING


def _pruned(run: Prune, *, is_dry: bool) -> Iterator[Pruned]:
    """Raises CheckError where objects cannot be moved: an OSError is then one of the output."""
    try:
        yield from run.find() if is_dry else run.run()
    except OSError as error:
        raise CheckError(f"cannot move objects: {error.strerror or error}") from error
    except (StoreUnavailable, StorageFull) as error:
        raise CheckError(f"cannot move objects: {error.__cause__ or error}") from error


def _entry(pruned: Pruned, verb: str) -> ReportEntry:
    to = "" if pruned.path is None else f" to {pruned.path}"
    stored = format_timestamp(pruned.modified)
    fields = {"oid": pruned.oid, "size": pruned.size, "modified": stored, "path": pruned.path}
    return ReportEntry(f"{verb} {pruned.oid}, {size_text(pruned.size)}, stored {stored}{to}", fields)


def _totals(totals: PruneTotals, verb: str, *, complete: bool) -> ReportEntry:
    text = (
        f"{verb} {totals.pruned} objects, {size_text(totals.size)}; kept {totals.named} that the list names"
        f" and {totals.recent} that are recent{'' if complete else '; not complete'}"
    )
    counted = {"pruned": totals.pruned, "bytes": totals.size, "kept": totals.named, "recent": totals.recent}
    return ReportEntry(text, {**counted, "complete": complete})


def _open_run(given: argparse.Namespace, throttle: Throttle, *, before: float) -> Prune:
    """Raises StartError where the repository cannot be pruned, UsageError, and CheckError for the keep list."""
    if not layout.is_repository(given.repository):
        expected = "1 to 128 of A-Z a-z 0-9 . _ - and neither . nor .."
        raise UsageError(f"invalid repository {given.repository!r}: expected {expected}")
    options = StoreOptions(**_settings(given))
    backend = selected(options)
    if backend.prune is None:
        raise StartError(f"cannot prune objects in {backend.option}: it cannot list them")
    store = backend.prune(options, given.repository, throttle, moves=not given.dry_run)
    return Prune(store, given.repository, _read_keep_list(given), before=before, throttle=throttle)


def _settings(given: argparse.Namespace) -> dict[str, Any]:
    if given.store is not None:
        return {"store": _STORE_FIELDS["store"].value(given.store)}
    values = file_values(given.config, list(_STORE_FIELDS)) if given.config is not None else {}
    return {"store": default_store(), **values}


def _read_keep_list(given: argparse.Namespace) -> frozenset[bytes]:
    """Raises CheckError where the list cannot be read, or would have every object moved by mistake."""
    try:
        with _open_list(given.keep) as stream:
            keep = read_keep_list(stream)
    except (OSError, ValueError) as error:
        # ValueError: the path has a null byte.
        raise CheckError(f"cannot read the keep list {given.keep!r}: {_reason(error)}") from error
    if not keep and not given.keep_nothing:
        raise CheckError(f"the keep list {given.keep!r} is empty: --keep-nothing moves all old objects")
    return keep


def _open_list(path: str) -> contextlib.AbstractContextManager[BinaryIO]:
    return contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="filestoraged prune",
        description="Move the objects of a repository that a list does not name to the directory quarantine of the"
        " store.",
        epilog="Exit status: 0: there was nothing to move; 1: objects were moved, or would be; 2: not done, or usage or"
        " configuration error.",
    )
    parser.add_argument("repository", metavar="REPOSITORY", help="name of the repository")
    parser.add_argument(
        "--keep",
        metavar="FILE",
        required=True,
        help="list of the objects to keep, an oid at the beginning of each line, as git-lfs lists them with long oids;"
        " - for standard input",
    )
    parser.add_argument("--keep-nothing", action="store_true", help="accept an empty list")
    parser.add_argument(
        "--older", metavar="TIME", default=_DEFAULT_AGE, help=f"move only what was stored before ({_DEFAULT_AGE})"
    )
    parser.add_argument("--dry-run", action="store_true", help="move nothing, and print what would be moved")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--store", metavar="DIR", help="directory of the store, as for the daemon (./store)")
    where.add_argument("--config", metavar="FILE", help="the daemon's configuration, which names the store (none)")
    return parser
