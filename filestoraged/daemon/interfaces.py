"""What is served over HTTP: the table INTERFACES, and the prefixes that interfaces are mounted on.

A new interface is a row here, and a module of `api`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from filestoraged.api import operations
from filestoraged.command_errors import UsageError
from filestoraged.daemon.values import parse_prefix

if TYPE_CHECKING:
    from filestoraged.api.interface import Interface

# The name that scopes, metrics and sockets of systemd have for the paths of operations.
OPERATIONS = "operations"


class InterfaceRow(NamedTuple):
    """What is known of an interface that is not mounted."""

    # Where it is mounted unless the configuration says otherwise.
    prefix: str
    # Imports its module.
    load: Callable[[], Interface]
    # Whether scopes may name its areas: the first open segments of its paths.
    has_areas: bool = False
    # Whether it needs a backend that lists objects.
    needs_listing: bool = False


def _files() -> Interface:
    from filestoraged.api.files import FILES

    return FILES


def _repositories() -> Interface:
    from filestoraged.api.repositories import REPOSITORIES

    return REPOSITORIES


def _drops() -> Interface:
    from filestoraged.api.drops import DROPS

    return DROPS


def _keys() -> Interface:
    from filestoraged.api.kv import KEYS

    return KEYS


def _names() -> Interface:
    from filestoraged.api.names import NAMES

    return NAMES


def _uploads() -> Interface:
    from filestoraged.api.uploads import UPLOADS

    return UPLOADS


def _restic() -> Interface:
    from filestoraged.api.restic import RESTIC

    return RESTIC


INTERFACES: Mapping[str, InterfaceRow] = {
    "files": InterfaceRow("/", _files),
    "repositories": InterfaceRow("/data", _repositories, has_areas=True),
    "drops": InterfaceRow("/vimeo/api/v1.0", _drops),
    "kv": InterfaceRow("/kv", _keys),
    "uploads": InterfaceRow("/uploads", _uploads),
    "names": InterfaceRow("/names", _names, has_areas=True, needs_listing=True),
    "restic": InterfaceRow("/restic", _restic, has_areas=True, needs_listing=True),
}


def default_mounts(*, can_list: bool = True) -> dict[str, str]:
    """Return the interfaces by their default prefixes, for a backend that can or cannot list objects."""
    return {row.prefix: name for name, row in INTERFACES.items() if can_list or not row.needs_listing}


def parse_mount(text: str) -> tuple[str, str]:
    """Return the prefix and the name of `NAME=PREFIX`."""
    name, separator, prefix = text.partition("=")
    if name not in INTERFACES:
        raise UsageError(f"unknown interface {name!r}: expected one of {', '.join(INTERFACES)}")
    if not separator:
        example = f"{name}={INTERFACES[name].prefix}"
        raise UsageError(f"invalid mount {text!r}: expected NAME=PREFIX, such as {example}")
    prefix = parse_prefix(prefix)
    if (prefix + "/").startswith(operations.PREFIX):
        raise UsageError(f"invalid prefix {prefix!r}: {operations.PREFIX} is reserved for operations")
    return prefix, name


def join_mounts(mounts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the interfaces by their prefixes. Raises UsageError where two have the same prefix."""
    joined: dict[str, str] = {}
    for prefix, name in mounts:
        if prefix in joined:
            raise UsageError(f"{joined[prefix]} and {name} cannot both be mounted on {prefix!r}")
        joined[prefix] = name
    return joined


def parse_socket_name(text: str, mounts: Mapping[str, str]) -> dict[str, str]:
    """Return the mounts of a socket that systemd hands over under the name `text` (FileDescriptorName=).

    | name | mounted |
    |---|---|
    | `NAME=PREFIX`, or several with commas | these interfaces |
    | `NAME` instead of `NAME=PREFIX` | the interface at its prefix in `mounts`, else at its default |
    | `operations` | no interface |
    | `all`, `unknown`, or a unit's name, which systemd puts in place of a missing one | all of `mounts` |
    """
    if text == OPERATIONS:
        return {}
    if text in ("all", "unknown") or text.endswith(".socket"):
        return dict(mounts)
    prefixes = {name: prefix for prefix, name in {**default_mounts(), **mounts}.items()}
    parts = [part if "=" in part else f"{part}={prefixes.get(part, '')}" for part in text.split(",")]
    try:
        return join_mounts(map(parse_mount, parts))
    except UsageError as error:
        raise UsageError(f"FileDescriptorName={text}: {error}") from error
