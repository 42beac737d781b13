"""The requests of the Git LFS API: batch and file locking (git-lfs, docs/api/batch.md and docs/api/locking.md).

Bodies in, values out. Members that the API does not have are ignored. Raises Unprocessable for a malformed request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from filestoraged.errors import MAX_QUOTED, BadRequest, Conflict, TooManyObjects, Unprocessable, quoted
from filestoraged.wire.json_text import parse_object

MEDIA_TYPE = "application/vnd.git-lfs+json"

DOWNLOAD, UPLOAD = "download", "upload"

# Ways to transfer objects: by one request, which a batch that names none means; and by an upload that can be resumed.
BASIC, TUS = "basic", "tus"

HASH_ALGORITHM = "sha256"

# Bytes of a body; a batch of 1,000 objects has 110 KB.
MAX_BODY_SIZE = 1024 * 1024
# Objects in a batch; clients send 100.
MAX_OBJECTS = 1000
# Clients keep sizes in 64 bits with a sign.
MAX_OBJECT_SIZE = 2**63 - 1

# Locks of a page, by default and at most.
_DEFAULT_LOCKS = 100
_MAX_LOCKS = 1000
# Linux's limit for a path, in bytes.
_MAX_PATH = 4096
# Ids and cursors: positive numbers of 64 bits with a sign.
_NUMBER = re.compile(r"[1-9][0-9]{0,18}")
_MAX_NUMBER = 2**63 - 1

_OID = re.compile(r"[0-9a-f]{64}")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class BatchObject(NamedTuple):
    """An object of a batch. `fault` says why it is malformed; else oid and size are valid."""

    oid: str
    size: int
    fault: str = ""


class Batch(NamedTuple):
    operation: str
    transfer: str
    objects: tuple[BatchObject, ...]


class LockPage(NamedTuple):
    """Which locks to list: those with an id behind `after`, `limit` at most."""

    after: int
    limit: int


def parse_batch(body: bytes, *, uploads: Sequence[str] = (BASIC,)) -> Batch:
    """`uploads` are the transfers that the server supports for them, the preferred one first.

    Raises Unprocessable, Conflict for another hash algorithm, and TooManyObjects."""
    members = _parse(body)
    operation = members.get("operation")
    if operation not in (DOWNLOAD, UPLOAD):
        raise Unprocessable(f"Invalid operation {_shown(operation)}: expected download or upload.")
    algorithm = _optional(members, "hash_algo", HASH_ALGORITHM)
    if not isinstance(algorithm, str):
        raise Unprocessable(f"Invalid hash_algo {_shown(algorithm)}: expected {HASH_ALGORITHM}.")
    if algorithm != HASH_ALGORITHM:
        raise Conflict(f"The hash algorithm {quoted(algorithm)} is not supported; expected {HASH_ALGORITHM}.")
    _check_ref(members)
    objects = members.get("objects")
    if not isinstance(objects, list):
        raise Unprocessable(f"Invalid objects {_shown(objects)}: expected a list.")
    if len(objects) > MAX_OBJECTS:
        raise TooManyObjects(MAX_OBJECTS, len(objects))
    transfer = _choose_transfer(members, uploads if operation == UPLOAD else (BASIC,))
    return Batch(operation, transfer, tuple(map(_parse_object, objects)))


def parse_lock(body: bytes) -> str:
    """Return the path that a request to create a lock names."""
    members = _parse(body)
    _check_ref(members)
    return _check_path(members.get("path"))


def parse_verify(body: bytes) -> LockPage:
    members = _parse(body)
    _check_ref(members)
    limit, cursor = _optional(members, "limit", _DEFAULT_LOCKS), _optional(members, "cursor", "")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise Unprocessable(f"Invalid limit {_shown(limit)}: expected a number from 1 on.")
    if not isinstance(cursor, str):
        raise Unprocessable(f"Invalid cursor {_shown(cursor)}: expected the next_cursor of a response.")
    return LockPage(_parse_cursor(cursor), min(limit, _MAX_LOCKS))


def parse_unlock(body: bytes) -> bool:
    """Return whether the lock is to be released even if it is another owner's."""
    # Some clients send no body instead of an empty object.
    members = _parse(body or b"{}")
    _check_ref(members)
    force = _optional(members, "force", False)
    if not isinstance(force, bool):
        raise Unprocessable(f"Invalid force {_shown(force)}: expected true or false.")
    return force


