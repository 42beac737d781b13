"""What is served over HTTP: the table INTERFACES, and the prefixes that interfaces are mounted on.

A new interface is a row here, with the function that builds its router, and a module of `api`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from filestoraged.api import drops, files, kv, lfs, metrics, operations, repositories, uploads
from filestoraged.api.metrics import Gauge
from filestoraged.api.objects import Delivery
from filestoraged.api.operations import Probe
from filestoraged.api.pages import Pages
from filestoraged.api.upload_targets import DropTarget, Targets
from filestoraged.clock import Clock
from filestoraged.daemon.databases import Databases
from filestoraged.daemon.values import parse_prefix
from filestoraged.errors import Error, StoreUnavailable, UsageError
from filestoraged.store import layout
from filestoraged.store.cleanup_lock import CleanupLock, FileLock
from filestoraged.store.contract import Store
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.drop_tables import prepare_drops
from filestoraged.store.janitors import DropsJanitor, Janitor, UploadsJanitor
from filestoraged.store.kv import prepare_keys
from filestoraged.store.locks import prepare_locks
from filestoraged.store.passwords import Guard
from filestoraged.store.uploads.registry import prepare_uploads
from filestoraged.store.uploads.storage import Storage
from filestoraged.store.uploads.uploads import Uploads
from filestoraged.web.router import Authorizer, Router

# Seconds after the last byte for which an upload can be continued.
_UPLOAD_TTL = 24 * 3600.0

# The name that scopes, metrics and sockets of systemd have for the paths of operations.
OPERATIONS = "operations"


class Resources:
    """What routers are built from in a worker; and what they add to for operations and for the worker's end."""

    def __init__(
        self,
        *,
        objects: Store,
        drops: Store,
        segments: Any,
        disk: DiskStore,
        databases: Databases,
        delivery: Delivery,
        drop_ttl: int,
        public_url: str | None,
        accel: str | None,
        authorizer: Authorizer | None,
        gauges: Mapping[str, Gauge],
        pages: Pages | None,
        mounted: Collection[str],
        clock: Clock,
    ) -> None:
        """`objects` is where files and repositories keep their objects; `drop_ttl` is in seconds.

        `drops` has the bytes of drops, `segments` those of unfinished uploads, None for a part of the directory.

        Without an `authorizer`, requests need no token. Without `pages`, there are none for people. `mounted` are the
        interfaces of all listeners.
        """
        self.objects = objects
        self.drops = drops
        self.segments = segments
        # The store's directory.
        self.disk = disk
        self.databases = databases
        self.delivery = delivery
        self.drop_ttl = drop_ttl
        self.public_url = public_url
        self.accel = accel
        self.authorizer = authorizer
        # What /-/ready tests, and what /-/metrics shows.
        self.probes: list[Probe] = []
        self.gauges = dict(gauges)
        self.pages = pages
        self.clock = clock
        # Each is a sequence of steps; the sequences run side by side when the worker stops.
        self.closing: list[Sequence[Callable[[], None]]] = []
        self.janitors: list[Janitor] = []
        # Of drops, which resumable uploads may become as well.
        self.guard = Guard()
        self.targets = Targets(objects, mounted=mounted, public_url=public_url)
        # None unless they are served.
        self.uploads: Uploads | None = None

    def path(self, name: str) -> str:
        return os.path.join(self.disk.root, name)


class Interface(NamedTuple):
    """A row of INTERFACES."""

    name: str
    # Where it is mounted unless the configuration says otherwise.
    prefix: str
    build: Callable[[Resources], Router]
    # The directory below the store that its objects are renamed to; "" for the store itself.
    directory: str = ""
    # Its SQLite database below the store, what creates it before the fork, and what it keeps, for the log. Without
    # --database, an interface with one uses the directory whatever backend keeps the objects.
    database: str = ""
    prepare: Callable[[str], None] | None = None
    content: str = ""
    # Called before any router is built, for what others use as well.
    open: Callable[[Resources], None] | None = None


def _files(resources: Resources) -> Router:
    return files.routes(resources.objects, resources.delivery, resources.pages)


def _repositories(resources: Resources) -> Router:
    # An oid is a SHA-256 digest, whatever --hash says.
    store = resources.objects.namespace(layout.REPOSITORIES, algorithm="sha256")
    locks = resources.databases.open_locks()
    resources.probes.append(_probe("Locks", locks.probe))
    resources.gauges["locks"] = metrics.locks(locks)
    resources.closing.append((locks.close,))
    nested = lfs.routes(
        store,
        locks,
        authorizer=resources.authorizer,
        public_url=resources.public_url,
        uploads=resources.uploads,
    )
    return repositories.routes(store, resources.delivery, [nested], public_url=resources.public_url)


def _drops(resources: Resources) -> Router:
    registry = resources.databases.open_drops(ttl=resources.drop_ttl)
    janitor = DropsJanitor(registry, resources.drops, resources.databases.open_cleanup_lock(), resources.clock)
    janitor.start()
    resources.janitors.append(janitor)
    resources.probes.append(_probe("Drops", registry.probe))
    resources.gauges["drops"] = metrics.drops(registry)
    # Pending writes first: the janitor may be busy.
    resources.closing.append((registry.flush, janitor.stop, registry.close))
    resources.targets.drops = DropTarget(registry, resources.drops)
    return drops.routes(
        registry,
        resources.drops,
        resources.guard,
        public_url=resources.public_url,
        accel=resources.accel,
        pages=resources.pages,
    )


