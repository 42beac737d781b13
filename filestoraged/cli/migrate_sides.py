"""Opens what two configurations keep, for a migration from one to the other: stores, drops and databases."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import NamedTuple

from filestoraged.clock import SYSTEM_CLOCK
from filestoraged.command_errors import CheckError, StartError, UsageError
from filestoraged.daemon.backend import drop_store
from filestoraged.daemon.backends import selected
from filestoraged.daemon.config import Config
from filestoraged.errors import Error, JournalDamaged, ListingUnsupported
from filestoraged.migration.migration import Parts
from filestoraged.migration.namespace_pairs import Service
from filestoraged.migration.transfer import reason_of
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.permissions import GROUP_READABLE, PRIVATE
from filestoraged.store.rows import RowStore
from filestoraged.store.sqlite.rows import SqliteRowStore


class ConfiguredSide(NamedTuple):
    """One configuration. `places` says where each of the parts is: two sides with the same place share it."""

    config: Config
    disk: DiskStore
    service: Service
    places: tuple[str, str, str]

    @property
    def directory(self) -> str:
        return _place_of_directory(self.config.store)


class Sides(NamedTuple):
    source: ConfiguredSide
    target: ConfiguredSide
    parts: Parts


def open_sides(source: Config, target: Config, closing: ExitStack) -> Sides:
    """Open both, and make nothing. `closing` closes them. Raises StartError, UsageError and CheckError."""
    ours, theirs = open_side(source, closing), open_side(target, closing)
    parts = Parts(*(one != other for one, other in zip(ours.places, theirs.places, strict=True)))
    if not any(parts):
        raise UsageError("--from and --to keep everything in the same places")
    if parts.objects:
        _require_listing(ours)
    return Sides(ours, theirs, parts)


def require(side: ConfiguredSide) -> None:
    """Check that what is to be read is there. Raises StartError."""
    if side.directory in side.places and not os.path.isdir(side.config.store):
        raise StartError(f"there is no store {side.config.store!r}")


def prepare(target: ConfiguredSide, closing: ExitStack) -> None:
    """Make the directory of a side that is to be written, in which all backends stage. Raises StartError, CheckError.

    Databases are made when they are written.
    """
    disk = target.disk
    try:
        disk.prepare()
        disk.sweep()
    except JournalDamaged as error:
        raise StartError(error.cause) from error
    except OSError as error:
        raise StartError(f"cannot write the store {target.config.store!r}: {error.strerror or error}") from error
    closing.callback(disk.close)
    try:
        target.service.objects.probe()
    except (Error, OSError) as error:
        raise CheckError(f"cannot write the target: {reason_of(error)}") from error


def open_side(config: Config, closing: ExitStack) -> ConfiguredSide:
    """Open what a configuration keeps, and make nothing. `closing` closes it. Raises StartError."""
    disk = DiskStore(
        config.store,
        algorithm=config.hash,
        max_size=config.max_size,
        # As the daemon makes files that nginx sends.
        permissions=GROUP_READABLE if config.accel else PRIVATE,
        cache_size=0,
    )
    backend = selected(config)
    opened = backend.open(config, 1, disk, SYSTEM_CLOCK)
    closing.callback(opened.store.close)
    rows = _open_rows(config)
    closing.callback(rows.close)
    directory = _place_of_directory(config.store)
    objects = directory if opened.store is disk else backend.describe(config)
    places = (
        objects,
        directory if opened.drops is None else objects,
        directory if config.database is None else config.database.description,
    )
    service = Service(opened.store, drop_store(config, opened, disk), rows, config.hash)
    return ConfiguredSide(config, disk, service, places)


def _place_of_directory(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    # One directory may have several paths.
    return f"{status.st_dev}:{status.st_ino}"


def _open_rows(config: Config) -> RowStore:
    if config.database is None:
        return SqliteRowStore(config.store)
    from filestoraged.store.postgresql.rows import PostgresRowStore

    return PostgresRowStore(config.database)


def _require_listing(source: ConfiguredSide) -> None:
    try:
        source.service.objects.list("", 1)
    except ListingUnsupported as error:
        where = selected(source.config).describe(source.config)
        raise CheckError(f"cannot copy objects from {where}: it cannot list them") from error
    except (Error, OSError) as error:
        raise CheckError(f"cannot read the source: {reason_of(error)}") from error
