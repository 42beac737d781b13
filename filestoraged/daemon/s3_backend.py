"""The row of BACKENDS for S3. It is loaded where that is chosen."""

from __future__ import annotations

import os
from typing import Any

from filestoraged.api import metrics
from filestoraged.daemon.backends import Check, OpenStore, StoreOptions, drop_registry
from filestoraged.daemon.loading import load
from filestoraged.errors import Error, StartError, StoreUnavailable, UsageError
from filestoraged.store import layout
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.hashing import HashThreads
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.credentials import CredentialSource
from filestoraged.store.s3.store import S3Store
from filestoraged.store.s3.url import StoreURL

# Idle connections that a worker keeps. More requests at once open more, and close them afterwards.
_CONNECTIONS = 32
# Those of a check: as many as it has threads.
_CHECK_CONNECTIONS = 8

# Seconds. Requests wait longer for the store; a start does not depend on it.
_START_TIMEOUT = 5.0


def validate(options: StoreOptions) -> None:
    if options.memcached:
        raise UsageError("--s3 and --memcached cannot both keep the objects")


def open_store(options: StoreOptions, workers: int, disk: DiskStore, threads: HashThreads) -> OpenStore:
    client = make_client(options.s3, options)
    store = S3Store(
        client,
        disk.volume.staging_area,
        algorithm=options.hash,
        max_size=options.max_size,
        hash_threads=threads,
    )
    return OpenStore(
        store,
        {"s3": metrics.s3(client.traffic.totals, lambda: client.idle_connections)},
        _warnings(options.s3, client),
        store.named_namespace(layout.DROPS, max_size=options.drop_size),
        _open_segments(options, client, disk, threads),
    )


def _open_segments(options: StoreOptions, client: S3Client, disk: DiskStore, threads: HashThreads) -> Any:
    """Where unfinished uploads have their bytes; None if only this daemon has their rows."""
    if options.database is None:
        return None
    return load("store.s3.segment_objects", "SegmentObjects")(client, disk.volume.staging_area, threads)


def open_check(options: StoreOptions, **settings: Any) -> Check:
    """Without a directory among the options, drops are not compared with their registry."""
    client = make_client(options.s3, options, connections=_CHECK_CONNECTIONS)
    try:
        client.check_bucket()
    except Error as error:
        raise StartError(str(error.__cause__ or error)) from error
    registry = drop_registry(options) or _local_registry(options, settings["throttle"])
    segments = None if options.database is None else load("check.postgresql", "PostgresSegments")(options.database)
    check: Check = load("check.s3", "S3Check")(
        client, algorithm=options.hash, registry=registry, segments=segments, **settings
    )
    return check


def _local_registry(options: StoreOptions, throttle: Any) -> Any:
    path = os.path.join(options.store, layout.DROPS_DATABASE) if options.store else ""
    return load("check.databases", "Registry")(path, throttle) if os.path.exists(path) else None


def open_prune(options: StoreOptions, repository: str, *arguments: Any, **settings: Any) -> Any:
    """A run over a repository. Raises StartError if that has no object."""
    run = load("check.s3_prune", "S3Prune")(
        make_client(options.s3, options, connections=_CHECK_CONNECTIONS), repository, *arguments, **settings
    )
    try:
        exists = run.exists()
    except Error as error:
        raise StartError(str(error.__cause__ or error)) from error
    if not exists:
        raise StartError(f"there is no repository {repository!r} in the S3 store {options.s3}")
    return run


def make_client(location: StoreURL, options: StoreOptions, *, connections: int = _CONNECTIONS) -> S3Client:
    """`connections` is how many idle ones are kept.

    Raises StartError where the file of credentials that an option names cannot be used.
    """
    credentials = CredentialSource(options.s3_credentials)
    if options.s3_credentials is not None:
        try:
            credentials.current()
        except StoreUnavailable as error:
            raise StartError(str(error.__cause__)) from error
    return S3Client(
        location,
        credentials,
        region=options.s3_region,
        connections=connections,
    )


def _warnings(location: StoreURL, client: S3Client) -> tuple[str, ...]:
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
