"""The daemon's configuration: the table of its fields, and how it is read.

Flags take precedence over the file, and the file over the defaults. Contradictions raise UsageError, with one sentence.
A new option is one declaration in Config, or in the options of a backend where it belongs to one.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any, NamedTuple

from filestoraged.command_errors import UsageError
from filestoraged.daemon.backends import StoreOptions, selected
from filestoraged.daemon.fields import ConfigField, declare, parse_values, read_text
from filestoraged.daemon.interfaces import INTERFACES, default_mounts, join_mounts, parse_mount
from filestoraged.daemon.limits import parse_limit
from filestoraged.daemon.values import (
    LOG_LEVELS,
    MAX_WORKERS,
    Address,
    parse_accel,
    parse_address,
    parse_allowed_origin,
    parse_count,
    parse_duration,
    parse_host_name,
    parse_log_level,
    parse_path,
    parse_proxy,
    parse_public_url,
    parse_size,
    parse_switch,
    parse_workers,
)
from filestoraged.store.limits import Limit
from filestoraged.web.request_cache import DEFAULT_CACHE_SIZE
from filestoraged.web.trusted_proxies import IPNetwork

# Where the daemon listens when neither the configuration nor the service manager says so.
DEFAULT_LISTEN = (Address("localhost", 8080),)


def default_workers() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


class Config(StoreOptions):
    """A whole configuration. Each declaration has the help, with the unit and the cost of more or less."""

    listen: tuple[Address, ...] = declare(
        parse_address,
        "HOST:PORT",
        "address to listen on, also [::1]:8080 or unix:/path; a host name means all of its addresses;"
        " sockets of systemd replace the default",
        default=(),
        shown=", ".join(map(str, DEFAULT_LISTEN)),
        join=tuple,
    )
    admin_listen: tuple[Address, ...] = declare(
        parse_address,
        "HOST:PORT",
        "address that serves /-/ready and /-/metrics, which no other address then serves",
        default=(),
        shown="none",
        join=tuple,
    )
    # Interfaces by their prefixes.
    mounts: dict[str, str] = declare(
        parse_mount,
        "NAME=PREFIX",
        f"interface to serve, one of {' '.join(INTERFACES)}, and its path prefix; those not named are not served",
        make_default=default_mounts,
        shown=", ".join(f"{name}={prefix}" for prefix, name in default_mounts().items()),
        name="mount",
        join=join_mounts,
    )
    workers: int = declare(
        parse_workers,
        "N",
        f"worker processes that share the listening sockets, 1 to {MAX_WORKERS}; each takes 20 MiB",
        make_default=default_workers,
        shown="one for each CPU",
    )
    threads: int = declare(
        parse_count,
        "N",
        "requests that one worker serves on threads at the same time; each upload takes 2.5 MiB",
        default=32,
    )
    max_connections: int = declare(
        parse_count,
        "N",
        "connections of all workers together, 1 to 4 KiB each; a new one replaces the one idle longest, or gets 503",
        default=10_000,
    )
    max_connections_per_client: int | None = declare(
        parse_count,
        "N",
        "connections of one address (IPv6: /64 network), except loopback, Unix sockets and trusted proxies",
        shown="a quarter of max-connections",
    )
    trusted_proxy: tuple[IPNetwork | str, ...] = declare(
        parse_proxy,
        "ADDRESS[/BITS]",
        "proxy whose X-Forwarded-For names the client; unix for all clients on Unix sockets",
        default=(),
        shown="none",
        join=tuple,
    )
    public_url: str | None = declare(
        parse_public_url,
        "URL",
        "beginning of the links in responses",
        shown="none; links use the Host of the request",
    )
    host: tuple[str, ...] = declare(
        parse_host_name,
        "NAME",
        "host that requests on loopback addresses may name, besides localhost, IP addresses and the host of"
        " public-url; * for any",
        default=(),
        shown="none",
        join=tuple,
    )
    allow_origin: tuple[str, ...] = declare(
        parse_allowed_origin,
        "ORIGIN",
        "origin, such as https://app.example.org, whose pages may send requests and read responses; * for any",
        default=(),
        shown="none",
        join=tuple,
    )
    no_pages: bool = declare(
        parse_switch,
        "YES|NO",
        "serve no pages for people: browsers get what programs get",
        default=False,
        shown="no",
        is_switch=True,
    )
    chunk_hint: int = declare(
        parse_size,
        "BYTES",
        "bytes of a file that the pages send in one request at most, such as 10M, for proxies that limit requests;"
        " 0 for the whole file",
        default=64 * 1024 * 1024,
        shown="64M",
    )
    limits: tuple[Limit, ...] = declare(
        parse_limit,
        "AREA=RULES",
        "limits of files, data/REPOSITORY, names/SPACE, restic/REPOSITORY or drops, with * for any characters; the"
        " first that fits decides, for each area by itself; rules: quota:SIZE, max-size:SIZE, max-age:TIME, of names"
        " also max-unused:TIME, write-once and digest-names:PREFIX, of restic quota alone",
        default=(),
        shown="none",
        name="limit",
        join=tuple,
    )
    drop_ttl: int = declare(
        parse_duration,
        "TIME",
        "time for which a drop can be fetched, in seconds or such as 30m, 12h or 7d",
        default=7 * 24 * 3600,
        shown="7d",
    )
    tokens: str | None = declare(
        parse_path,
        "FILE",
        "file of tokens, made by `filestoraged token`; requests then need a token with a matching scope",
        shown="none; every client may do everything",
    )
    accel: str | None = declare(
        parse_accel,
        "PREFIX",
        "path at which nginx in front has the store's directory, to send downloads from it by X-Accel-Redirect",
        shown="none",
    )
    log_level: str = declare(
        parse_log_level,
        "NAME",
        f"least severe level that is logged, one of {' '.join(LOG_LEVELS)}; access lines have the level info",
        default="info",
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if "mounts" not in values:
            self.__dict__["mounts"] = default_mounts(can_list=selected(self).prune is not None)


class CacheShares(NamedTuple):
    """What one worker has of the memory for caches, in bytes."""

    objects: int
    requests: int


def cache_shares(size: int, workers: int) -> CacheShares:
    """Divide the value of --cache among the workers, whose requests have DEFAULT_CACHE_SIZE besides.

    A third is for requests: one takes half of what an object of 1 KiB takes.
    """
    requests = size // workers // 3
    return CacheShares(size // workers - requests, DEFAULT_CACHE_SIZE + requests)


# In the order of --help, of the sample file and of the manual.
FIELDS = Config.fields

# The only flag that the file cannot set.
CONFIG_FILE = ConfigField(
    name="config",
    metavar="FILE",
    default="none",
    help="INI file with these options in a section [filestoraged]; flags take precedence",
    parse=str,
    join=None,
    attribute="config",
    make_default=lambda: None,
)

_SECTION = "filestoraged"


def read_file(path: str) -> dict[str, Any]:
    """Return the texts of the options in an INI file, by their names. A repeatable option has a value on each line.

    Raises StartError where the file cannot be read, and UsageError where it sets an option that does not exist.
    """
    known = {field.name: field for field in FIELDS}
    texts: dict[str, Any] = {}
    for name, text in _read_section(path):
        if name not in known:
            raise UsageError(f"configuration {path!r}: unknown option {name!r}")
        if "\0" in text:
            raise UsageError(f"configuration {path!r}: the value of {name!r} has a NUL character")
        texts[name] = text if known[name].join is None else text.split()
        if not texts[name]:
            raise UsageError(f"configuration {path!r}: the option {name!r} has no value")
    return texts


def file_values(path: str, attributes: Collection[str]) -> dict[str, Any]:
    """Return the values of those of the `attributes` that a file sets. Raises UsageError or StartError."""
    return parse_values(read_file(path), [field for field in FIELDS if field.attribute in attributes])


def _read_section(path: str) -> list[tuple[str, str]]:
    # It takes 0.4 MiB, which a daemon without a file does without.
    import configparser

    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), default_section="")
    try:
        parser.read_string(read_text(path, "configuration"), source=path)
    except configparser.Error as error:
        raise UsageError(f"configuration {path!r} is not an INI file: {' '.join(str(error).split())}") from error
    if not parser.has_section(_SECTION):
        raise UsageError(f"configuration {path!r} has no section [{_SECTION}]")
    return parser.items(_SECTION)
