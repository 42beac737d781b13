"""`filestoraged usage`: prints how much each area has stored."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from filestoraged.cli.migrate_sides import ConfiguredSide, open_side
from filestoraged.cli.options import CommandParser
from filestoraged.cli.progress import size_text
from filestoraged.cli.report import JsonReport, Report, ReportEntry
from filestoraged.cli.serve import parse_arguments
from filestoraged.cli.stopping import run_with_output
from filestoraged.command_errors import CheckError, UsageError
from filestoraged.errors import Error, ListingUnsupported
from filestoraged.store.area_stores import AreaStores
from filestoraged.store.contract import Usage
from filestoraged.store.limits import KINDS, NAMES, is_area
from filestoraged.store.name_tables import AREA_ROWS


def usage(arguments: Sequence[str]) -> int:
    """Print what areas hold. Returns 0. Raises UsageError, StartError and CheckError."""
    given = make_parser().parse_args(arguments)
    for area in given.areas:
        if not is_area(area):
            expected = "files, data/REPOSITORY, names/SPACE, restic/REPOSITORY or drops"
            raise UsageError(f"invalid area {area!r}: expected {expected}")
    where = ["--store", given.store] if given.store is not None else []
    config = parse_arguments(["--config", given.config] if given.config is not None else where)

    def run() -> int:
        with ExitStack() as closing:
            _print(_areas(open_side(config, closing), given.areas), is_json=given.json)
        return 0

    return run_with_output(run, "the usage")


def _print(areas: Iterator[tuple[str, Usage]], *, is_json: bool) -> None:
    report = JsonReport(sys.stdout, "areas") if is_json else Report(sys.stdout)
    total = Usage()
    for area, held in areas:
        fields = {"area": area, "bytes": held.size, "objects": held.objects}
        report.add(ReportEntry(f"{area}: {_text(held)}", fields))
        total = total.plus(held)
    report.end(ReportEntry(f"in all: {_text(total)}", {}))


def _text(held: Usage) -> str:
    return f"{held.objects} objects, {size_text(held.size)}"


def _areas(side: ConfiguredSide, given: Sequence[str]) -> Iterator[tuple[str, Usage]]:
    """What areas hold, in the order of their kinds and names. Raises CheckError where that cannot be read."""
    if side.directory in side.places and not os.path.isdir(side.config.store):
        raise CheckError(f"there is no store {side.config.store!r}")
    stores = AreaStores(side.service.objects, side.service.drops)
    try:
        for kind in KINDS:
            for area, held in _named(side) if kind == NAMES else _stored(stores, kind, given):
                if area in given or (held.objects and not given):
                    yield area, held
    except (Error, OSError) as error:
        raise CheckError(f"cannot read the store: {error.__cause__ or error}") from error


def _named(side: ConfiguredSide) -> Iterator[tuple[str, Usage]]:
    rows = side.service.rows.read(AREA_ROWS, lambda reader: list(reader.rows(AREA_ROWS.tables[0])))
    return ((area, Usage(objects, size)) for area, size, objects in rows if area.startswith(f"{NAMES}/"))


def _stored(stores: AreaStores, kind: str, given: Sequence[str]) -> Iterator[tuple[str, Usage]]:
    # memcached lists nothing; drops are in the directory then.
    with contextlib.suppress(ListingUnsupported):
        for area in stores.areas(kind):
            if area in given or not given:
                yield area, _count(stores, area)


def _count(stores: AreaStores, area: str) -> Usage:
    held = Usage()
    for part in stores.parts(area):
        with contextlib.closing(part.store.scan()) as objects:
            for each in objects:
                held = held.plus(Usage(1, each.size))
    return held


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="filestoraged usage",
        description="Print how many objects and bytes each area has stored: files, each repository, each space of"
        " names, and drops. A daemon may serve meanwhile.",
        epilog="Exit status: 0: printed; 2: the store cannot be read, or usage or configuration error.",
    )
    parser.add_argument(
        "areas", metavar="AREA", nargs="*", help="files, data/REPOSITORY, names/SPACE, restic/REPOSITORY or drops (all)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--store", metavar="DIR", help="directory of the store, as for the daemon (./store)")
    where.add_argument("--config", metavar="FILE", help="the daemon's configuration, which names the store (none)")
    return parser