def _keys(resources: Resources) -> Router:
    database = resources.databases.open_keys()
    resources.probes.append(_probe("Keys", database.probe))
    resources.gauges["keys"] = metrics.keys(database)
    resources.closing.append((database.close,))
    return kv.routes(database)


def _uploads(resources: Resources) -> Router:
    assert resources.uploads is not None
    return uploads.routes(
        resources.uploads,
        resources.targets,
        resources.guard,
        authorizer=resources.authorizer,
        public_url=resources.public_url,
        remote=resources.objects.remote or resources.databases.is_remote,
    )


def open_uploads(resources: Resources) -> None:
    """Open the resumable uploads, which `repositories` hands out to Git LFS as well."""
    registry = resources.databases.open_uploads(ttl=_UPLOAD_TTL)
    storage = resources.databases.open_upload_storage(registry, resources.disk, resources.segments)
    resources.uploads = Uploads(registry, storage, resources.targets.find, clock=resources.clock)
    janitor = UploadsJanitor(resources.uploads, _uploads_lock(resources, storage), resources.clock)
    janitor.start()
    resources.probes.append(_probe("Uploads", registry.probe))
    resources.gauges["uploads"] = metrics.uploads(registry)
    resources.closing.append((janitor.stop, registry.close))


def _uploads_lock(resources: Resources, storage: Storage) -> CleanupLock:
    """One janitor works for all who reach the same bytes."""
    if storage.is_remote:
        return resources.databases.open_cleanup_lock()
    return FileLock(resources.path(layout.UPLOADS_JANITOR_LOCK), resources.disk.volume.identity)


def _probe(name: str, write: Probe) -> Probe:
    """Return a probe that tests whether a database can be written."""

    def probe() -> None:
        try:
            write()
        except Error as error:
            # With the cause of that error, which operators are shown.
            raise StoreUnavailable(f"{name} cannot be written: {error}") from error.__cause__ or error

    return probe


_TABLE = (
    Interface("files", "/", _files),
    Interface(
        "repositories", "/data", _repositories, layout.REPOSITORIES, layout.LOCKS_DATABASE, prepare_locks, "locks"
    ),
    Interface("drops", "/vimeo/api/v1.0", _drops, layout.DROPS, layout.DROPS_DATABASE, prepare_drops, "drops"),
    Interface("kv", "/kv", _keys, database=layout.KEYS_DATABASE, prepare=prepare_keys, content="keys"),
    Interface(
        "uploads",
        "/uploads",
        _uploads,
        layout.UPLOADS,
        layout.UPLOADS_DATABASE,
        prepare_uploads,
        "uploads",
        open_uploads,
    ),
)

INTERFACES: Mapping[str, Interface] = {interface.name: interface for interface in _TABLE}


def default_mounts() -> dict[str, str]:
    """Return the interfaces by their default prefixes."""
    return {interface.prefix: interface.name for interface in _TABLE}


def parse_mount(text: str) -> tuple[str, str]:
    """Return the prefix and the name of `NAME=PREFIX`."""
    name, separator, prefix = text.partition("=")
    if name not in INTERFACES:
        raise UsageError(f"unknown interface {name!r}: expected one of {', '.join(INTERFACES)}")
    if not separator:
        example = f"{name}={INTERFACES[name].prefix}"
        raise UsageError(f"invalid mount {text!r}: expected NAME=PREFIX, such as {example}")
    prefix = parse_prefix(prefix)
    if (prefix + "/").startswith(operations.PREFIX):
        raise UsageError(f"invalid prefix {prefix!r}: {operations.PREFIX} is reserved for operations")
    return prefix, name


def join_mounts(mounts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the interfaces by their prefixes. Raises UsageError where two have the same prefix."""
    joined: dict[str, str] = {}
    for prefix, name in mounts:
        if prefix in joined:
            raise UsageError(f"{joined[prefix]} and {name} cannot both be mounted on {prefix!r}")
        joined[prefix] = name
    return joined


def parse_socket_name(text: str, mounts: Mapping[str, str]) -> dict[str, str]:
    """Return the mounts of a socket that systemd hands over under the name `text` (FileDescriptorName=).

    | name | mounted |
    |---|---|
    | `NAME=PREFIX`, or several with commas | these interfaces |
    | `NAME` instead of `NAME=PREFIX` | the interface at its prefix in `mounts`, else at its default |
    | `operations` | no interface |
    | `all`, `unknown`, or a unit's name, which systemd puts in place of a missing one | all of `mounts` |
    """
    if text == OPERATIONS:
        return {}
    if text in ("all", "unknown") or text.endswith(".socket"):
        return dict(mounts)
    prefixes = {name: prefix for prefix, name in {**default_mounts(), **mounts}.items()}
    parts = [part if "=" in part else f"{part}={prefixes.get(part, '')}" for part in text.split(",")]
    try:
        return join_mounts(map(parse_mount, parts))
    except UsageError as error:
        raise UsageError(f"FileDescriptorName={text}: {error}") from error
