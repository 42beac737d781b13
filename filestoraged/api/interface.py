"""What an interface declares, and what it is built from.

An interface is a module of this package with its routes, their scopes and descriptions, its metrics, and what it
stores, and a row of the table INTERFACES in `daemon/interfaces.py`. The module is imported where it is mounted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from filestoraged.api import areas
from filestoraged.api.metrics import Gauge
from filestoraged.api.objects import Delivery
from filestoraged.api.operations import Probe
from filestoraged.api.pages import Pages
from filestoraged.api.upload_targets import Targets
from filestoraged.clock import Clock
from filestoraged.errors import Error, StoreUnavailable
from filestoraged.store import layout
from filestoraged.store.accounts import Accounts
from filestoraged.store.area_janitor import AreasJanitor
from filestoraged.store.areas import distrust
from filestoraged.store.contract import Store
from filestoraged.store.databases import Databases
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.drops import Drops
from filestoraged.store.janitors import Janitor
from filestoraged.store.limited_store import limit_drops, limit_objects
from filestoraged.store.limits import AreaLimits
from filestoraged.store.name_limits import FindRules, no_rules
from filestoraged.store.name_tables import NAMES_SCHEMA
from filestoraged.store.passwords import Guard, Passwords
from filestoraged.store.sqlite.database import Schema
from filestoraged.store.uploads.uploads import Uploads
from filestoraged.web.auth import Tokens
from filestoraged.web.router import Router

if TYPE_CHECKING:
    from filestoraged.store.s3.segment_objects import SegmentObjects

# A part of `/-/openapi.json`.
Json = dict[str, Any]


class Description(NamedTuple):
    """What the routers' tables do not know of each request: summaries, parameters, bodies and responses.

    A row for each method and pattern. `api/openapi.py` has the vocabulary.
    """

    operations: Mapping[tuple[str, str], Json]
    # Further schemas, by the names that operations refer to.
    schemas: Mapping[str, Json] = {}


class Data(NamedTuple):
    """Rows that an interface keeps: in a SQLite database below the store, unless --database is given."""

    database: str
    # The database is made before the fork.
    schema: Schema
    # What it is, for the log.
    content: str


# That of the accounts of limited areas, whichever interfaces are mounted.
LIMITS_DATA = Data(layout.NAMES_DATABASE, NAMES_SCHEMA, "limits")


class Interface(NamedTuple):
    name: str
    build: Callable[[Resources], Router]
    # Called for the first request of `/-/openapi.json`.
    describe: Callable[[], Description]
    # The directory below the store that its objects are renamed to; "" for the store itself.
    directory: str = ""
    # Without --database, an interface with data uses the directory whatever backend keeps the objects.
    data: Data | None = None
    # Called before any router is built, for what others use as well.
    open: Callable[[Resources], None] | None = None


class Additions:
    """What those who build routers add to: for operations, and for the worker's end."""

    def __init__(self, gauges: Mapping[str, Gauge]) -> None:
        # What /-/ready tests, and what /-/metrics shows.
        self.probes: list[Probe] = []
        self.gauges = dict(gauges)
        # Each is a sequence of steps; the sequences run side by side when the worker stops.
        self.closing: list[Sequence[Callable[[], None]]] = []
        self.janitors: list[Janitor] = []

    def test(self, name: str, write: Probe) -> None:
        """Let /-/ready test whether a database can be written, which messages call by that name."""

        def probe() -> None:
            try:
                write()
            except Error as error:
                # With the cause of that error, which operators are shown.
                raise StoreUnavailable(f"{name} cannot be written: {error}") from error.__cause__ or error

        self.probes.append(probe)


class Resources(Additions):
    """What routers are built from in a worker."""

    # None where no area has a limit.
    accounts: Accounts | None = None
    # None unless they are served.
    drop_registry: Drops | None = None
    uploads: Uploads | None = None

    def __init__(
        self,
        *,
        objects: Store,
        drops: Store,
        segments: SegmentObjects | None,
        disk: DiskStore,
        databases: Databases,
        delivery: Delivery,
        drop_ttl: int,
        public_url: str | None,
        authorizer: Tokens | None,
        gauges: Mapping[str, Gauge],
        pages: Pages | None,
        targets: Targets,
        passwords: Passwords,
        clock: Clock,
    ) -> None:
        """`objects` is where files and repositories keep their objects; `disk` is the store's directory.

        `drops` has the bytes of drops, `segments` those of unfinished uploads, None for a part of the directory.
        Without an `authorizer`, requests need no token; without `pages`, people get none. `drop_ttl` is in seconds.
        """
        super().__init__(gauges)
        self.objects = objects
        self.drops = drops
        self.segments = segments
        self.disk = disk
        self.databases = databases
        self.delivery = delivery
        self.drop_ttl = drop_ttl
        self.public_url = public_url
        self.authorizer = authorizer
        self.pages = pages
        self.targets = targets
        self.clock = clock
        # Of drops, which resumable uploads may become as well.
        self.guard = Guard(passwords)
        # The limits of areas; None for those without.
        self.find_rules: FindRules = no_rules

    def limit(self, limits: AreaLimits) -> None:
        """Count what areas store. Called before anything else uses the stores."""
        transactions = self.databases.open_transactions(layout.NAMES_DATABASE, NAMES_SCHEMA)
        self.accounts = Accounts(transactions, limits, self.objects, self.drops, self.clock)
        self.find_rules = limits.find
        self.objects, self.drops = limit_objects(self.accounts), limit_drops(self.accounts)
        self.targets.limit(self.objects)
        self.test("Limits", transactions.probe)
        self.gauges["areas"] = areas.gauge(self.accounts)

    def forget_counts(self) -> None:
        """There are no limits, so nothing is counted."""
        transactions = self.databases.open_transactions(layout.NAMES_DATABASE, NAMES_SCHEMA)
        self.closing.append((transactions.close,))
        # Where the database fails, areas are counted after the next start with limits all the same, a moment later.
        with contextlib.suppress(Error):
            distrust(transactions)

    def enforce_limits(self) -> None:
        """Start what removes objects beyond the limits, once all interfaces are built."""
        assert self.accounts is not None
        lock = self.databases.open_cleanup_lock(layout.LIMITS_JANITOR_LOCK)
        janitor = AreasJanitor(self.accounts, lock, self.drop_registry, self.clock)
        janitor.start()
        self.janitors.append(janitor)
        self.closing.append((janitor.stop, self.accounts.close))

    def path(self, name: str) -> str:
        return os.path.join(self.disk.root, name)
