"""What the interfaces are joined to: stores and databases, opened as the configuration says."""

from __future__ import annotations

import logging
import os
from typing import Callable, Dict, Optional

from filestoraged.api import drops, files, kv, operations, repositories
from filestoraged.daemon.config import Config
from filestoraged.daemon.janitor import Janitor
from filestoraged.errors import StartError
from filestoraged.store.contract import Store
from filestoraged.store.disk import DiskStore
from filestoraged.store.drops import Drops, prepare_drops
from filestoraged.store.kv import KeyValues, prepare_keys
from filestoraged.store.manifest import MAX_SIZE
from filestoraged.store.memcached import MemcachedStore
from filestoraged.store.passwords import Guard
from filestoraged.store.presence import Presence
from filestoraged.web.router import Mounts, Router

log = logging.getLogger(__name__)


class Engines:
    """Make it before the fork, which sees that all can be used; and `build_app` after it, once in each process."""

    def __init__(self, config: Config) -> None:
        """Raises StartError."""
        self._config = config
        self._mounted = set(config.mounts.values())
        self.disk = DiskStore(config.store, algorithm=config.hash, max_size=config.max_size)
        if not config.memcached or self._mounted & {"kv", "drops"}:
            self._prepare_directory()
        # Where files and repositories keep their objects.
        self.store: Store = _open_memcached(config) if config.memcached else self.disk
        self._janitor: Optional[Janitor] = None

    def build_app(self) -> Mounts:
        """Join each interface that is mounted to its engine."""
        config = self._config
        interfaces: Dict[str, Callable[[], Router]] = {
            "files": lambda: files.routes(self.store, accel=config.accel),
            "repositories": self._repositories,
            "drops": self._drops,
            "kv": lambda: kv.routes(KeyValues(self._path("kv.sqlite"))),
        }
        routers = {prefix: interfaces[name]() for prefix, name in config.mounts.items()}
        return Mounts({operations.PREFIX: operations.routes(), **routers})

    def sweep(self) -> int:
        """Clear away what crashes left. Returns how many stagings."""
        return self.disk.sweep() if os.path.isdir(self.disk.root) else 0

    def stop(self) -> None:
        """End what goes on in the background."""
        if self._janitor is not None:
            self._janitor.stop()

    def _repositories(self) -> Router:
        # Its oid is SHA-256 whatever --hash says.
        store = self.store.namespace("repositories", algorithm="sha256")
        return repositories.routes(store, accel=self._config.accel)

    def _drops(self) -> Router:
        config = self._config
        store = DiskStore(self._path("drops"), max_size=drops.LARGEST, within=self.disk)
        registry = Drops(self._path("drops.sqlite"), Presence(self._path("drops.owners")), ttl=config.drop_ttl)
        self._janitor = Janitor(registry, store)
        self._janitor.start()
        return drops.routes(registry, store, Guard(), public_url=config.public_url, accel=config.accel)

    def _prepare_directory(self) -> None:
        try:
            self.disk.prepare()
            swept = self.disk.sweep()
        except OSError as error:
            raise StartError(f"The store {self._config.store} cannot be written: {error.strerror or error}.") from error
        if swept:
            log.info("swept %d stagings that a crash left", swept)
        if "kv" in self._mounted:
            prepare_keys(self._path("kv.sqlite"))
        if "drops" in self._mounted:
            prepare_drops(self._path("drops.sqlite"))

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
