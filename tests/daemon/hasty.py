"""A daemon that collects the objects which no name leads to within a second, for storms and power cuts."""

from __future__ import annotations

from collections.abc import Sequence
from unittest import mock

from filestoraged.api import names
from filestoraged.cli import main as cli
from filestoraged.store import janitors, name_collection

# Seconds, in which a store on loopback ends the last request of a daemon that was killed.
_SUCCESSION_TIME = 10.0


def run_hasty_daemon(arguments: Sequence[str] | None = None) -> int:
    """Run it with seconds in place of minutes, hours and days."""
    collectable = name_collection._COLLECTABLE.replace(f"- {name_collection._GRACE}", "- 0.1")
    seconds = {"_UNKNOWN_AGE": 1.0, "_SCAN_INTERVAL": 1.0, "_TOMBSTONE_TTL": 1.0}
    with (
        mock.patch.dict(vars(name_collection), {"_COLLECTABLE": collectable, **seconds}),
        mock.patch.object(names, "SUCCESSION_TIME", _SUCCESSION_TIME),
        mock.patch.object(janitors, "_INTERVAL", 0.1),
    ):
        return cli.main(arguments)
