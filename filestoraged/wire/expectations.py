"""What an upload says its bytes are: Content-MD5 (RFC 1864), Content-Digest and Repr-Digest (RFC 9530)."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from filestoraged.digest import Expected, digest_length
from filestoraged.errors import BadRequest
from filestoraged.wire.grammar import OWS

# The names of RFC 9530's registry, and ours. Others are ignored, as section 2 has it.
_ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512", "md5": "md5"}
# A dictionary of byte sequences (RFC 8941, section 3.2), whose parameters mean nothing here.
_KEY = r"[a-z*][a-z0-9_\-.*]*"
_STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
_PARAMETERS = rf"(?:; *{_KEY}(?:=(?:{_STRING}|[^,;\" \t]+))?)*"
_MEMBER = re.compile(rf"({_KEY})=:([A-Za-z0-9+/=]*):{_PARAMETERS}{OWS}(,{OWS}|$)")


def expected_digests(fields: Mapping[str, str]) -> list[Expected]:
    """Return what `fields` announce. Raises BadRequest where they cannot be read: who asks for a check gets one."""
    expected = []
    if "content-md5" in fields:
        expected.append(_expected("md5", fields["content-md5"]))
    for name in ("content-digest", "repr-digest"):
        if name in fields:
            expected += _parse_dictionary(fields[name])
    return expected


def _parse_dictionary(field: str) -> list[Expected]:
    expected = []
    position = 0
    while position < len(field):
        matched = _MEMBER.match(field, position)
        if matched is None or (matched.group(3) and matched.end() == len(field)):
            raise BadRequest("A digest field is not of RFC 9530's form.")
        position = matched.end()
        algorithm = _ALGORITHMS.get(matched.group(1))
        if algorithm is not None:
            expected.append(_expected(algorithm, matched.group(2)))
    return expected


def _expected(algorithm: str, encoded: str) -> Expected:
    try:
        digest = base64.b64decode(encoded, validate=True).hex()
    except ValueError as error:
        raise BadRequest("A digest is not of base64.") from error
    if len(digest) != digest_length(algorithm):
        raise BadRequest(f"A digest is not as long as {algorithm} makes them.")
    return Expected(algorithm, digest)