def parse_lock_page(limit: str | None, cursor: str | None) -> LockPage:
    """Return what the parameters of a query ask for."""
    if limit is None:
        number = _DEFAULT_LOCKS
    elif _NUMBER.fullmatch(limit):
        number = min(int(limit), _MAX_LOCKS)
    else:
        raise Unprocessable(f"Invalid limit {quoted(limit)}: expected a number from 1 on.")
    return LockPage(_parse_cursor(cursor or ""), number)


def parse_lock_id(text: str) -> int | None:
    """Return the number of a lock, None for a text that is no lock's id."""
    number = int(text) if _NUMBER.fullmatch(text) else 0
    return number if 0 < number <= _MAX_NUMBER else None


def _parse_cursor(text: str) -> int:
    if not text:
        return 0
    number = parse_lock_id(text)
    if number is None:
        raise Unprocessable(f"Invalid cursor {quoted(text)}: expected the next_cursor of a response.")
    return number


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        return parse_object(body)
    except BadRequest as error:
        raise Unprocessable(str(error)) from error


def _parse_object(given: object) -> BatchObject:
    members = given if isinstance(given, dict) else {}
    oid, size = members.get("oid"), members.get("size")
    # In a response, the oid is a string, and clients read the size into 64 bits.
    shown_oid, shown_size = oid if isinstance(oid, str) else "", 0
    fault = ""
    if not isinstance(oid, str) or not _OID.fullmatch(oid):
        fault = f"Invalid oid {_shown(oid)}: expected 64 lower-case hexadecimal digits."
    if isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= MAX_OBJECT_SIZE:
        shown_size = size
    else:
        fault = fault or f"Invalid size {_shown(size)}: expected 0 to {MAX_OBJECT_SIZE} bytes."
    return BatchObject(shown_oid, shown_size, fault)


def _choose_transfer(members: Mapping[str, Any], supported: Sequence[str]) -> str:
    offered = _optional(members, "transfers", [BASIC])
    if not isinstance(offered, list) or not all(isinstance(each, str) for each in offered):
        raise Unprocessable(f"Invalid transfers {_shown(offered)}: expected a list of names.")
    for transfer in supported:
        if transfer in offered:
            return transfer
    raise Unprocessable(f"None of the transfers {_shown(offered)} is supported; expected {' or '.join(supported)}.")


def _check_ref(members: Mapping[str, Any]) -> None:
    """A ref is checked and not used: locks and objects are those of the whole repository."""
    ref = _optional(members, "ref", {})
    if not isinstance(ref, dict) or not isinstance(_optional(ref, "name", ""), str):
        raise Unprocessable(f'Invalid ref {_shown(ref)}: expected an object such as {{"name": "refs/heads/main"}}.')


def _check_path(path: object) -> str:
    if not isinstance(path, str):
        raise Unprocessable(f"Invalid path {_shown(path)}: expected a string.")
    if len(path.encode()) > _MAX_PATH:
        raise Unprocessable(f"Invalid path {quoted(path)}: expected {_MAX_PATH} bytes at most.")
    if _CONTROLS.search(path) or not {"", ".", ".."}.isdisjoint(path.split("/")):
        expected = "a path within the repository, without control characters"
        raise Unprocessable(f"Invalid path {quoted(path)}: expected {expected}.")
    return path


def _optional(members: Mapping[str, Any], name: str, default: object) -> Any:
    """Return a member, and the default where it is missing or null: clients in Go send null for what they leave out."""
    value = members.get(name)
    return default if value is None else value


def _shown(value: object) -> str:
    """Return a value as a message quotes it."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."
