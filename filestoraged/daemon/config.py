"""The command line and the configuration file: one table of options for both."""

from __future__ import annotations

import argparse
import configparser
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from filestoraged import __version__
from filestoraged.daemon import values as config
from filestoraged.daemon.values import LOG_LEVELS, Config
from filestoraged.digest import ALGORITHMS
from filestoraged.errors import StartError, UsageError

_SECTION = "filestoraged"


class Option(NamedTuple):
    """`parse` turns a value's text into the value, or raises UsageError."""

    name: str
    metavar: str
    parse: Callable[[str], Any]
    help: str
    repeatable: bool = False


_USAGE = """filestoraged [serve] [OPTION ...]
       filestoraged check [--store DIR | --memcached HOST:PORT[,...]] [OPTION ...]
       filestoraged token NAME SCOPE [--tokens FILE] [--config FILE | --mount NAME=PREFIX ...]
       filestoraged memcached-check HOST:PORT[,...] [--size BYTES]"""
_ADDRESS = "where to listen: also [::1]:8080, unix:/path; repeatable (localhost:8080)"
_ADMIN = "where alone to serve /-/ready and /-/metrics; repeatable (where all else is)"
_MOUNT = "which interfaces to serve, and where; repeatable (all four; see README.md)"
_STORE = "where everything durable lies (./store; under systemd $STATE_DIRECTORY)"
_MEMCACHED = "servers that keep the objects of files and repositories, instead of the directory (none)"
_MEMORY = "for all downloads from memcached together, such as 1G; more wait for their turn (256M)"
_MAX_SIZE = "the largest object taken, such as 10M or 1G (no limit; on memcached 50M, and no more)"
_TOKENS = "who may do what, as `filestoraged token` makes it (everybody may do everything)"
_ACCEL = "what nginx in front has for the store's directory: it then sends what lies there (none)"
_CONNECTIONS = "clients at the same time; a new one replaces the one idle longest, or gets 503 (10000)"
_PER_CLIENT = "of one address; not for loopback, Unix sockets and trusted proxies (a quarter of all)"
_PROXY = "whose X-Forwarded-For names the client; `unix` for clients on Unix sockets; repeatable (none)"
_HOST = "a name that the server may be asked for on loopback, * for any; repeatable (localhost, addresses)"
_ALLOW_ORIGIN = (
    "an origin, such as https://app.example.org, whose pages may send requests, * for any; repeatable (none)"
)
_FILE = "an INI file with these options in a section [filestoraged]; flags win over it"

# In the order of --help. README.md has the same table, and says more.
OPTIONS = (
    Option("listen", "HOST:PORT", config.parse_address, _ADDRESS, repeatable=True),
    Option("admin-listen", "HOST:PORT", config.parse_address, _ADMIN, repeatable=True),
    Option("mount", "NAME=PREFIX", config.parse_mount, _MOUNT, repeatable=True),
    Option("store", "DIR", config.parse_directory, _STORE),
    Option("memcached", "HOST:PORT[,...]", config.parse_servers, _MEMCACHED),
    Option("memory", "BYTES", config.parse_size, _MEMORY),
    Option("hash", "NAME", config.parse_hash, f"the digest of the files interface: {' '.join(ALGORITHMS)} (sha256)"),
    Option("max-size", "BYTES", config.parse_max_size, _MAX_SIZE),
    Option("workers", "N", config.parse_workers, "processes that share the listening sockets (one per CPU)"),
    Option("threads", "N", config.parse_count, "requests that one worker serves at the same time (32)"),
    Option("max-connections", "N", config.parse_count, _CONNECTIONS),
    Option("max-connections-per-client", "N", config.parse_count, _PER_CLIENT),
    Option("trusted-proxy", "ADDRESS[/BITS]", config.parse_proxy, _PROXY, repeatable=True),
    Option("public-url", "URL", config.parse_public_url, "what the links it hands out begin with (from Host)"),
    Option("host", "NAME", config.parse_host_name, _HOST, repeatable=True),
    Option("allow-origin", "ORIGIN", config.parse_allowed_origin, _ALLOW_ORIGIN, repeatable=True),
    Option("drop-ttl", "TIME", config.parse_duration, "how long a drop may be fetched, such as 12h (7d)"),
    Option("tokens", "FILE", config.parse_path, _TOKENS),
    Option("accel", "PREFIX", config.parse_accel, _ACCEL),
    Option("log-level", "NAME", config.parse_log_level, f"{' '.join(LOG_LEVELS)} (info)"),
    Option("config", "FILE", str, _FILE),
)


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would end the program."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message[:1].upper() + message[1:] + ("" if message.endswith(".") else "."))


