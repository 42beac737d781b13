"""What the interfaces are joined to: stores and databases, opened as the configuration says."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from filestoraged.api import drops, files, kv, metrics, operations, repositories
from filestoraged.api.metrics import Gauge
from filestoraged.api.objects import Delivery
from filestoraged.api.operations import Look, Readiness
from filestoraged.daemon.janitor import Janitor
from filestoraged.daemon.tokens_file import read_tokens
from filestoraged.daemon.values import Config
from filestoraged.errors import DISK_FULL, Error, StartError, StorageFull, StoreUnavailable
from filestoraged.store import layout
from filestoraged.store.contract import Store
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.drops import Drops, prepare_drops
from filestoraged.store.hashing import HashThreads
from filestoraged.store.kv import KeyValues, prepare_keys
from filestoraged.store.memcached.manifest import MAX_SIZE
from filestoraged.store.memcached.store import MemcachedStore
from filestoraged.store.owner_locks import OwnerFiles
from filestoraged.store.passwords import Guard
from filestoraged.store.permissions import GROUP_READABLE, PRIVATE, permission_warning
from filestoraged.store.shared_count import SharedCount
from filestoraged.web.cross_site import ANY, Hosts, Origins
from filestoraged.web.metrics import Metrics
from filestoraged.web.router import Mounts, Router

log = logging.getLogger(__name__)

# Seconds.
_STOP = 10.0

_HEALTH = {operations.PREFIX: operations.health_routes()}


class Services:
    """Make it before the fork, which sees that all can be used; and build apps after it, in each process."""

    def __init__(
        self, config: Config, meter: Metrics, mounts: Sequence[Mapping[str, str]], prepared: set[str] | None = None
    ) -> None:
        """`mounts` are those of all apps. Databases that are among the `prepared` are not prepared again.

        Raises StartError and UsageError.
        """
        self._config = config
        self._meter = meter
        self._interfaces = frozenset(name for each in mounts for name in each.values())
        self._tokens = None if config.tokens is None else read_tokens(config.tokens, mounts)
        self._origins = Origins(public_url=config.public_url, allowed=config.allow_origin)
        self._hosts = self._find_loopback_hosts()
        self._prepared: set[str] = set() if prepared is None else prepared
        # nginx reads what `--accel` hands over to it, and it is another user.
        self._permissions = GROUP_READABLE if config.accel else PRIVATE
        threads = HashThreads()
        self.disk = DiskStore(
            config.store,
            algorithm=config.hash,
            max_size=config.max_size,
            permissions=self._permissions,
            hash_threads=threads,
        )
        self._warnings: list[str] = []
        self._uses_disk = not config.memcached or not self._interfaces.isdisjoint(("kv", "drops"))
        if self._uses_disk:
            self._prepare_directory()
        self._memcached = _open_memcached(config, threads) if config.memcached else None
        # Where files and repositories keep their objects.
        self.store: Store = self._memcached or self.disk
        # Made last of what needs closing: none is left where something refuses to start.
        self._objects = SharedCount()
        self._janitor: Janitor | None = None
        # How each is stopped, step by step.
        self._closing: list[Sequence[Callable[[], None]]] = []
        # What each interface is joined to its engine by, and what operations look at; each is made once.
        self._routers: dict[str, Router] = {}
        self._gauges: dict[str, Gauge] = {}
        self._probes: list[Look] = []
        # Where something refuses to start, the reason is all that is said.
        for warning in self._warnings:
            log.warning("%s", warning)

    def build_app(self, mounts: Mapping[str, str], *, operations: bool = True) -> Mounts:
        """Join the interfaces that are mounted to their engines; and operations, or nothing of them but health.

        Where operations alone are mounted, nobody but operators asks, and they are told what is wrong in detail.
        """
        if not self._routers:
            self._routers = self._build_routers()
        routers = {prefix: self._routers[name] for prefix, name in mounts.items()}
        if not operations:
            routers.update(_HEALTH)
        else:
            routers.update(self._operations if mounts else self._admin_operations)
        return Mounts(routers, self._tokens, self._origins, self._hosts)

    def _build_routers(self) -> dict[str, Router]:
        config = self._config
        delivery = Delivery(config.accel, "public" if self._tokens is None else "private")
        # Its oid is SHA-256 whatever --hash says.
        within = self.store.namespace(layout.REPOSITORIES, algorithm="sha256")
        builders: dict[str, Callable[[], Router]] = {
            "files": lambda: files.routes(self.store, delivery),
            "repositories": lambda: repositories.routes(within, delivery),
            "drops": self._drops,
            "kv": self._keys,
        }
        routers = {name: build() for name, build in builders.items() if name in self._interfaces}
        self._build_operations()
        return routers

    def _build_operations(self) -> None:
        looks = list(self._probes)
        if self._uses_disk:
            looks.append(self.disk.probe)
            self._gauges["objects"] = metrics.objects(self.disk, self._objects)
            self._closing.append((self._objects.stop,))
        if self._memcached is not None:
            looks.append(self._memcached.probe)
            self._gauges["memcached"] = metrics.memcached(self._memcached)
        remote = self._memcached is not None
        readiness = Readiness(looks, remote=remote)
        shared = {operations.METRICS: metrics.routes(self._meter, self._gauges, remote=remote)}
        self._operations = {operations.PREFIX: operations.public_routes(readiness), **shared}
        self._admin_operations = {operations.PREFIX: operations.admin_routes(readiness), **shared}

    def _find_loopback_hosts(self) -> Hosts | None:
        """The hosts that may be asked for on loopback addresses; None for any: where a token is needed, nobody else's
        page has one.
        """
        config = self._config
        if self._tokens is not None or ANY in config.host:
            return None
        return Hosts(config.host, public_url=config.public_url)

    def sweep(self) -> None:
        """Clear away what crashes left."""
        try:
            # The two may be one.
            for store in {self.store, self.disk}:
                store.sweep()
        except OSError as error:
            # What can be read is served all the same.
            log.warning("what a crash left cannot be swept: %s", error)

    def stop(self, timeout: float = _STOP) -> bool:
        """Write what is still to be written, end what goes on in the background, and close the databases.

        Returns whether that took at most `timeout` seconds: another process may hold a lock, or a disk may hang.
        """
        deadline = time.monotonic() + timeout
        closing, self._closing = self._closing, []
        # One that hangs keeps no other from being stopped, nor the process from its end.
        threads = [threading.Thread(target=_take, args=(steps,), name="stop", daemon=True) for steps in closing]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        late = any(thread.is_alive() for thread in threads)
        if late:
            log.error("the databases could not be closed in %.1f s; changes of drops may be lost", timeout)
        return not late

    def close(self) -> None:
        """In the master, when workers with another configuration have taken over: they keep what they have of it."""
        self._objects.close()

    def _drops(self) -> Router:
        config = self._config
        store = DiskStore(self._path(layout.DROPS), max_size=drops.LARGEST, within=self.disk)
        registry = Drops(
            self._path(layout.DROPS_DATABASE), OwnerFiles(self._path(layout.DROP_OWNERS)), ttl=config.drop_ttl
        )
        self._probes.append(_probe("Drops", registry.probe))
        self._gauges["drops"] = metrics.drops(registry)
        self._janitor = Janitor(registry, store, self._path(layout.JANITOR_LOCK))
        self._janitor.start()
        # First of all what is to be written: the janitor may be busy.
        self._closing.append((registry.flush, self._janitor.stop, registry.close))
        return drops.routes(registry, store, Guard(), public_url=config.public_url, accel=config.accel)

    def _keys(self) -> Router:
        database = KeyValues(self._path(layout.KEYS_DATABASE))
        self._probes.append(_probe("Keys", database.probe))
        self._closing.append((database.close,))
        self._gauges["keys"] = metrics.keys(database)
        return kv.routes(database)

    def _prepare_directory(self) -> None:
        try:
            self.disk.prepare()
            swept = self.disk.sweep()
        except OSError as error:
            raise self._unwritable(error) from error
        if swept:
            log.info("swept %d stagings that a crash left", swept)
        self._try_renaming()
        if "kv" in self._interfaces:
            self._prepare(self._path(layout.KEYS_DATABASE), prepare_keys)
        if "drops" in self._interfaces:
            self._prepare(self._path(layout.DROPS_DATABASE), prepare_drops)
        warning = permission_warning(self._config.store, self._permissions)
        if warning is not None:
            self._warnings.append(warning)

    def _try_renaming(self) -> None:
        """See that uploads can be staged and renamed to where they belong. A full disk is told of, and refuses nothing:
        what it has can be read and removed.
        """
        parts = [self.disk, *(self.disk.namespace(name) for name in self._parts_on_disk())]
        try:
            for part in parts:
                try:
                    part.probe_rename()
                except OSError as error:
                    if error.errno == errno.EXDEV:
                        staging = self._path(layout.STAGING)
                        raise StartError(
                            f"Files cannot be renamed from {staging} to {part.root}: they are on two file systems."
                        ) from error
                    if error.errno not in DISK_FULL:
                        raise self._unwritable(error) from error
                    self._warnings.append(
                        f"the store {self._config.store} is full, uploads are refused: {error.strerror}"
                    )
                    return
        finally:
            # This process stages nothing.
            self.disk.close()

    def _parts_on_disk(self) -> list[str]:
        """The directories below the store's own that objects are renamed to."""
        parts = [layout.DROPS] if "drops" in self._interfaces else []
        if "repositories" in self._interfaces and not self._config.memcached:
            parts.append(layout.REPOSITORIES)
        return parts

    def _unwritable(self, error: OSError) -> StartError:
        return StartError(f"The store {self._config.store} cannot be written: {error.strerror or error}.")

    def _prepare(self, path: str, prepare: Callable[[str], None]) -> None:
        # It is waited for, and who serves it already would be kept from all else meanwhile.
        if path not in self._prepared or not os.path.exists(path):
            try:
                prepare(path)
                self._prepared.add(path)
            except StorageFull:
                self._warnings.append(f"{path} cannot be used yet: no room left on the disk")

    def _path(self, name: str) -> str:
        return os.path.join(self._config.store, name)


def _probe(name: str, write: Look) -> Look:
    """See whether a database can be written."""

    def look() -> None:
        try:
            write()
        except Error as error:
            raise StoreUnavailable(f"{name} cannot be written: {error}") from error

    return look


def _take(steps: Sequence[Callable[[], None]]) -> None:
    for step in steps:
        try:
            step()
        except Exception:
            log.exception("an engine did not stop")


def _open_memcached(config: Config, threads: HashThreads) -> MemcachedStore:
    max_size = MAX_SIZE if config.max_size is None else config.max_size
    memory = config.memory // config.workers
    try:
        store = MemcachedStore(
            config.memcached, algorithm=config.hash, max_size=max_size, memory=memory, hash_threads=threads
        )
    except ImportError as error:
        raise StartError(f"{error}.") from error
    for cause in store.unreachable_servers():
        log.warning("starting without %s; it is asked again with each request", cause)
    return store
