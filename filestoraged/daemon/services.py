"""The services of one configuration: its store, its databases, and the routers of the interfaces that it mounts."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from filestoraged.api import metrics, operations, pages
from filestoraged.api.interface import LIMITS_DATA, Data, Resources
from filestoraged.api.objects import Delivery
from filestoraged.api.operations import Readiness
from filestoraged.api.pages import Pages
from filestoraged.api.upload_targets import Targets
from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.command_errors import StartError, UsageError
from filestoraged.daemon.backend import OpenStore, drop_store
from filestoraged.daemon.backends import selected
from filestoraged.daemon.config import Config, cache_shares
from filestoraged.daemon.interfaces import INTERFACES
from filestoraged.daemon.tokens_file import read_tokens
from filestoraged.errors import DISK_FULL, JournalDamaged, StorageFull, StoreDetached
from filestoraged.store import layout
from filestoraged.store.databases import open_databases
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.limits import AreaLimits
from filestoraged.store.passwords import PASSWORDS, Passwords
from filestoraged.store.path_identity import PathIdentities
from filestoraged.store.permissions import GROUP_READABLE, PRIVATE, permission_warning
from filestoraged.store.shared_count import SharedCount
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.losses import find_losses
from filestoraged.web.cross_site import ANY, Hosts, Origins
from filestoraged.web.metrics import Metrics
from filestoraged.web.mounts import Mounts
from filestoraged.web.router import Router

log = logging.getLogger(__name__)

# Seconds.
_STOP_TIMEOUT = 10.0

# Seconds to read the log of a database at the start. A log of 64 MiB takes 0.2 s.
_EXAMINATION_TIMEOUT = 2.5

_HEALTH_ROUTERS = {operations.PREFIX: operations.health_routes()}


class Services:
    """Made before the fork, which tests that everything can be used. Each process then builds its routers.

    The main thread calls it, or in the master the thread that prepares a configuration.
    """

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        mounts: Sequence[Mapping[str, str]],
        former: PathIdentities | None = None,
        *,
        passwords: Passwords = PASSWORDS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`mounts` are those of all endpoints. `former` has what the former configuration has opened, for a reload.

        Raises StartError and UsageError.
        """
        self._config = config
        self._metrics = metrics
        self._passwords = passwords
        self._clock = clock
        self._read(config, mounts)
        # Of the store's directory and of the databases.
        self.identities = PathIdentities(former)
        self._warnings: list[str] = []
        self.disk = self._make_disk()
        opened = selected(config).open(config, config.workers, self.disk, clock)
        # Where files and repositories keep their objects.
        self.store = opened.store
        self._databases = open_databases(config.database, self.disk.volume.identity, self.identities, clock)
        self._prepare()
        # Last of what needs closing: nothing is left open where the start fails.
        self._usage = SharedCount(clock)
        self.resources = self._make_resources(opened)
        # By the interface's name; and those of operations by their paths.
        self._routers: dict[str, Router] = {}
        self._operations: dict[str, Router] = {}
        self._admin_operations: dict[str, Router] = {}
        # A start that fails logs nothing but the reason.
        for warning in (*opened.warnings, *self._warnings):
            log.warning("%s", warning)

    def _read(self, config: Config, mounts: Sequence[Mapping[str, str]]) -> None:
        """Load what is served, and who may request it."""
        mounted = {name for each in mounts for name in each.values()}
        _require_listing(config, mounted)
        self._interfaces = [row.load() for name, row in INTERFACES.items() if name in mounted]
        self._data = self._data_by_database()
        self._tokens = None if config.tokens is None else read_tokens(config.tokens, mounts)
        self._origins = Origins(public_url=config.public_url, allowed=config.allow_origin)
        self._hosts = self._loopback_hosts()
        self._pages = self._read_pages()
        # nginx runs as another user, and reads what --accel hands over to it.
        self._permissions = GROUP_READABLE if config.accel else PRIVATE

    @property
    def _uses_disk(self) -> bool:
        return self.store is self.disk or bool(self._data)

    def _data_by_database(self) -> Mapping[str, Data]:
        """What is kept in databases, by their names."""
        data = {each.data.database: each.data for each in self._interfaces if each.data is not None}
        if self._config.limits:
            data.setdefault(layout.NAMES_DATABASE, LIMITS_DATA)
        return data

    def _prepare(self) -> None:
        if self._uses_disk:
            self._prepare_directory()
        if self._data:
            self._warnings += self._databases.prepare()

    def _make_disk(self) -> DiskStore:
        config = self._config
        return DiskStore(
            config.store,
            algorithm=config.hash,
            max_size=config.max_size,
            permissions=self._permissions,
            cache_size=cache_shares(config.cache, config.workers).objects,
            identity=self.identities.of_root(os.path.abspath(config.store)),
        )

    def build_app(self, mounts: Mapping[str, str]) -> Mounts:
        """Return the routers of the interfaces that are mounted, and those of operations.

        An endpoint without interfaces is for operators, so /-/ready shows the cause there.
        """
        self._build_routers()
        return self._mount(mounts, self._operations if mounts else self._admin_operations)

    def build_app_without_operations(self, mounts: Mapping[str, str]) -> Mounts:
        """Return the routers of the interfaces that are mounted, and /-/health alone of operations."""
        self._build_routers()
        return self._mount(mounts, _HEALTH_ROUTERS)

    def sweep(self) -> None:
        """Remove stagings of processes that are gone."""
        try:
            # The two may be one.
            for store in {self.store, self.disk}:
                store.sweep()
        except StoreDetached:
            # Logged by what found it. Other directories have other processes' stagings.
            pass
        except OSError as error:
            # Objects can be read all the same.
            log.warning("cannot sweep the stagings of dead processes: %s", error)

    def stop(self, timeout: float = _STOP_TIMEOUT) -> bool:
        """Write pending changes, stop background threads, and close the databases and connections to a store.

        Returns whether that took at most `timeout` seconds: another process may hold a lock, or a disk may hang.
        """
        deadline = self._clock.now() + timeout
        closing, self.resources.closing = self.resources.closing, []
        # Side by side: one that hangs delays neither the others nor the end of the process.
        stops = [_Stop(steps) for steps in closing]
        for each in stops:
            each.start()
        in_time = [self._clock.wait(each.ended, max(0.0, deadline - self._clock.now())) for each in stops]
        if not all(in_time):
            log.error("closing the databases exceeded %.1f s; changes of drops may be lost", timeout)
            return False
        for each in stops:
            each.join()
        return True

    def close(self) -> None:
        """In the master, when workers of another configuration have taken over. Workers keep their copies."""
        self._usage.close()

    def _make_resources(self, opened: OpenStore) -> Resources:
        config = self._config
        mounted = [interface.name for interface in self._interfaces]
        resources = Resources(
            objects=opened.store,
            drops=drop_store(config, opened, self.disk),
            segments=opened.segments,
            disk=self.disk,
            databases=self._databases,
            delivery=Delivery(config.accel, "public" if self._tokens is None else "private"),
            drop_ttl=config.drop_ttl,
            public_url=config.public_url,
            authorizer=self._tokens,
            gauges=opened.gauges,
            pages=self._pages,
            targets=Targets(opened.store, mounted=mounted, public_url=config.public_url),
            passwords=self._passwords,
            clock=self._clock,
        )
        if opened.store is not self.disk:
            resources.probes.append(opened.store.probe)
            resources.closing.append((opened.store.close,))
        if self._uses_disk:
            resources.probes.append(self.disk.probe)
            resources.closing.append((self.disk.close,))
            resources.gauges["objects"] = metrics.objects(self.disk, self._usage)
            resources.closing.append((self._usage.stop,))
        return resources

    def _build_routers(self) -> None:
        if self._operations:
            return
        if self._config.limits:
            self.resources.limit(AreaLimits(self._config.limits))
        elif self._data if self._databases.is_remote else os.path.exists(self.resources.path(layout.NAMES_DATABASE)):
            # From a time with limits, perhaps. It is not prepared: what does not use it starts if it is damaged, too.
            self.resources.forget_counts()
        for each in self._interfaces:
            if each.open is not None:
                each.open(self.resources)
        self._routers = {each.name: each.build(self.resources) for each in self._interfaces}
        if self._config.limits:
            self.resources.enforce_limits()
        readiness = Readiness(self.resources.probes, clock=self._clock)
        shown = {operations.METRICS: metrics.routes(self._metrics, self.resources.gauges, self._clock)}
        self._operations = {operations.PREFIX: operations.public_routes(readiness), **shown}
        self._admin_operations = {operations.PREFIX: operations.admin_routes(readiness), **shown}

    def _mount(self, mounts: Mapping[str, str], shown: Mapping[str, Router]) -> Mounts:
        routers = {prefix: self._routers[name] for prefix, name in mounts.items()}
        if self._pages is not None:
            routers[pages.PREFIX] = self._pages.routes()
        served = {**routers, **shown}

        def describe() -> bytes:
            # Imported for its first request: few ask for it.
            from filestoraged.api.openapi import document

            descriptions = {each.name: each.describe() for each in self._interfaces}
            return document(served, descriptions, has_tokens=self._tokens is not None)

        described = {operations.DESCRIPTION: operations.description_routes(describe)}
        return Mounts({**served, **described}, self._tokens, self._origins, self._hosts)

    def _loopback_hosts(self) -> Hosts | None:
        """Return the hosts that requests on loopback addresses may name; None for any.

        Where requests need a token, a page of another site has none, whatever name it reaches us by.
        """
        config = self._config
        if self._tokens is not None or ANY in config.host:
            return None
        return Hosts(config.host, public_url=config.public_url)

    def _read_pages(self) -> Pages | None:
        if self._config.no_pages:
            return None
        try:
            return Pages(
                authorizer=self._tokens,
                public_url=self._config.public_url,
                chunk_size=self._config.chunk_hint,
            )
        except OSError as error:
            raise StartError(f"cannot read the pages of the package: {error.strerror or error}") from error

    def _prepare_directory(self) -> None:
        try:
            self.disk.prepare()
            swept = self.disk.sweep()
        except StoreDetached as error:
            raise _not_opened(error) from error
        except JournalDamaged as error:
            raise StartError(error.cause) from error
        except OSError as error:
            raise self._not_writable(error) from error
        if swept:
            log.info("swept %d stagings of dead processes", swept)
        self._test_renaming()
        if not self._databases.is_remote:
            for data in self._data.values():
                self._prepare_database(data)
        warning = permission_warning(self._config.store, self._permissions)
        if warning is not None:
            self._warnings.append(warning)

    def _test_renaming(self) -> None:
        """Test that uploads can be staged and renamed to their directories.

        A full disk does not keep the daemon from starting: objects can be read and removed.
        """
        try:
            for part in [self.disk, *(self.disk.namespace(name) for name in self._directories())]:
                try:
                    part.probe_rename()
                except OSError as error:
                    if error.errno not in DISK_FULL:
                        raise self._not_renamable(part, error) from error
                    store = self._config.store
                    self._warnings.append(f"the store {store} is full; refusing uploads: {error.strerror}")
                    return
        finally:
            # This process stages nothing.
            self.disk.close()

    def _directories(self) -> list[str]:
        """Return the directories below the store that objects are renamed to."""
        on_disk = self.store is self.disk
        return [each.directory for each in self._interfaces if each.directory and (on_disk or each.data is not None)]

    def _prepare_database(self, data: Data) -> None:
        path = os.path.join(self.disk.root, data.database)
        identity = self.identities.of_database(path)
        try:
            # One prepared before is not waited for: it may be locked, and the requests of this daemon would wait as
            # well.
            identity.check()
            if not identity.is_fixed:
                for loss in find_losses(path, timeout=_EXAMINATION_TIMEOUT):
                    # Also if the start fails: the next one does not find it any more.
                    log.warning("%s: %s; restore a backup", loss.path, loss.reason)
                database.prepare(path, data.schema)
                identity.fix()
        except StoreDetached as error:
            raise _not_opened(error) from error
        except OSError as error:
            raise self._not_writable(error) from error
        except StorageFull:
            self._warnings.append(f"cannot use {path} yet: the disk is full")

    def _not_writable(self, error: OSError) -> StartError:
        return StartError(f"cannot write the store {self._config.store!r}: {error.strerror or error}")

    def _not_renamable(self, part: DiskStore, error: OSError) -> StartError:
        if error.errno != errno.EXDEV:
            return self._not_writable(error)
        staging = os.path.join(self._config.store, layout.STAGING)
        return StartError(f"cannot rename files from {staging!r} to {str(part.root)!r}: they are on two file systems")


def _require_listing(config: Config, mounted: Collection[str]) -> None:
    backend = selected(config)
    for name in sorted(mounted):
        if INTERFACES[name].needs_listing and backend.prune is None:
            raise UsageError(f"--mount {name} and --{backend.option} contradict each other: that cannot list objects")


def _not_opened(error: StoreDetached) -> StartError:
    """A reload opens nothing else in place of what is lost."""
    return StartError(f"cannot use the store: {error.__cause__}; only a restart opens what is there now")


class _Stop(threading.Thread):
    """Runs steps one after the other. `ended` is set behind the last: a thread cannot be joined by a clock."""

    def __init__(self, steps: Sequence[Callable[[], None]]) -> None:
        super().__init__(name="stop", daemon=True)
        self._steps = steps
        self.ended = threading.Event()

    def run(self) -> None:
        for step in self._steps:
            try:
                step()
            except Exception:
                log.exception("a service failed to stop")
        self.ended.set()