def parse_arguments(arguments: Sequence[str]) -> Config:
    """Read the flags, and the file that they name. Raises UsageError or StartError.

    `--help` and `--version` print, and end the program.
    """
    given = vars(_parser().parse_args(arguments))
    flags = {name: value for name, value in given.items() if value is not None}
    file = flags.pop("config", None)
    texts: dict[str, Any] = {**(_read_file(file) if file is not None else {}), **flags}
    values = {option.name: _value(option, texts[option.name]) for option in OPTIONS if option.name in texts}
    return _build(values)


def file_values(path: str, names: Sequence[str]) -> dict[str, Any]:
    """The values of those of the `names` that a configuration file sets. Raises UsageError or StartError."""
    texts = _read_file(path)
    return {
        option.name: _value(option, texts[option.name]) for option in OPTIONS if option.name in set(names) & set(texts)
    }


def _build(values: dict[str, Any]) -> Config:
    values.setdefault("store", config.default_store())
    values.setdefault("workers", config.default_workers())
    if "mount" in values:
        values["mounts"] = config.join_mounts(values.pop("mount"))
    for option in OPTIONS:
        if option.repeatable and option.name in values:
            values[option.name] = tuple(values[option.name])
    config.check_max_size(values.get("max-size"), values.get("memcached", ()))
    return Config(**{name.replace("-", "_"): value for name, value in values.items()})


def _value(option: Option, text: Any) -> Any:
    try:
        return [option.parse(each) for each in text] if option.repeatable else option.parse(text)
    except UsageError as error:
        raise UsageError(f"--{option.name}: {error}") from error


def _read_file(path: str) -> dict[str, Any]:
    """The options of an INI file, as texts. One that is repeatable has a value on each of its lines."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), default_section="")
    try:
        with open(path, encoding="utf-8") as stream:
            parser.read_file(stream)
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"The configuration {path} cannot be read: {_reason(error)}.") from error
    except configparser.Error as error:
        raise UsageError(f"The configuration {path} is no INI file: {' '.join(str(error).split())}.") from error
    if not parser.has_section(_SECTION):
        raise UsageError(f"The configuration {path} has no section [{_SECTION}].")
    known = {option.name: option for option in OPTIONS if option.name != "config"}
    texts: dict[str, Any] = {}
    for name, text in parser.items(_SECTION):
        if name not in known:
            raise UsageError(f"The configuration {path} has an option {name}, which there is not.")
        if "\0" in text:
            raise UsageError(f"The configuration {path} has a NUL character in the value of {name}.")
        texts[name] = text.split() if known[name].repeatable else text
        if not texts[name]:
            raise UsageError(f"The configuration {path} has no value for {name}.")
    return texts


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8"


def _parser() -> Parser:
    parser = Parser(
        prog="filestoraged",
        usage=_USAGE,
        description="Keep files under their digests, and give them back over HTTP.",
        epilog="Each option's default is in parentheses. See README.md for the HTTP interface.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"filestoraged {__version__}")
    for option in OPTIONS:
        action = "append" if option.repeatable else "store"
        flag = f"--{option.name}"
        parser.add_argument(flag, dest=option.name, metavar=option.metavar, action=action, help=option.help)
    return parser
