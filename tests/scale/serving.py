"""Every interface, on the whole service as it was started."""

from __future__ import annotations

from tests.scale import interfaces
from tests.scale.service import SERVICE


class ServingTest(interfaces.InterfacesContract):
    @classmethod
    def setUpClass(cls) -> None:
        cls.haproxy = SERVICE.haproxy
        cls.daemons = SERVICE.daemons
