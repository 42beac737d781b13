"""What the interfaces are joined to: stores and databases, opened as the configuration says."""

from __future__ import annotations

import logging
import os
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Set

from filestoraged.api import drops, files, kv, metrics, operations, repositories
from filestoraged.api.metrics import Gauge
from filestoraged.api.objects import Delivery
from filestoraged.api.operations import Look, Readiness
from filestoraged.daemon.config import Config
from filestoraged.daemon.janitor import Janitor
from filestoraged.daemon.tokens import read_tokens
from filestoraged.errors import StartError
from filestoraged.store.census import Census
from filestoraged.store.contract import Store
from filestoraged.store.disk import DiskStore
from filestoraged.store.drops import Drops, prepare_drops
from filestoraged.store.kv import KeyValues, prepare_keys
from filestoraged.store.manifest import MAX_SIZE
from filestoraged.store.memcached import MemcachedStore
from filestoraged.store.passwords import Guard
from filestoraged.store.presence import Presence
from filestoraged.web.meter import Meter
from filestoraged.web.router import Mounts, Router

log = logging.getLogger(__name__)


_HEALTH = {operations.PREFIX: operations.routes()}


class Engines:
    """Make it before the fork, which sees that all can be used; and build apps after it, in each process."""

    def __init__(
        self, config: Config, meter: Meter, mounts: Sequence[Mapping[str, str]], prepared: Optional[Set[str]] = None
    ) -> None:
        """`mounts` are those of all apps. Databases that are among the `prepared` are not prepared again.

        Raises StartError and UsageError.
        """
        self._config = config
        self._meter = meter
        self._interfaces = frozenset(name for each in mounts for name in each.values())
        self._tokens = None if config.tokens is None else read_tokens(config.tokens, mounts)
        self._prepared: Set[str] = set() if prepared is None else prepared
        self.disk = DiskStore(config.store, algorithm=config.hash, max_size=config.max_size)
        self._uses_disk = not config.memcached or not self._interfaces.isdisjoint(("kv", "drops"))
        if self._uses_disk:
            self._prepare_directory()
        self._memcached = _open_memcached(config) if config.memcached else None
        # Where files and repositories keep their objects.
        self.store: Store = self._memcached or self.disk
        self._janitor: Optional[Janitor] = None
        self._closing: List[Callable[[], None]] = []
        # What each interface is joined to its engine by, and what operations look at; each is made once.
        self._routers: Dict[str, Router] = {}
        self._gauges: Dict[str, Gauge] = {}

    def build_app(self, mounts: Mapping[str, str], *, operations: bool = True) -> Mounts:
        """Join the interfaces that are mounted to their engines; and operations, or nothing of them but health."""
        if not self._routers:
            self._routers = self._build_routers()
        routers = {prefix: self._routers[name] for prefix, name in mounts.items()}
        return Mounts({**(self._operations if operations else _HEALTH), **routers}, self._tokens)

    def _build_routers(self) -> Dict[str, Router]:
        config = self._config
        delivery = Delivery(config.accel, "public" if self._tokens is None else "private")
        # Its oid is SHA-256 whatever --hash says.
        within = self.store.namespace("repositories", algorithm="sha256")
        builders: Dict[str, Callable[[], Router]] = {
            "files": lambda: files.routes(self.store, delivery),
            "repositories": lambda: repositories.routes(within, delivery),
            "drops": self._drops,
            "kv": self._keys,
        }
        routers = {name: build() for name, build in builders.items() if name in self._interfaces}
        self._operations = self._build_operations()
        return routers

    def _build_operations(self) -> Dict[str, Router]:
        looks: List[Look] = []
        if self._uses_disk:
            looks.append(self.disk.try_writing)
            self._gauges["objects"] = metrics.objects(Census(self.disk.root))
        if self._memcached is not None:
            looks.append(self._memcached.nodes.require)
            self._gauges["memcached"] = metrics.memcached(self._memcached.nodes)
        remote = self._memcached is not None
        return {
            operations.PREFIX: operations.routes(Readiness(looks, remote=remote)),
            operations.METRICS: metrics.routes(self._meter, self._gauges, remote=remote),
        }

    def sweep(self) -> None:
        """Clear away what crashes left."""
        try:
            if os.path.isdir(self.disk.root):
                self.disk.sweep()
        except OSError as error:
            # What can be read is served all the same.
            log.warning("what a crash left cannot be swept: %s", error)

    def stop(self) -> None:
        """End what goes on in the background, and close the databases."""
        if self._janitor is not None:
            self._janitor.stop()
        for close in self._closing:
            close()

    def _drops(self) -> Router:
        config = self._config
        store = DiskStore(self._path("drops"), max_size=drops.LARGEST, within=self.disk)
        registry = Drops(self._path("drops.sqlite"), Presence(self._path("drops.owners")), ttl=config.drop_ttl)
        self._closing.append(registry.close)
        self._gauges["drops"] = metrics.drops(registry)
        self._janitor = Janitor(registry, store)
        self._janitor.start()
        return drops.routes(registry, store, Guard(), public_url=config.public_url, accel=config.accel)

    def _keys(self) -> Router:
        database = KeyValues(self._path("kv.sqlite"))
        self._closing.append(database.close)
        self._gauges["keys"] = metrics.keys(database)
        return kv.routes(database)

    def _prepare_directory(self) -> None:
        try:
            self.disk.prepare()
            swept = self.disk.sweep()
        except OSError as error:
            raise StartError(f"The store {self._config.store} cannot be written: {error.strerror or error}.") from error
        if swept:
            log.info("swept %d stagings that a crash left", swept)
        if "kv" in self._interfaces:
            self._prepare(self._path("kv.sqlite"), prepare_keys)
        if "drops" in self._interfaces:
            self._prepare(self._path("drops.sqlite"), prepare_drops)

    def _prepare(self, path: str, prepare: Callable[[str], None]) -> None:
        # It is waited for, and who serves it already would be kept from all else meanwhile.
        if path not in self._prepared or not os.path.exists(path):
            prepare(path)
            self._prepared.add(path)

    def _path(self, name: str) -> str:
        return os.path.join(self._config.store, name)


def _open_memcached(config: Config) -> MemcachedStore:
    max_size = MAX_SIZE if config.max_size is None else config.max_size
    memory = config.memory // config.workers
    try:
        store = MemcachedStore(config.memcached, algorithm=config.hash, max_size=max_size, memory=memory)
    except ImportError as error:
        raise StartError(f"{error}.") from error
    for cause in store.nodes.check():
        log.warning("starting without %s; it is asked again with each request", cause)
    return store
