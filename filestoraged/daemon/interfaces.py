"""What is served over HTTP: the table INTERFACES, and the prefixes that interfaces are mounted on.

A new interface is a row here, with the function that builds its router, and a module of `api`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from filestoraged.api import drops, files, kv, metrics, operations, repositories
from filestoraged.api.metrics import Gauge
from filestoraged.api.objects import Delivery
from filestoraged.api.operations import Probe
from filestoraged.daemon.janitor import Janitor
from filestoraged.daemon.values import parse_prefix
from filestoraged.errors import Error, StoreUnavailable, UsageError
from filestoraged.store import layout
from filestoraged.store.contract import Store
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.drops import Drops, prepare_drops
from filestoraged.store.kv import KeyValues, prepare_keys
from filestoraged.store.owner_locks import OwnerFiles
from filestoraged.store.passwords import Guard
from filestoraged.web.router import Router

# The name that scopes, metrics and sockets of systemd have for the paths of operations.
OPERATIONS = "operations"


@dataclass
class Resources:
    """What routers are built from in a worker; and what they add to for operations and for the worker's end."""

    # Where files and repositories keep their objects.
    objects: Store
    # The store's directory.
    disk: DiskStore
    delivery: Delivery
    # Seconds for which a drop can be fetched.
    drop_ttl: int
    public_url: str | None
    accel: str | None
    # What /-/ready tests, and what /-/metrics shows.
    probes: list[Probe] = field(default_factory=list)
    gauges: dict[str, Gauge] = field(default_factory=dict)
    # Each is a sequence of steps; the sequences run side by side when the worker stops.
    closing: list[Sequence[Callable[[], None]]] = field(default_factory=list)
    janitors: list[Janitor] = field(default_factory=list)

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
    # Its database below the store, what creates it before the fork, and what it keeps, for the log. An interface with a
    # database uses the directory whatever backend keeps the objects.
    database: str = ""
    prepare: Callable[[str], None] | None = None
    content: str = ""


def _files(resources: Resources) -> Router:
    return files.routes(resources.objects, resources.delivery)


def _repositories(resources: Resources) -> Router:
    # An oid is a SHA-256 digest, whatever --hash says.
    return repositories.routes(resources.objects.namespace(layout.REPOSITORIES, algorithm="sha256"), resources.delivery)


def _drops(resources: Resources) -> Router:
    store = DiskStore(resources.path(layout.DROPS), max_size=drops.MAX_FILE_SIZE, within=resources.disk)
    owners = OwnerFiles(resources.path(layout.DROP_OWNERS))
    registry = Drops(resources.path(layout.DROPS_DATABASE), owners, ttl=resources.drop_ttl)
    janitor = Janitor(registry, store, resources.path(layout.JANITOR_LOCK))
    janitor.start()
    resources.janitors.append(janitor)
    resources.probes.append(_probe("Drops", registry.probe))
    resources.gauges["drops"] = metrics.drops(registry)
    # Pending writes first: the janitor may be busy.
    resources.closing.append((registry.flush, janitor.stop, registry.close))
    return drops.routes(registry, store, Guard(), public_url=resources.public_url, accel=resources.accel)


def _keys(resources: Resources) -> Router:
    database = KeyValues(resources.path(layout.KEYS_DATABASE))
    resources.probes.append(_probe("Keys", database.probe))
    resources.gauges["keys"] = metrics.keys(database)
    resources.closing.append((database.close,))
    return kv.routes(database)


def _probe(name: str, write: Probe) -> Probe:
    """Return a probe that tests whether a database can be written."""

    def probe() -> None:
        try:
            write()
        except Error as error:
            raise StoreUnavailable(f"{name} cannot be written: {error}") from error

    return probe


_TABLE = (
    Interface("files", "/", _files),
    Interface("repositories", "/data", _repositories, directory=layout.REPOSITORIES),
    Interface("drops", "/vimeo/api/v1.0", _drops, layout.DROPS, layout.DROPS_DATABASE, prepare_drops, "drops"),
    Interface("kv", "/kv", _keys, database=layout.KEYS_DATABASE, prepare=prepare_keys, content="keys"),
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
