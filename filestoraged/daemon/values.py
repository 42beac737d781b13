"""What the daemon is told: one frozen record, and the values' spellings in flags and files.

Flags win over the file, the file over the defaults. What cannot be meant raises UsageError with one sentence.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from filestoraged.api import operations
from filestoraged.digest import ALGORITHMS
from filestoraged.errors import UsageError
from filestoraged.store.memcached.manifest import MAX_SIZE as LARGEST_IN_MEMCACHED
from filestoraged.store.memcached.pool import parse_server
from filestoraged.store.memcached.store import MEMORY
from filestoraged.web.trusted_proxies import UNIX, IPNetwork
from filestoraged.wire.origin import parse_origin

INTERFACES = ("files", "repositories", "drops", "kv")

# Interfaces by prefix.
_DEFAULT_MOUNTS = {"/": "files", "/data": "repositories", "/vimeo/api/v1.0": "drops", "/kv": "kv"}

# The paths of operations are known by that name where a socket's is read.
OPERATIONS = "operations"

# More than any machine has processors for; each takes 20 MiB.
MOST_WORKERS = 1024

# Bits in front of an IPv4 address that is written as an IPv6 address.
_MAPPED_BITS = 96

LOG_LEVELS = ("debug", "info", "warning", "error")

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,18})([KMGT]?)(?:I?B)?", re.IGNORECASE | re.ASCII)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)")
_NUMBER = re.compile(r"[0-9]{1,6}")
# A prefix is matched against paths as they come, so it has only what nobody needs to encode.
_PREFIX = re.compile(r"/|(?:/[A-Za-z0-9._~\-]+)+/?")
_HOST_NAME = re.compile(r"[A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.]+\]")
_HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9._\-]+)?)\]|([^\[\]:/\s]+)):([0-9]{1,5})")


class Address(NamedTuple):
    """Where to listen: a host and a port, or the path of a Unix socket."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


# "localhost" is each address that it has, IPv4 and IPv6.
DEFAULT_LISTEN = (Address("localhost", 8080),)


@dataclass(frozen=True)
class Config:
    # Empty: where the service manager's sockets listen, or else on DEFAULT_LISTEN.
    listen: tuple[Address, ...] = ()
    # Where operations have listeners of their own; then the others have nothing of them but /-/health.
    admin_listen: tuple[Address, ...] = ()
    mounts: dict[str, str] = field(default_factory=lambda: dict(_DEFAULT_MOUNTS))
    # A directory, made where it is missing.
    store: str = "./store"
    # memcached servers, HOST:PORT each, that have the objects of files and repositories instead of the directory.
    memcached: tuple[str, ...] = ()
    # Bytes of objects from memcached that are being downloaded, in all workers: others wait for their turn.
    memory: int = MEMORY
    # Another one gives new files other names; those stored before keep theirs.
    hash: str = "sha256"
    # Bytes; None leaves it to the disk, or means the most that memcached takes.
    max_size: int | None = None
    # Processes. Each has threads and connections of its own.
    workers: int = 1
    # Requests that one worker serves at a time: each costs a thread and, while it uploads, 2.5 MiB.
    threads: int = 32
    # Connections in all workers together; each costs 1 KiB while it rests, and 4 KiB in a request. The limit of
    # descriptors bounds them too.
    max_connections: int = 10_000
    # Of one address, or IPv6 network of 64 bits, in all workers; None is a quarter of them. Loopback, Unix sockets and
    # trusted proxies have no limit.
    max_connections_per_client: int | None = None
    # Proxies whose X-Forwarded-For says who the client is; UNIX stands for all clients on Unix sockets.
    trusted_proxy: tuple[IPNetwork | str, ...] = ()
    # Seconds in which a drop may be fetched.
    drop_ttl: int = 7 * 24 * 3600
    # A path that a proxy in front has for the directory of the store; it then sends what lies there. None sends it all
    # by ourselves.
    accel: str | None = None
    # A file of tokens: requests must carry one that is for what they want. None lets everybody do everything.
    tokens: str | None = None
    # What links begin with; None takes it from the request's Host.
    public_url: str | None = None
    # Hosts that requests may ask for on loopback addresses, besides localhost, IP addresses and the host of public_url;
    # "*" for any.
    host: tuple[str, ...] = ()
    # Origins of other sites whose pages may send requests and read the answers; "*" for any.
    allow_origin: tuple[str, ...] = ()
    # access lines are of level info.
    log_level: str = "info"


