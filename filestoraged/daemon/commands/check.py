"""`filestoraged check`: whether everything in a store is what its name says."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from filestoraged.check.findings import FOREIGN, Finding
from filestoraged.check.throttle import CheckStopped, Throttle
from filestoraged.daemon.backends import BACKENDS, Check, StoreOptions, default_store
from filestoraged.daemon.commands.check_output import JsonReport, Progress, Report, ReportTotals, TextReport
from filestoraged.daemon.config import file_values
from filestoraged.daemon.fields import CommandParser, declared
from filestoraged.daemon.values import parse_size
from filestoraged.errors import CheckError, StartError, StoreUnavailable, UsageError

# Seconds between two updates of the progress while nothing is found.
_PROGRESS_INTERVAL = 0.1

# Exit statuses.
_CLEAN, _FOUND, _NOT_CHECKED = range(3)

# By attribute, as the table of backends names them.
_STORE_FIELDS = {field.attribute: field for field in declared(StoreOptions)}
_BACKEND_FIELDS = frozenset(backend.option for backend in BACKENDS)


def check(arguments: Sequence[str]) -> int:
    """Print the findings. Returns 0 without any, 1 with some, 2 if the check was stopped.

    Raises CheckError where the check cannot be made, and UsageError.
    """
    given = _parser().parse_args(arguments)
    limit = _parse_limit(given.limit)
    try:
        settings = _settings(given)
        if given.repair and "store" in settings:
            _require_writable(settings["store"])
        throttle = Throttle(limit)
        ignored = (FOREIGN,) if given.ignore_foreign else ()
        with _stopped_by_signals(throttle):
            checks = list(_checks(settings, throttle, repair=given.repair))
            return _run(checks, JsonReport(sys.stdout) if given.json else TextReport(sys.stdout), ignored)
    except StartError as error:
        raise CheckError(str(error)) from error
    except BrokenPipeError:
        _discard_output()
        return _NOT_CHECKED
    except OSError as error:
        _discard_output()
        raise CheckError(f"cannot write the findings: {error.strerror or error}") from error


def _discard_output() -> None:
    """Keep the interpreter from writing the rest of the output when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(checks: list[Check], report: Report, ignored: Sequence[str]) -> int:
    """Report the findings, except those of the `ignored` kinds, which are not counted either."""
    progress = Progress(sys.stderr)
    found: dict[str, int] = {}
    complete = False
    try:
        for each in checks:
            for finding in _findings(each):
                progress.show(each.totals)
                if finding is not None and finding.kind not in ignored:
                    progress.clear()
                    report.add(finding)
                    found[finding.kind] = found.get(finding.kind, 0) + 1
        complete = True
    except CheckStopped:
        # By a signal.
        pass
    finally:
        progress.clear()
        objects, size = sum(each.totals.objects for each in checks), sum(each.totals.size for each in checks)
        report.end(ReportTotals(objects, size, progress.seconds, found, complete))
    if not complete:
        return _NOT_CHECKED
    return _FOUND if found else _CLEAN


def _findings(check_: Check) -> Iterator[Finding | None]:
    try:
        yield from check_.findings(_PROGRESS_INTERVAL)
    except StoreUnavailable as error:
        raise CheckError(str(error.__cause__ or error)) from error
    except OSError as error:
        raise CheckError(f"cannot read the store: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise CheckError(f"cannot read a database: {error}") from error


def _checks(settings: dict[str, Any], throttle: Throttle, *, repair: bool) -> Iterator[Check]:
    """Yield a check for each backend that the settings name. Raises StartError."""
    options = StoreOptions(**settings)
    for backend in BACKENDS:
        if backend.option in settings:
            yield backend.check(options, throttle=throttle, repair=repair)


def _settings(given: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the backends to check: of that named by a flag, else of all that the file names.

    Raises StartError where a store is not there, unless there is another backend: its daemon may have neither drops nor
    keys.
    """
    settings = file_values(given.config, [*_BACKEND_FIELDS, "hash"]) if given.config is not None else {}
    if given.hash is not None:
        settings["hash"] = _STORE_FIELDS["hash"].value(given.hash)
    flags = {name: getattr(given, name) for name in _BACKEND_FIELDS if getattr(given, name) is not None}
    if flags:
        settings = {name: value for name, value in settings.items() if name not in _BACKEND_FIELDS}
        settings.update({name: _STORE_FIELDS[name].value(text) for name, text in flags.items()})
    else:
        settings.setdefault("store", default_store())
    if "store" in settings and not os.path.isdir(settings["store"]):
        if len(settings.keys() & _BACKEND_FIELDS) == 1:
            raise StartError(f"there is no store {settings['store']!r}")
        del settings["store"]
    return settings


def _require_writable(store: str) -> None:
    if not os.access(store, os.W_OK | os.X_OK):
        raise StartError(f"cannot repair the store {store!r}: it cannot be written")


def _parse_limit(text: str | None) -> int | None:
    limit = None if text is None else parse_size(text)
    if limit == 0:
        raise UsageError("invalid limit '0': expected 1 byte per second or more")
    return limit


@contextlib.contextmanager
def _stopped_by_signals(throttle: Throttle) -> Iterator[None]:
    """The first signal stops the check, which then reports what it has found; a second one ends the process."""

    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        throttle.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="filestoraged check",
        description="Read everything that is stored, and compare it with its name.",
        epilog="Exit status: 0: nothing is wrong; 1: something is; 2: not checked, or usage or configuration error.",
    )
    where = parser.add_mutually_exclusive_group()
    for field in (_STORE_FIELDS[backend.option] for backend in reversed(BACKENDS)):
        help_ = f"check this alone, as for the daemon ({field.default})".replace("%", "%%")
        where.add_argument(f"--{field.name}", dest=field.attribute, metavar=field.metavar, help=help_)
    parser.add_argument("--hash", metavar="NAME", help="digest that names most objects of files (sha256)")
    parser.add_argument("--config", metavar="FILE", help="the daemon's: its store, its servers and its hash (none)")
    parser.add_argument("--repair", action="store_true", help="move damaged files away, so that uploads replace them")
    parser.add_argument(
        "--ignore-foreign", action="store_true", help="neither report nor count files that the daemon did not make"
    )
    parser.add_argument("--limit", metavar="BYTES", help="bytes to read per second at most, such as 50M (no limit)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser
