"""Requests to HAProxy, each on a connection of its own, and a record of what came of each."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# A client gives up after this many seconds.
TIMEOUT = 90.0

# Statuses that are no failure, for each kind of request.
_EXPECTED = {
    "files put": (200,),
    "files get": (200,),
    "repositories put": (201,),
    "kv set": (200, 201),
    "kv commit": (204,),
    "kv get": (200, 404),
    "drops put": (201,),
    "drops get": (200, 410),
    "uploads ask": (200, 201, 423),
    "uploads patch": (204, 409, 423),
    "health": (200,),
}
KINDS = tuple(_EXPECTED)
# Kinds that need the S3 store, and kinds that need the database.
_UPLOADS = ("uploads ask", "uploads patch")
# Who asks for the offset of an upload whose bytes are all there gets an object made of them, if there is none.
NEED_S3 = ("files put", "files get", "repositories put", "drops put", "drops get", *_UPLOADS)
NEED_DATABASE = ("kv set", "kv commit", "kv get", "drops put", "drops get", *_UPLOADS)


class Record(NamedTuple):
    """What came of a request. `began` and `ended` are on the monotonic clock.

    `status` is 0 where the connection broke off before the end of the response; `body` then has the error.
    """

    kind: str
    began: float
    ended: float
    status: int
    body: bytes
    may_retry: bool = False
    # In lower case.
    fields: Mapping[str, str] = {}

    @property
    def failed(self) -> bool:
        return self.status not in _EXPECTED[self.kind]

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Requests:
    """Sends requests, from any thread, and records them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._records: list[Record] = []
        self._lock = threading.Lock()

    def send(self, kind: str, method: str, path: str, body: bytes | None = None, **fields: str) -> Record:
        """Send a request. Underscores in names of fields stand for hyphens."""
        began = time.monotonic()
        headers = {name.replace("_", "-"): text for name, text in fields.items()}
        status, received, answered = _send(self._port, method, path, body, headers)
        record = Record(kind, began, time.monotonic(), status, received, "retry-after" in answered, answered)
        with self._lock:
            # What was downloaded is not kept.
            self._records.append(record if record.failed else record._replace(body=b"", fields={}))
        return record

    def records(self, *, since: float = 0.0, until: float = float("inf")) -> list[Record]:
        """The requests that began at or after `since` and ended before `until`."""
        with self._lock:
            return [record for record in self._records if since <= record.began and record.ended < until]

    def have_succeeded(self, kinds: Iterable[str], count: int, *, since: float) -> bool:
        """Whether the last `count` requests of each kind that began since then have succeeded."""
        records = self.records(since=since)
        return all(_last_succeeded(records, kind) >= count for kind in kinds)


def describe(records: Iterable[Record]) -> str:
    """Count the records by kind and status, in one line."""
    counts = Counter((record.kind, record.status) for record in records)
    return ", ".join(f"{kind} {status}: {count}" for (kind, status), count in sorted(counts.items()))


def _last_succeeded(records: Iterable[Record], kind: str) -> int:
    """Return how many requests of that kind have succeeded since the last that failed."""
    count = 0
    for record in records:
        if record.kind == kind:
            count = 0 if record.failed else count + 1
    return count


def _send(
    port: int, method: str, path: str, body: bytes | None, fields: dict[str, str]
) -> tuple[int, bytes, Mapping[str, str]]:
    """Return the status, the body and the header fields."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        client.request(method, path, body, fields)
        response = client.getresponse()
        answered = {name.lower(): value for name, value in response.getheaders()}
        return response.status, response.read(), answered
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error).encode(), {}
    finally:
        client.close()