def parse_address(text: str) -> Address:
    if text.startswith("unix:"):
        if len(text) == len("unix:"):
            raise UsageError("A Unix socket is given by its path, unix:/run/filestoraged.sock.")
        return Address("", 0, text[len("unix:") :])
    matched = _HOST_AND_PORT.fullmatch(text)
    if matched is None or int(matched.group(3)) > 65535:
        raise UsageError(f"{text!r} is no address to listen on: HOST:PORT, [::1]:PORT or unix:/path.")
    return Address(matched.group(1) or matched.group(2), int(matched.group(3)))


def parse_servers(text: str) -> tuple[str, ...]:
    """Return the memcached servers of `HOST:PORT,…`."""
    servers = tuple(each.strip() for each in text.split(","))
    try:
        for server in servers:
            parse_server(server)
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    return servers


def parse_mount(text: str) -> tuple[str, str]:
    """Return the prefix and the name of `NAME=PREFIX`."""
    name, separator, prefix = text.partition("=")
    if name not in INTERFACES:
        raise UsageError(f"{name!r} is no interface; there are {', '.join(INTERFACES)}.")
    if not separator:
        usual = next(prefix for prefix, each in _DEFAULT_MOUNTS.items() if each == name)
        raise UsageError(f"{text!r} has no prefix: expected NAME=PREFIX, such as {name}={usual}.")
    if not _PREFIX.fullmatch(prefix) or any(segment in (".", "..") for segment in prefix.split("/")):
        raise UsageError(f"{prefix!r} is no prefix to mount {name} on: a path such as / or /{name}.")
    prefix = prefix.rstrip("/") or "/"
    if (prefix + "/").startswith(operations.PREFIX):
        raise UsageError(f"{name} cannot be mounted on {prefix}: {operations.PREFIX} belongs to operations.")
    return prefix, name


def join_mounts(mounts: list[tuple[str, str]]) -> dict[str, str]:
    """Raises UsageError where two share a prefix."""
    joined: dict[str, str] = {}
    for prefix, name in mounts:
        if prefix in joined:
            raise UsageError(f"{joined[prefix]} and {name} cannot both be mounted on {prefix}.")
        joined[prefix] = name
    return joined


def parse_socket_name(text: str, mounts: Mapping[str, str]) -> dict[str, str]:
    """Return what is mounted on a socket that systemd has named by FileDescriptorName=.

    That is `NAME` or `NAME=PREFIX`, or several of them with commas; NAME alone is where it is in `mounts`. Or it is
    "operations", which is nothing of them, or "all". Where a unit has no such line, systemd names its sockets by the
    unit, or says "unknown": that is all of them, too.
    """
    if text == OPERATIONS:
        return {}
    if text in ("all", "unknown") or text.endswith(".socket"):
        return dict(mounts)
    usual = {name: prefix for prefix, name in {**_DEFAULT_MOUNTS, **mounts}.items()}
    parts = [part if "=" in part else f"{part}={usual.get(part, '')}" for part in text.split(",")]
    try:
        return join_mounts([parse_mount(part) for part in parts])
    except UsageError as error:
        raise UsageError(f"FileDescriptorName={text}: {error}") from error


def parse_size(text: str) -> int:
    """Return the bytes of `50M` or `1G`; units are powers of 1024."""
    matched = _SIZE.fullmatch(text)
    if matched is None:
        raise UsageError(f"{text!r} is no size: a number of bytes, or one with K, M, G or T behind it.")
    return int(matched.group(1)) * _UNITS[matched.group(2).upper()]


def parse_max_size(text: str) -> int:
    size = parse_size(text)
    if not size:
        raise UsageError(f"invalid size {text!r}: expected 1 byte or more.")
    return size


