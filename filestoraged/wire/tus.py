"""The header fields of tus 1.0.0, the protocol for resumable uploads (https://tus.io/protocols/resumable-upload).

Fields in, values out. Raises BadRequest for what is malformed, and quotes no metadata: it may contain a password.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from filestoraged.digest import Expected, digest_length
from filestoraged.errors import BadRequest, ProtocolVersionUnsupported, TooLarge, UnsupportedMediaType, quoted

VERSION = "1.0.0"
EXTENSIONS = ("creation", "creation-with-upload", "creation-defer-length", "expiration", "termination", "checksum")
CHECKSUM_ALGORITHMS = ("sha1", "sha256", "md5")
MEDIA_TYPE = "application/offset+octet-stream"

# Sizes and offsets have 64 bits with a sign, in clients and in databases.
MAX_SIZE = 2**63 - 1
_NUMBER = re.compile(r"[0-9]{1,19}")
_LONGER_NUMBER = re.compile(r"[0-9]{19,}")

# A key is visible ASCII without a comma; base64 with its padding.
_PAIR = re.compile(r"([!-+\--~]+)(?: +([A-Za-z0-9+/]*={0,2}))?")
_CHECKSUM = re.compile(r"([a-z0-9]+) +([A-Za-z0-9+/]+={0,2})")


def check_version(fields: Mapping[str, str]) -> None:
    """Raises ProtocolVersionUnsupported."""
    given = fields.get("tus-resumable")
    if given != VERSION:
        found = "no Tus-Resumable" if given is None else f"Tus-Resumable {quoted(given)}"
        raise ProtocolVersionUnsupported(f"The request has {found}; expected {VERSION}.")


def check_media_type(fields: Mapping[str, str]) -> None:
    """Raises UnsupportedMediaType unless the body is a piece of an upload."""
    given = fields.get("content-type", "")
    if given.partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise UnsupportedMediaType(f"Unsupported Content-Type {quoted(given)}: expected {MEDIA_TYPE}.")


def parse_offset(fields: Mapping[str, str]) -> int:
    text = fields.get("upload-offset")
    if text is None:
        raise BadRequest("The request has no Upload-Offset.")
    return _parse_number("Upload-Offset", text)


def parse_length(fields: Mapping[str, str]) -> int | None:
    """Return the length of a new upload, None where it will be told later. Raises TooLarge from 2**63 on."""
    text, deferred = fields.get("upload-length"), fields.get("upload-defer-length")
    if deferred not in (None, "1"):
        raise BadRequest(f"Invalid Upload-Defer-Length {quoted(deferred or '')}: expected 1.")
    if (text is None) == (deferred is None):
        raise BadRequest("Expected either Upload-Length or Upload-Defer-Length.")
    return None if text is None else _parse_size(text)


def parse_late_length(fields: Mapping[str, str]) -> int | None:
    """Return the length that a later request tells, None where it tells none. Raises TooLarge from 2**63 on."""
    text = fields.get("upload-length")
    return None if text is None else _parse_size(text)


def parse_checksum(fields: Mapping[str, str]) -> Expected | None:
    """Return the announced digest of a request's body, None without one."""
    text = fields.get("upload-checksum")
    if text is None:
        return None
    matched = _CHECKSUM.fullmatch(text)
    if matched is None or matched.group(1) not in CHECKSUM_ALGORITHMS:
        expected = f"one of {' '.join(CHECKSUM_ALGORITHMS)}, a space, and base64"
        raise BadRequest(f"Invalid Upload-Checksum {quoted(text)}: expected {expected}.")
    algorithm, encoded = matched.groups()
    digest = _decode(encoded)
    if digest is None or len(digest) * 2 != digest_length(algorithm):
        raise BadRequest(f"Invalid Upload-Checksum {quoted(text)}: expected the base64 of a {algorithm} digest.")
    return Expected(algorithm, digest.hex())


def parse_metadata(fields: Mapping[str, str]) -> dict[str, str]:
    """Return the values of Upload-Metadata by their keys. Raises BadRequest also where one is not UTF-8."""
    metadata: dict[str, str] = {}
    text = fields.get("upload-metadata", "").strip(" \t")
    # No list of HTTP, whose members may be empty.
    for number, pair in enumerate(text.split(",") if text else (), 1):
        matched = _PAIR.fullmatch(pair.strip(" \t"))
        value = None if matched is None else _decode(matched.group(2) or "")
        if matched is None or value is None:
            raise BadRequest(f"Invalid Upload-Metadata: pair {number} is not a key, a space, and base64.")
        key = matched.group(1)
        if key in metadata:
            raise BadRequest(f"Invalid Upload-Metadata: the key {quoted(key)} is there twice.")
        try:
            metadata[key] = value.decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"Invalid Upload-Metadata: the value of {quoted(key)} is not UTF-8.") from error
    return metadata


def format_metadata(metadata: Mapping[str, str]) -> str:
    """Return the field for values by their keys."""
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}".rstrip() for key, value in metadata.items())


def _parse_number(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > MAX_SIZE:
        raise BadRequest(f"Invalid {name} {quoted(text)}: expected a number from 0 to {MAX_SIZE}.")
    return int(text)


def _parse_size(text: str) -> int:
    if _LONGER_NUMBER.fullmatch(text) and (len(text) > 19 or int(text) > MAX_SIZE):
        raise TooLarge(MAX_SIZE)
    return _parse_number("Upload-Length", text)


def _decode(encoded: str) -> bytes | None:
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
