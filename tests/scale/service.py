"""The whole service: Ceph, a pair of PostgreSQL, three daemons, HAProxy. Made once, and shared by all checks."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.haproxy import BackendDaemon, HAProxy, running_daemons, running_haproxy
from tests.scale.ceph import Ceph, Gateway
from tests.scale.ledger import Ledger
from tests.scale.postgresql import Pair
from tests.scale.requests import Requests

_WORKERS = 2


class Service:
    """`start` in a directory, `stop` whatever has happened."""

    ceph: Ceph
    gateway: Gateway
    database: Pair
    daemons: list[BackendDaemon]
    haproxy: HAProxy
    requests: Requests

    def __init__(self) -> None:
        # Of all checks together.
        self.ledger = Ledger()
        self._stack = contextlib.ExitStack()

    def start(self, directory: Path) -> None:
        self.ceph = Ceph(directory / "ceph")
        self._stack.callback(self.ceph.kill)
        self.ceph.start()
        self.gateway = Gateway(self.ceph)
        self._stack.callback(self.gateway.kill)
        self.database = Pair()
        self._stack.callback(self.database.remove)
        bucket = self.gateway.make_bucket()
        options = ("--s3", bucket.url, "--database", self.database.url, "--store", str(directory / "store-{name}"))
        more = ("--workers", str(_WORKERS))
        self.daemons = self._stack.enter_context(running_daemons(*options, *more, environment=self.gateway.environment))
        self.haproxy = self._stack.enter_context(running_haproxy(directory, self.daemons))
        self.requests = Requests(self.haproxy.port)

    def stop(self) -> None:
        self._stack.close()


# All checks of a run are about one service.
SERVICE = Service()
