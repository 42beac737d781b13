"""Values as flags and files spell them: parsers, which raise UsageError with the text and what was expected."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from filestoraged.command_errors import UsageError
from filestoraged.digest import ALGORITHMS
from filestoraged.web.trusted_proxies import UNIX, IPNetwork
from filestoraged.wire.origin import Origin, parse_origin

if TYPE_CHECKING:
    from filestoraged.store.postgresql.url import DatabaseAddress

# More than any machine has processors for; each worker takes 20 MiB.
MAX_WORKERS = 1024

LOG_LEVELS = ("debug", "info", "warning", "error")

# Bits in front of an IPv4 address that is written as an IPv6 address.
_MAPPED_BITS = 96

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# In bytes: files and databases count no further.
_MAX_SIZE = (1 << 63) - 1
_SIZE_PATTERN = re.compile(r"([0-9]{1,18})([KMGT]?)(?:I?B)?", re.IGNORECASE | re.ASCII)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)")
_COUNT = re.compile(r"[0-9]{1,6}")
# A prefix is compared with paths as clients send them, so it has only characters that clients never encode.
_PREFIX = re.compile(r"/|(?:/[A-Za-z0-9._~\-]+)+/?")
_HOST_NAME = re.compile(r"[A-Za-z0-9_\-]+(?:\.[A-Za-z0-9_\-]+)*\.?", re.ASCII)
# Browsers show no pages by these, so no request has such an origin.
_SCHEMES_WITHOUT_ORIGIN = ("file", "ftp", "ws", "wss")
_HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9._\-]+)?)\]|([^\[\]:/\s]+)):([0-9]{1,5})")


class Address(NamedTuple):
    """An address to listen on: a host and a port, or the path of a Unix socket."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    if text.startswith("unix:") and text != "unix:":
        return Address("", 0, text[len("unix:") :])
    matched = _HOST_AND_PORT.fullmatch(text)
    if matched is None or int(matched.group(3)) > 65535:
        raise UsageError(
            f"invalid address {text!r}: expected HOST:PORT with a port up to 65535, [::1]:PORT or unix:/path"
        )
    return Address(matched.group(1) or matched.group(2), int(matched.group(3)))


def parse_database(text: str) -> DatabaseAddress:
    """Return the address of a PostgreSQL database. No message repeats a part of the URL, which may have a password."""
    try:
        from filestoraged.store.postgresql.url import parse_url

        return parse_url(text)
    except ImportError as error:
        raise UsageError("psycopg is not installed: pip install 'psycopg[binary]>=3.2'") from error
    except ValueError as error:
        expected = "postgresql://[USER[:PASSWORD]@]HOST[:PORT]/NAME[?PARAMETER=VALUE]"
        raise UsageError(f"invalid URL of a database: {error}; expected {expected}") from error


def parse_prefix(text: str) -> str:
    """Return a path prefix without a slash at its end, unless it is "/" itself."""
    if not _PREFIX.fullmatch(text) or any(segment in (".", "..") for segment in text.split("/")):
        raise UsageError(f"invalid prefix {text!r}: expected a path such as / or /files, of letters, digits and -._~")
    return text.rstrip("/") or "/"


def parse_size(text: str) -> int:
    """Return the bytes of `50M` or `1G`; units are powers of 1024."""
    matched = _SIZE_PATTERN.fullmatch(text)
    if matched is None:
        raise UsageError(f"invalid size {text!r}: expected a number of bytes such as 512, 10M or 1G")
    size = int(matched.group(1)) * _UNITS[matched.group(2).upper()]
    if size > _MAX_SIZE:
        raise UsageError(f"invalid size {text!r}: expected at most {_MAX_SIZE} bytes")
    return size


def parse_max_size(text: str) -> int:
    size = parse_size(text)
    if not size:
        raise UsageError(f"invalid size {text!r}: expected 1 byte or more")
    return size


def parse_duration(text: str) -> int:
    """Return the seconds of `90`, `30m`, `12h` or `7d`."""
    matched = _DURATION.fullmatch(text)
    if matched is None or not int(matched.group(1)):
        raise UsageError(f"invalid duration {text!r}: expected 1 second or more, such as 90, 30m, 12h or 7d")
    return int(matched.group(1)) * _SECONDS[matched.group(2)]


def parse_accel(text: str) -> str:
    if not _PREFIX.fullmatch(text) or text == "/":
        raise UsageError(f"invalid prefix {text!r}: expected a path other than /, such as /stored")
    return text.rstrip("/")


def parse_count(text: str) -> int:
    if not _COUNT.fullmatch(text) or int(text) < 1:
        raise UsageError(f"invalid number {text!r}: expected 1 to 999999")
    return int(text)


