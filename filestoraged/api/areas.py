"""The metrics of areas that have limits."""

from __future__ import annotations

from collections.abc import Iterator

from filestoraged.api.metrics import Gauge
from filestoraged.store.accounts import Accounts
from filestoraged.wire.exposition import Family, Sample

# Areas that are shown: each is a label, and clients choose its name.
_MAX_AREAS = 1000


def gauge(accounts: Accounts) -> Gauge:
    def collect() -> Iterator[Family]:
        sums: list[list[Sample]] = [[], [], [], []]
        statement = "SELECT area, bytes, objects, last_upload FROM areas ORDER BY area"
        for area, size, objects, last_upload in accounts.transactions.read(statement):
            rules = accounts.limits.find(area)
            if rules is None or len(sums[0]) == _MAX_AREAS:
                continue
            for samples, value in zip(sums, (size, objects, rules.quota, last_upload or None)):
                if value is not None:
                    samples.append(({"area": area}, value))
        shown = {labels["area"] for labels, _ in sums[0]}
        yield Family("filestoraged_area_bytes", "gauge", "Bytes of the objects of an area with a limit.", sums[0])
        yield Family("filestoraged_area_objects", "gauge", "Objects of an area with a limit.", sums[1])
        yield Family("filestoraged_area_quota_bytes", "gauge", "The quota of an area.", sums[2])
        text = "When an area got its last object, in seconds since 1970."
        yield Family("filestoraged_area_last_upload_timestamp_seconds", "gauge", text, sums[3])
        rows = accounts.transactions.read("SELECT area, reason, number FROM removals ORDER BY area, reason")
        removals: list[Sample] = [
            ({"area": area, "reason": reason}, number) for area, reason, number in rows if area in shown
        ]
        text = "Objects, or names, that a limit has removed."
        yield Family("filestoraged_area_removals_total", "counter", text, removals)

    return collect
