"""The directory of the store as a backend: it keeps the objects unless another one does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from filestoraged.clock import Clock
from filestoraged.command_errors import StartError
from filestoraged.daemon.backend import Backend, Check, CommonOptions, OpenStore, remote_registry
from filestoraged.store import layout
from filestoraged.store.disk.store import DiskStore

if TYPE_CHECKING:
    from filestoraged.check.inventory import CheckedStore
    from filestoraged.check.throttle import Throttle


def _open(options: CommonOptions, workers: int, disk: DiskStore, clock: Clock) -> OpenStore:
    return OpenStore(disk)


def _describe(options: CommonOptions) -> str:
    return os.path.abspath(options.store)


def _open_check(options: CommonOptions, *, throttle: Throttle, repair: bool, drops_elsewhere: bool) -> Check:
    from filestoraged.check.disk import check_disk
    from filestoraged.check.rows import DROPS, STORED, UPLOADS

    return check_disk(
        options.store,
        algorithm=options.hash,
        has_drops=not drops_elsewhere,
        drops=remote_registry(options, DROPS),
        has_uploads=not (drops_elsewhere and options.database),
        uploads=remote_registry(options, UPLOADS),
        has_names=not drops_elsewhere,
        names=remote_registry(options, STORED),
        throttle=throttle,
        repair=repair,
    )


def _open_prune(options: CommonOptions, repository: str, throttle: Throttle, *, moves: bool) -> CheckedStore:
    from filestoraged.check.disk import CheckedDisk

    path = os.path.join(options.store, layout.REPOSITORIES, repository)
    if not os.path.isdir(path):
        raise StartError(f"there is no repository {repository!r} in the store {options.store!r}")
    if os.path.islink(path):
        # It may be another repository, whose objects the list does not name.
        raise StartError(f"cannot prune the repository {repository!r}: its directory is a symbolic link")
    if moves and not os.access(path, os.W_OK | os.X_OK):
        raise StartError(f"cannot prune the repository {repository!r}: it cannot be written")
    store = CheckedDisk(options.store, throttle)
    store.replay(repair=False)
    return store


DISK: Backend[CommonOptions] = Backend("store", _open, _describe, _open_check, _open_prune)
