"""`filestoraged check`: whether everything that is stored is what its name says."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Protocol

from filestoraged.check.disk import DiskCheck
from filestoraged.check.findings import FOREIGN, CheckTotals, Finding
from filestoraged.check.memcached import MemcachedCheck
from filestoraged.check.throttle import CheckStopped, Throttle
from filestoraged.daemon import values as config
from filestoraged.daemon.commands.check_output import JsonReport, Progress, Report, ReportTotals, TextReport
from filestoraged.daemon.config import Parser, file_values
from filestoraged.errors import CheckError, StartError, StoreUnavailable, UsageError
from filestoraged.store.memcached.store import MemcachedStore

# Seconds between two looks at the clock, when nothing is found.
_PAUSE = 0.1

_FOUND_NOTHING, _FOUND_SOMETHING, _NOT_CHECKED = range(3)


class _Check(Protocol):
    totals: CheckTotals

    def findings(self, pause: float) -> Iterator[Finding | None]: ...


def check(arguments: Sequence[str]) -> int:
    """Print what is wrong. Returns 0 where nothing is, 1 where something is, 2 where it was stopped.

    Raises CheckError where it cannot be made, and UsageError.
    """
    given = _parser().parse_args(arguments)
    limit = _limit(given.limit)
    try:
        settings = _settings(given)
        if given.repair and "store" in settings:
            _see_that_it_can_be_written(settings["store"])
        pace = Throttle(limit)
        ignored = (FOREIGN,) if given.ignore_foreign else ()
        with _stopped_by_signals(pace):
            checks = list(_checks(settings, pace, repair=given.repair))
            return _run(checks, JsonReport(sys.stdout) if given.json else TextReport(sys.stdout), ignored)
    except StartError as error:
        raise CheckError(str(error)) from error
    except BrokenPipeError:
        _drop_output()
        return _NOT_CHECKED
    except OSError as error:
        _drop_output()
        raise CheckError(f"What was found cannot be written: {error.strerror or error}.") from error


def _drop_output() -> None:
    """Nobody takes it. Nor shall the interpreter try to write the rest when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(checks: list[_Check], report: Report, ignored: Sequence[str]) -> int:
    """Findings of the kinds that are `ignored` are neither reported nor counted."""
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
    return _FOUND_SOMETHING if found else _FOUND_NOTHING


def _findings(check_: _Check) -> Iterator[Finding | None]:
    try:
        yield from check_.findings(_PAUSE)
    except StoreUnavailable as error:
        raise CheckError(f"{error.__cause__ or error}.") from error
    except OSError as error:
        raise CheckError(f"The store cannot be read: {error.strerror or error}.") from error
    except sqlite3.Error as error:
        raise CheckError(f"A database cannot be read: {error}.") from error


def _checks(settings: dict[str, Any], pace: Throttle, *, repair: bool) -> Iterator[_Check]:
    algorithm = settings.get("hash", "sha256")
    if "memcached" in settings:
        try:
            store = MemcachedStore(settings["memcached"], algorithm=algorithm)
        except ImportError as error:
            raise StartError(f"{error}.") from error
        for cause in store.unreachable_servers():
            raise StartError(f"{cause}.")
        yield MemcachedCheck(store, throttle=pace, repair=repair)
    if "store" in settings:
        yield DiskCheck(settings["store"], algorithm=algorithm, throttle=pace, repair=repair)


def _settings(given: argparse.Namespace) -> dict[str, Any]:
    """What is to be checked: a `store`, or `memcached`, or both where a file names the servers. Raises StartError."""
    settings = file_values(given.config, ("store", "memcached", "hash")) if given.config is not None else {}
    if given.hash is not None:
        settings["hash"] = config.parse_hash(given.hash)
    if given.memcached is not None:
        settings["memcached"] = config.parse_servers(given.memcached)
        settings.pop("store", None)
        return settings
    if given.store is not None:
        settings["store"] = config.parse_directory(given.store)
        settings.pop("memcached", None)
    settings.setdefault("store", config.default_store())
    if os.path.isdir(settings["store"]):
        return settings
    if "memcached" not in settings:
        raise StartError(f"There is no store {settings['store']}.")
    # Its daemon may have neither drops nor keys.
    del settings["store"]
    return settings


def _see_that_it_can_be_written(store: str) -> None:
    if not os.access(store, os.W_OK | os.X_OK):
        raise StartError(f"The store {store} cannot be repaired: it cannot be written.")


def _limit(text: str | None) -> int | None:
    limit = None if text is None else config.parse_size(text)
    if limit == 0:
        raise UsageError("--limit 0 would take for ever.")
    return limit


@contextlib.contextmanager
def _stopped_by_signals(pace: Throttle) -> Iterator[None]:
    """The first one ends the check in good order, a second one at once."""

    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        pace.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> Parser:
    parser = Parser(
        prog="filestoraged check",
        description="Read everything that is stored, and compare it with its name.",
        epilog="Exit status 0 where nothing is wrong, 1 where something is, 2 where it could not be checked.",
        allow_abbrev=False,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--store", metavar="DIR", help="the store's directory, as for the daemon (./store)")
    where.add_argument("--memcached", metavar="HOST:PORT[,...]", help="servers to check instead (none)")
    parser.add_argument("--hash", metavar="NAME", help="the digest that most files are named by (sha256)")
    parser.add_argument("--config", metavar="FILE", help="the daemon's: its store, its servers and its hash (none)")
    parser.add_argument("--repair", action="store_true", help="move what is damaged out of the way of a new upload")
    parser.add_argument(
        "--ignore-foreign", action="store_true", help="neither report nor count files that the daemon did not make"
    )
    parser.add_argument("--limit", metavar="BYTES", help="read no more a second, such as 50M (as fast as it goes)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser
