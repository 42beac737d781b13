"""Where the objects of files and repositories are kept: the table BACKENDS, and the options of its rows."""

from __future__ import annotations

from filestoraged.command_errors import UsageError
from filestoraged.daemon.backend import Backend
from filestoraged.daemon.disk_backend import DISK
from filestoraged.daemon.memcached_backend import MEMCACHED, MemcachedOptions
from filestoraged.daemon.s3_backend import S3, S3Options


class StoreOptions(MemcachedOptions, S3Options):
    """What all backends are opened by."""


# The directory is last: it is always set.
BACKENDS: tuple[Backend[StoreOptions], ...] = (S3, MEMCACHED, DISK)


def selected(options: StoreOptions) -> Backend[StoreOptions]:
    """Return the backend that keeps the objects: the first row whose option is set."""
    return next(backend for backend in BACKENDS if getattr(options, backend.option))


def validate(options: StoreOptions) -> None:
    """Raises UsageError where options contradict each other."""
    chosen = [backend.option for backend in BACKENDS[:-1] if getattr(options, backend.option)]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} cannot both keep the objects")
    selected(options).validate(options)
