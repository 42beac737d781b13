"""The URL of the database: what connections are made with, and what may be shown of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

# Seconds to connect, for all hosts of the URL together; libpq waits for 2 s at least.
_CONNECT_TIMEOUT = 8
_MIN_CONNECT_TIMEOUT = 2

# A server that vanished is noticed by the kernel after 10 s without an acknowledgement, and an idle connection to it
# after 45 s. A standby refuses writes, so it is not connected to while another host is writable.
_DEFAULTS = {
    "application_name": "filestoraged",
    "client_encoding": "UTF8",
    "keepalives_idle": "30",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "target_session_attrs": "read-write",
}

_NUMBER = re.compile(r"-?[0-9]{1,9}")
_PORT = "(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])?"

# Where the password has an "@" that is not encoded, the host begins with the rest of it. A name that begins with "/" or
# "@" is that of a Unix socket.
_HOST = "(?:/[^,]*|@?[^@,/]*)"

# What libpq would find out with the first connection only, when the daemon serves already.
_CHECKED = {
    "host": re.compile(f"{_HOST}(?:,{_HOST})*"),
    "port": re.compile(f"{_PORT}(?:,{_PORT})*"),
    "connect_timeout": _NUMBER,
    "keepalives": _NUMBER,
    "keepalives_idle": _NUMBER,
    "keepalives_interval": _NUMBER,
    "keepalives_count": _NUMBER,
    "tcp_user_timeout": _NUMBER,
    "sslmode": re.compile("disable|allow|prefer|require|verify-ca|verify-full"),
    "target_session_attrs": re.compile("any|read-write|read-only|primary|standby|prefer-standby"),
}

_SCHEMES = ("postgresql://", "postgres://")

# As in `?options=-c%20statement_timeout%3D5s`; in milliseconds without a unit.
_STATEMENT_TIMEOUT = re.compile(r"statement_timeout=([0-9]{1,9})(ms|s|min)?(?![0-9a-z])")
_UNITS = {None: 0.001, "ms": 0.001, "s": 1.0, "min": 60.0}

# What a person needs to know which database it is. The password is not among it.
_SHOWN = ("user", "host", "port", "dbname", "service")


class DatabaseAddress(NamedTuple):
    """`parameters` are those of libpq. `description` names the database without secrets."""

    parameters: Mapping[str, str]
    description: str
    # The time of a statement that the URL sets, in seconds, None without one.
    statement_timeout: float | None


def parse_url(url: str) -> DatabaseAddress:
    """Raises ValueError without a part of the URL, which may have a password."""
    if not url.startswith(_SCHEMES):
        raise ValueError("it does not begin with postgresql://")
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    except (ProgrammingError, UnicodeError):
        # libpq's message repeats parts of the URL; where the password has an unescaped character, parts of that.
        raise ValueError("it is malformed, or has an unknown parameter") from None
    for name, pattern in _CHECKED.items():
        if name in given and not pattern.fullmatch(given[name].strip()):
            raise ValueError(f"the value of {name} is invalid")
    if any("\0" in value for value in given.values()):
        raise ValueError("it has a NUL character")
    hosts = given.get("host", given.get("hostaddr", "")).count(",") + 1
    timeout = max(_MIN_CONNECT_TIMEOUT, _CONNECT_TIMEOUT // hosts)
    parameters = {**_DEFAULTS, "connect_timeout": str(timeout), **given}
    return DatabaseAddress(parameters, _describe(given), _statement_timeout(given.get("options", "")))


def _describe(given: Mapping[str, str]) -> str:
    shown = {name: given[name] for name in _SHOWN if name in given}
    user = f"{shown['user']}@" if "user" in shown else ""
    hosts = shown.get("host", "").split(",")
    ports = shown.get("port", "").split(",")
    ports += ports[-1:] * (len(hosts) - len(ports))
    where = ",".join(f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False))
    service = f"?service={shown['service']}" if "service" in shown else ""
    return f"postgresql://{user}{where}/{shown.get('dbname', '')}{service}"


def _statement_timeout(options: str) -> float | None:
    found = _STATEMENT_TIMEOUT.search(options)
    return float(found[1]) * _UNITS[found[2]] if found and int(found[1]) else None
