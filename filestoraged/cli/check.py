"""`filestoraged check`: whether everything in a store is what its name says."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from filestoraged.check.findings import FINDING_KINDS, FOREIGN, Finding
from filestoraged.check.throttle import Throttle
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
from filestoraged.cli.stopping import STOPPED, run_with_output, stopped_by_signals
from filestoraged.command_errors import CheckError, StartError, UsageError
from filestoraged.daemon.backend import Check, default_store
from filestoraged.daemon.backends import BACKENDS, StoreOptions
from filestoraged.daemon.config import file_values
from filestoraged.daemon.values import parse_size
from filestoraged.errors import StoreFailed, StoreUnavailable

# Seconds between two updates of the progress while nothing is found.
_PROGRESS_INTERVAL = 0.1

# Exit statuses.
_CLEAN, _FOUND = range(2)

# By attribute, as the table of backends names them.
_STORE_FIELDS = {field.attribute: field for field in StoreOptions.fields}
# What is checked, and what the check of a backend needs besides.
_PLACES = (*(backend.option for backend in BACKENDS), "database")
_OTHER_FIELDS = ("hash", "s3_region", "s3_credentials")


def check(arguments: Sequence[str]) -> int:
    """Print the findings. Returns 0 without any, 1 with some, 2 if the check was stopped.

    Raises CheckError where the check cannot be made, and UsageError.
    """
    given = make_parser().parse_args(arguments)
    limit = parse_limit(given.limit)

    def run() -> int:
        settings = _settings(given)
        if given.repair and "store" in settings:
            _require_writable(settings["store"])
        throttle = Throttle(limit)
        ignored = (FOREIGN,) if given.ignore_foreign else ()
        with stopped_by_signals(throttle):
            checks = list(_checks(settings, throttle, repair=given.repair))
            return _run(checks, JsonReport(sys.stdout, "findings") if given.json else Report(sys.stdout), ignored)

    return run_with_output(run)


def _run(checks: Sequence[Check], report: Report, ignored: Sequence[str]) -> int:
    """Report the findings, except those of the `ignored` kinds, which are not counted either."""
    progress = Progress(sys.stderr)
    found: dict[str, int] = {}

    def findings() -> Iterator[Finding]:
        for each in checks:
            for finding in _findings(each):
                progress.show(each.totals)
                if finding is not None and finding.kind not in ignored:
                    found[finding.kind] = found.get(finding.kind, 0) + 1
                    yield finding

    def summarize(*, complete: bool) -> ReportEntry:
        objects, size = sum(each.totals.objects for each in checks), sum(each.totals.size for each in checks)
        return _totals(objects, size, progress.seconds, found, complete=complete)

    if not report_all(report, findings(), _entry, summarize, progress):
        return STOPPED
    return _FOUND if found else _CLEAN


def _entry(finding: Finding) -> ReportEntry:
    return ReportEntry(finding_text(finding), {**finding._asdict(), "repaired": finding.remedy is not None})


def _totals(objects: int, size: int, seconds: float, found: Mapping[str, int], *, complete: bool) -> ReportEntry:
    """`size` is in bytes."""
    text = (
        f"{'checked' if complete else 'stopped after'} {objects} objects, {speed_text(size, seconds)};"
        f" {found_text(found, FINDING_KINDS) or 'nothing'} found"
    )
    by_kind = {kind: found.get(kind, 0) for kind in FINDING_KINDS}
    fields = {"objects": objects, **speed_fields(size, seconds), "found": by_kind, "complete": complete}
    return ReportEntry(text, fields)


def _findings(check_: Check) -> Iterator[Finding | None]:
    try:
        yield from check_.findings(_PROGRESS_INTERVAL)
    except (StoreUnavailable, StoreFailed) as error:
        raise CheckError(str(error.__cause__ or error)) from error
    except OSError as error:
        raise CheckError(f"cannot read the store: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise CheckError(f"cannot read a database: {error}") from error


def _checks(settings: dict[str, Any], throttle: Throttle, *, repair: bool) -> Iterator[Check]:
    """Yield a check for each backend that the settings name. Raises StartError."""
    # An empty directory is one that is not checked, and whose databases are not compared with objects elsewhere.
    options = StoreOptions(**{"store": "", **settings})
    try:
        if options.database is not None:
            from filestoraged.check.tables import PostgresCheck

            yield PostgresCheck(options.database, throttle=throttle)
        checked = [backend for backend in BACKENDS if backend.option in settings]
        elsewhere = any(backend.keeps_drops for backend in checked)
        for backend in checked:
            yield backend.check(options, throttle=throttle, repair=repair, drops_elsewhere=elsewhere)
    except (StoreUnavailable, StoreFailed) as error:
        raise StartError(f"cannot read the database: {error.__cause__ or error}") from error


def _settings(given: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the backends to check: of that named by a flag, else of all that the file names.

    Raises StartError where a store is not there, unless there is another backend: its daemon may have neither drops nor
    keys.
    """
    fields = (*_OTHER_FIELDS, *_PLACES)
    settings = file_values(given.config, fields) if given.config is not None else {}
    texts = {name: getattr(given, name) for name in fields if getattr(given, name) is not None}
    flags = {name: _STORE_FIELDS[name].value(text) for name, text in texts.items()}
    if flags.keys().isdisjoint(_PLACES):
        settings.setdefault("store", default_store())
    else:
        settings = {name: value for name, value in settings.items() if name not in _PLACES}
    settings.update(flags)
    if "store" in settings and not os.path.isdir(settings["store"]):
        if len(settings.keys() & set(_PLACES)) == 1:
            raise StartError(f"there is no store {settings['store']!r}")
        del settings["store"]
    return settings


def _require_writable(store: str) -> None:
    if not os.access(store, os.W_OK | os.X_OK):
        raise StartError(f"cannot repair the store {store!r}: it cannot be written")


def parse_limit(text: str | None) -> int | None:
    limit = None if text is None else parse_size(text)
    if limit == 0:
        raise UsageError("invalid limit '0': expected 1 byte per second or more")
    return limit


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="filestoraged check",
        description="Read everything that is stored, and compare it with its name.",
        epilog="Exit status: 0: nothing is wrong; 1: something is; 2: not checked, or usage or configuration error.",
    )
    where = parser.add_mutually_exclusive_group()
    for field in (_STORE_FIELDS[backend.option] for backend in reversed(BACKENDS)):
        help_ = f"check this alone, as for the daemon ({field.default})".replace("%", "%%")
        where.add_argument(f"--{field.name}", dest=field.attribute, metavar=field.metavar, help=help_)
    parser.add_argument("--s3-region", metavar="NAME", help="region of the S3 store, as for the daemon (us-east-1)")
    parser.add_argument("--s3-credentials", metavar="FILE", help="credentials for the S3 store (AWS_* variables)")
    parser.add_argument(
        "--database", metavar="URL", help="check this database; with --store, it has the drops of the store (none)"
    )
    parser.add_argument("--hash", metavar="NAME", help="digest that names most objects of files (sha256)")
    parser.add_argument("--config", metavar="FILE", help="the daemon's: its store, its servers and its hash (none)")
    parser.add_argument("--repair", action="store_true", help="move damaged files away, so that uploads replace them")
    parser.add_argument(
        "--ignore-foreign", action="store_true", help="neither report nor count files that the daemon did not make"
    )
    parser.add_argument("--limit", metavar="BYTES", help="bytes to read per second at most, such as 50M (no limit)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser
