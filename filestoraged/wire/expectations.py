"""Digests announced by an upload: Content-MD5 (RFC 1864), Content-Digest and Repr-Digest (RFC 9530)."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from filestoraged.digest import Expected, digest_length
from filestoraged.errors import BadRequest, quoted
from filestoraged.wire.grammar import OWS

# Names of RFC 9530's registry, and those of `hashlib`. Section 2: a recipient ignores other algorithms.
_ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512", "md5": "md5"}
# A dictionary of byte sequences (RFC 8941, section 3.2). No parameter is defined for them; all are ignored.
_KEY = r"[a-z*][a-z0-9_\-.*]*"
_STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
_PARAMETERS = rf"(?:; *{_KEY}(?:=(?:{_STRING}|[^,;\" \t]+))?)*"
_MEMBER = re.compile(rf"({_KEY})=:([A-Za-z0-9+/=]*):{_PARAMETERS}{OWS}(,{OWS}|$)")


def expected_digests(fields: Mapping[str, str]) -> list[Expected]:
    """Return the announced digests. Raises BadRequest for a malformed one: ignoring it would skip the check."""
    expected = []
    if "content-md5" in fields:
        expected.append(_expected("md5", fields["content-md5"]))
    for name in ("Content-Digest", "Repr-Digest"):
        if name.lower() in fields:
            expected += _parse_dictionary(name, fields[name.lower()])
    return expected


def _parse_dictionary(name: str, field: str) -> list[Expected]:
    expected = []
    position = 0
    while position < len(field):
        matched = _MEMBER.match(field, position)
        if matched is None or (matched.group(3) and matched.end() == len(field)):
            raise BadRequest(f"Invalid {name} {quoted(field)}: expected a list of members such as sha-256=:BASE64:.")
        position = matched.end()
        algorithm = _ALGORITHMS.get(matched.group(1))
        if algorithm is not None:
            expected.append(_expected(algorithm, matched.group(2)))
    return expected


def _expected(algorithm: str, encoded: str) -> Expected:
    try:
        digest = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise BadRequest(f"Invalid {algorithm} digest {quoted(encoded)}: expected base64.") from error
    size = digest_length(algorithm) // 2
    if len(digest) != size:
        raise BadRequest(
            f"Invalid {algorithm} digest {quoted(encoded)}: received {len(digest)} bytes, expected {size} bytes."
        )
    return Expected(algorithm, digest.hex())
