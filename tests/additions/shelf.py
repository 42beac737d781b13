"""A backend: a second directory keeps the objects of files and repositories."""

from __future__ import annotations

from collections.abc import Iterator

from filestoraged.check.findings import CheckTotals, Finding
from filestoraged.check.throttle import Throttle
from filestoraged.clock import Clock
from filestoraged.command_errors import UsageError
from filestoraged.daemon.backend import Backend, Check, CommonOptions, OpenStore
from filestoraged.daemon.fields import declare
from filestoraged.daemon.values import parse_directory
from filestoraged.store.disk.store import DiskStore
from filestoraged.wire.exposition import Family


class ShelfOptions(CommonOptions):
    shelf: str = declare(parse_directory, "DIR", "directory that keeps the objects", default="", shown="none")


class _ShelfCheck:
    def __init__(self) -> None:
        self.totals = CheckTotals()

    def findings(self, pause: float) -> Iterator[Finding | None]:
        self.totals.objects += 1
        yield None


def _validate(options: ShelfOptions) -> None:
    if options.shelf == options.store:
        raise UsageError("--shelf and --store are the same directory")


def _open(options: ShelfOptions, workers: int, disk: DiskStore, _clock: Clock) -> OpenStore:
    store = DiskStore(options.shelf, algorithm=options.hash, hash_threads=disk.hash_threads, cache_size=0)
    store.prepare()
    return OpenStore(store, {"shelf": lambda: [Family("filestoraged_shelves", "gauge", "Shelves.", [({}, 1)])]})


def _describe(options: ShelfOptions) -> str:
    return f"the shelf {options.shelf}"


def _open_check(options: ShelfOptions, *, throttle: Throttle, repair: bool, drops_elsewhere: bool) -> Check:
    return _ShelfCheck()


SHELF: Backend[ShelfOptions] = Backend("shelf", _open, _describe, _open_check, validate=_validate)