def parse_switch(text: str) -> bool:
    if text not in ("yes", "no"):
        raise UsageError(f"invalid value {text!r}: expected yes or no")
    return text == "yes"


def parse_workers(text: str) -> int:
    if not _COUNT.fullmatch(text) or not 1 <= int(text) <= MAX_WORKERS:
        raise UsageError(f"invalid number of workers {text!r}: expected 1 to {MAX_WORKERS}")
    return int(text)


def parse_proxy(text: str) -> IPNetwork | str:
    """Return the network of `ADDRESS[/BITS]`, or UNIX."""
    if text == UNIX:
        return UNIX
    try:
        interface = ipaddress.ip_interface(text)
        if isinstance(interface, ipaddress.IPv6Interface) and interface.ipv4_mapped:
            # Clients are known by their IPv4 address, whether it came by an IPv4 or an IPv6 socket. Raises ValueError
            # for fewer bits than those of the whole IPv4 network.
            bits = interface.network.prefixlen - _MAPPED_BITS
            return ipaddress.ip_network(f"{interface.ipv4_mapped}/{bits}", strict=False)
        return interface.network
    except ValueError as error:
        expected = "an address such as 192.0.2.7 or ::1, a network such as 10.0.0.0/8, or unix"
        raise UsageError(f"invalid proxy {text!r}: expected {expected}") from error


def parse_directory(text: str) -> str:
    if not text:
        raise UsageError("invalid directory '': expected a path")
    return text


def parse_path(text: str) -> str:
    if not text:
        raise UsageError("invalid file '': expected a path")
    return text


def parse_hash(text: str) -> str:
    return _one_of(text, ALGORITHMS, "hash")


def parse_log_level(text: str) -> str:
    return _one_of(text, LOG_LEVELS, "log level")


def parse_host_name(text: str) -> str:
    """Return a host that requests may name, without its port; or "*"."""
    if text != "*" and _spelled_by_browsers(text) is None:
        expected = "a name in ASCII without a port, such as files.example.org, or *"
        raise UsageError(f"invalid host {text!r}: expected {expected}")
    return text


def parse_allowed_origin(text: str) -> str:
    """Return an origin that browsers can send in Origin; or "*"."""
    if text == "null":
        # Pages of any site can obtain it, by a sandboxed frame.
        raise UsageError("invalid origin 'null': pages of any site can have it; use * to allow all of them")
    origin = parse_origin(text)
    if text != "*" and (origin is None or origin.scheme in _SCHEMES_WITHOUT_ORIGIN or not _can_match(origin)):
        expected = "scheme, whole host in ASCII, and port if any, such as https://app.example.org, or *"
        raise UsageError(f"invalid origin {text!r}: expected {expected}")
    return text


def parse_public_url(text: str) -> str:
    try:
        url = urlsplit(text)
        # A user name, for example, makes it neither an origin nor the beginning of a link.
        origin = parse_origin(f"{url.scheme}://{url.netloc}")
        usable = url.scheme in ("http", "https") and origin is not None and _can_match(origin)
    except ValueError:
        usable = False
    # Links are ASCII (RFC 3986). What is appended to a query or a fragment, even an empty one, is no path.
    if not usable or not text.isascii() or not text.isprintable() or any(each in text for each in " ?#"):
        expected = "the beginning of a link in ASCII, without a query or fragment, such as https://files.example.org"
        raise UsageError(f"invalid URL {text!r}: expected {expected}")
    return text.rstrip("/")


def _can_match(origin: Origin) -> bool:
    """Whether browsers send this origin. They send an address in one spelling, and a name in ASCII."""
    return _spelled_by_browsers(origin.host) == origin.host


def _spelled_by_browsers(host: str) -> str | None:
    """Return a host as browsers send it (WHATWG's URL standard, section 3.5), None for what cannot be one."""
    try:
        if host.startswith("[") and host.endswith("]"):
            return f"[{_ipv6_text(ipaddress.IPv6Address(host[1:-1]))}]"
    except ValueError:
        return None
    if not _HOST_NAME.fullmatch(host):
        return None
    try:
        # 127.1 and 0x7f000001 are 127.0.0.1.
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return host.lower()


def _ipv6_text(address: ipaddress.IPv6Address) -> str:
    if address.ipv4_mapped is None:
        return str(address)
    # Newer versions of Python write the IPv4 address with dots.
    low = int(address.ipv4_mapped)
    return f"::ffff:{low >> 16:x}:{low & 0xFFFF:x}"


def _one_of(text: str, choices: Sequence[str], what: str) -> str:
    if text not in choices:
        raise UsageError(f"invalid {what} {text!r}: expected one of {', '.join(choices)}")
    return text
