"""S3 as a backend: it keeps the objects of files and repositories, and the bytes of drops."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from filestoraged.api.metrics import Gauge
from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.command_errors import StartError, UsageError
from filestoraged.daemon.backend import Backend, Check, CommonOptions, OpenStore, remote_registry
from filestoraged.daemon.fields import declare
from filestoraged.daemon.values import parse_path
from filestoraged.errors import Error, StoreUnavailable
from filestoraged.store import layout
from filestoraged.store.disk.store import DiskStore
from filestoraged.wire.exposition import Family, labelled

if TYPE_CHECKING:
    from filestoraged.check.inventory import CheckedStore
    from filestoraged.check.rows import RowRegistry
    from filestoraged.check.throttle import Throttle
    from filestoraged.store.s3.client import S3Client
    from filestoraged.store.s3.segment_objects import SegmentObjects
    from filestoraged.store.s3.url import StoreURL

# Idle connections that a worker keeps. More requests at once open more, and close them afterwards.
_CONNECTIONS = 32
# Those of a check: as many as it has threads.
_CHECK_CONNECTIONS = 8

# Seconds. Requests wait longer for the store; a start does not depend on it.
_START_TIMEOUT = 5.0

_REGION = re.compile(r"[A-Za-z0-9_\-]{1,64}", re.ASCII)


def parse_s3_url(text: str) -> StoreURL:
    """Return the location of an S3 store."""
    from filestoraged.store.s3.url import parse_url

    try:
        return parse_url(text)
    except ValueError as error:
        raise UsageError(str(error)) from error


def parse_region(text: str) -> str:
    if not _REGION.fullmatch(text):
        raise UsageError(f"invalid region {text!r}: expected letters, digits and hyphens, such as us-east-1")
    return text


class S3Options(CommonOptions):
    s3: StoreURL | None = declare(
        parse_s3_url,
        "URL",
        "S3 store that keeps the objects of all interfaces, instead of the directory: https://HOST[:PORT]/BUCKET[/PREFIX]",
        shown="none",
    )
    s3_region: str = declare(
        parse_region,
        "NAME",
        "region that requests to the S3 store are signed for",
        default="us-east-1",
    )
    s3_credentials: str | None = declare(
        parse_path,
        "FILE",
        "credentials for the S3 store, in AWS' INI format, section default; without it, the AWS_* variables",
        shown="none",
    )


def _open(options: S3Options, workers: int, disk: DiskStore, clock: Clock) -> OpenStore:
    from filestoraged.store.s3.store import S3Store

    client = make_client(options, clock=clock)
    store = S3Store(
        client,
        disk.volume.staging_area,
        algorithm=options.hash,
        max_size=options.max_size,
        hash_threads=disk.hash_threads,
    )
    return OpenStore(
        store,
        {"s3": _gauge(client.traffic.totals, lambda: client.idle_connections)},
        _warnings(client),
        store.named_namespace(layout.DROPS, max_size=options.drop_size),
        _open_segments(options, client, disk),
    )


def _open_segments(options: S3Options, client: S3Client, disk: DiskStore) -> SegmentObjects | None:
    """Where unfinished uploads have their bytes; None if only this daemon has their rows."""
    if options.database is None:
        return None
    from filestoraged.store.s3.segment_objects import SegmentObjects

    return SegmentObjects(client, disk.volume.staging_area, disk.hash_threads)


def _open_check(options: S3Options, *, throttle: Throttle, repair: bool, drops_elsewhere: bool) -> Check:
    """Without a directory among the options, drops are not compared with their registry."""
    from filestoraged.check.databases import SqliteRegistry, SqliteStored
    from filestoraged.check.rows import DROPS, SEGMENTS, STORED
    from filestoraged.check.s3 import check_s3

    client = make_client(options, connections=_CHECK_CONNECTIONS)
    try:
        client.check_bucket()
    except Error as error:
        raise StartError(str(error.__cause__ or error)) from error
    return check_s3(
        client,
        algorithm=options.hash,
        drops=remote_registry(options, DROPS) or _local(options, layout.DROPS_DATABASE, SqliteRegistry, throttle),
        segments=remote_registry(options, SEGMENTS),
        names=remote_registry(options, STORED) or _local(options, layout.NAMES_DATABASE, SqliteStored, throttle),
        throttle=throttle,
        repair=repair,
    )


def _local(
    options: S3Options, database: str, open_: Callable[[str, Throttle], RowRegistry], throttle: Throttle
) -> RowRegistry | None:
    path = os.path.join(options.store, database) if options.store else ""
    return open_(path, throttle) if os.path.exists(path) else None


def _open_prune(options: S3Options, repository: str, throttle: Throttle, *, moves: bool) -> CheckedStore:
    """Raises StartError if the repository has no object."""
    from filestoraged.check.s3 import CheckedS3

    client = make_client(options, connections=_CHECK_CONNECTIONS)
    try:
        has_objects = client.list(f"{layout.REPOSITORIES}/{repository}/", limit=1).objects
    except Error as error:
        raise StartError(str(error.__cause__ or error)) from error
    if not has_objects:
        raise StartError(f"there is no repository {repository!r} in the S3 store {options.s3}")
    return CheckedS3(client, throttle)


def make_client(options: S3Options, *, connections: int = _CONNECTIONS, clock: Clock = SYSTEM_CLOCK) -> S3Client:
    """`connections` is how many idle ones are kept.

    Raises StartError where the file of credentials that an option names cannot be used.
    """
    from filestoraged.store.s3.client import S3Client
    from filestoraged.store.s3.credentials import CredentialSource

    assert options.s3 is not None
    credentials = CredentialSource(options.s3_credentials)
    if options.s3_credentials is not None:
        try:
            credentials.current()
        except StoreUnavailable as error:
            raise StartError(str(error.__cause__)) from error
    return S3Client(
        options.s3,
        credentials,
        region=options.s3_region,
        connections=connections,
        clock=clock,
    )


def _warnings(client: S3Client) -> tuple[str, ...]:
    location = client.location
    warnings = []
    if not location.endpoint.is_encrypted and not location.is_loopback:
        warnings.append(f"objects are sent to {location} without encryption")
    try:
        client.check_bucket(until=client.deadline(_START_TIMEOUT))
    except Error as error:
        warnings.append(f"starting without the S3 store: {error.__cause__ or error}; each request tries it again")
    # Processes that are forked next must not inherit a connection.
    client.close()
    return tuple(warnings)


def _gauge(traffic: Callable[[], Mapping[str, int]], idle_connections: Callable[[], int]) -> Gauge:
    """Requests to an S3 store by result, and the connections that the asked worker keeps."""

    def collect() -> Iterator[Family]:
        attempts = labelled("result", traffic())
        yield Family("filestoraged_s3_requests_total", "counter", "Requests to the S3 store, by result.", attempts)
        help_ = "Connections to the S3 store that the worker which was asked keeps for the next requests."
        yield Family("filestoraged_s3_idle_connections", "gauge", help_, [({}, idle_connections())])

    return collect


S3: Backend[S3Options] = Backend(
    "s3",
    _open,
    lambda options: f"the S3 store {options.s3}",
    _open_check,
    _open_prune,
    keeps_drops=True,
)