def check_max_size(max_size: int | None, servers: tuple[str, ...]) -> None:
    """Raises UsageError where memcached takes no objects of that size."""
    if servers and max_size is not None and max_size > LARGEST_IN_MEMCACHED:
        raise UsageError(f"--max-size is above the {LARGEST_IN_MEMCACHED} bytes that --memcached takes at most.")


def parse_duration(text: str) -> int:
    """Return the seconds of `90`, `30m`, `12h` or `7d`."""
    matched = _DURATION.fullmatch(text)
    if matched is None or not int(matched.group(1)):
        raise UsageError(f"{text!r} is no time: a number of seconds, or one with m, h or d behind it.")
    return int(matched.group(1)) * _SECONDS[matched.group(2)]


def parse_accel(text: str) -> str:
    if not _PREFIX.fullmatch(text) or text == "/":
        raise UsageError(f"{text!r} is no path that a proxy could have for the store, such as /stored.")
    return text.rstrip("/")


def parse_count(text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) < 1:
        raise UsageError(f"{text!r} is no number from 1 to 999999.")
    return int(text)


def parse_proxy(text: str) -> IPNetwork | str:
    """Return the network of `ADDRESS[/BITS]`, or UNIX."""
    if text == UNIX:
        return UNIX
    try:
        network = ipaddress.ip_network(text, strict=False)
        first = network.network_address
        if isinstance(first, ipaddress.IPv6Address) and first.ipv4_mapped and network.prefixlen >= _MAPPED_BITS:
            # Clients are known by their IPv4 address, whichever kind of socket they come by.
            return ipaddress.ip_network(f"{first.ipv4_mapped}/{network.prefixlen - _MAPPED_BITS}")
        return network
    except ValueError as error:
        expected = "an address such as 192.0.2.7 or ::1, a network such as 10.0.0.0/8, or unix"
        raise UsageError(f"invalid proxy {text!r}: expected {expected}.") from error


def parse_workers(text: str) -> int:
    workers = parse_count(text)
    if workers > MOST_WORKERS:
        raise UsageError(f"invalid number of workers {text!r}: expected 1 to {MOST_WORKERS}.")
    return workers


def parse_directory(text: str) -> str:
    if not text:
        raise UsageError("A store is given by the path of its directory.")
    return text


def parse_path(text: str) -> str:
    if not text:
        raise UsageError("A file is given by its path.")
    return text


def parse_hash(text: str) -> str:
    return _one_of(text, ALGORITHMS, "hash")


def parse_log_level(text: str) -> str:
    return _one_of(text, LOG_LEVELS, "log level")


def parse_host_name(text: str) -> str:
    """A name that a Host field may have, without its port; or "*"."""
    if text != "*" and not _HOST_NAME.fullmatch(text):
        raise UsageError(f"invalid host {text!r}: expected a name without a port, such as files.example.org, or *.")
    return text


def parse_allowed_origin(text: str) -> str:
    """An origin as a browser names it in Origin; or "*"."""
    if text == "null":
        # Any page can have it, by a sandboxed frame.
        raise UsageError("the origin 'null' is that of pages of any site; use * to allow all of them.")
    if text != "*" and parse_origin(text) is None:
        raise UsageError(f"invalid origin {text!r}: expected one such as https://app.example.org, or *.")
    return text


def parse_public_url(text: str) -> str:
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and url.hostname and not (url.query or url.fragment)
        # What is no origin, such as one with a user's name, is no beginning of a link either.
        usable = usable and parse_origin(f"{url.scheme}://{url.netloc}") is not None
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or " " in text:
        raise UsageError(f"{text!r} is no URL that links could begin with, such as https://files.example.org.")
    return text.rstrip("/")


def default_store() -> str:
    """Where the service manager wants durable things, else `./store`."""
    # systemd separates several by colons; the first is ours.
    return os.environ.get("STATE_DIRECTORY", "").split(":")[0] or "./store"


def default_workers() -> int:
    """One for each CPU that this process may use."""
    return len(os.sched_getaffinity(0))


def _one_of(text: str, choices: tuple[str, ...], what: str) -> str:
    if text not in choices:
        raise UsageError(f"{text!r} is no {what}; there are {', '.join(choices)}.")
    return text
