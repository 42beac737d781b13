"""AWS Signature Version 4 in header fields: a pure function of a request, its credentials and the time.

The payload is signed by its SHA-256, so a store that checks it refuses other bytes. No chunked signatures, and no
presigned URLs.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from filestoraged.store.s3.url import UNRESERVED

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

_ALGORITHM = "AWS4-HMAC-SHA256"
_SERVICE = "s3"


class Credentials(NamedTuple):
    access_key: str
    secret_key: str
    # Of temporary credentials, else empty.
    token: str = ""

    def __repr__(self) -> str:
        # They must not get into a log with a traceback.
        return "Credentials(...)"


def encode_query(query: Iterable[tuple[str, str]]) -> str:
    """The canonical query string, which is also the one to send."""
    pairs = ((quote(name, safe=UNRESERVED), quote(value, safe=UNRESERVED)) for name, value in query)
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def signed_fields(
    method: str,
    path: str,
    query: str,
    fields: Mapping[str, str],
    *,
    sha256: str,
    credentials: Credentials,
    region: str,
    now: float,
) -> dict[str, str]:
    """Return `fields` with those that sign the request.

    `path` and `query` are encoded as they are sent; `fields` have lower-case names, `host` among them. `sha256` is the
    digest of the payload; `now` is in seconds since 1970.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    signed = {**fields, "x-amz-content-sha256": sha256, "x-amz-date": stamp}
    if credentials.token:
        signed["x-amz-security-token"] = credentials.token
    names = sorted(name for name in signed if name == "host" or name.startswith("x-amz-"))
    scope = f"{stamp[:8]}/{region}/{_SERVICE}/aws4_request"
    request = _canonical_request(method, path, query, [(name, signed[name]) for name in names], sha256)
    text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = _hmac(_signing_key(credentials.secret_key, stamp[:8], region), text).hex()
    signed["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, "
        f"SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    return signed


def _canonical_request(method: str, path: str, query: str, fields: Sequence[tuple[str, str]], sha256: str) -> str:
    lines = "".join(f"{name}:{' '.join(value.split())}\n" for name, value in fields)
    return f"{method}\n{path}\n{query}\n{lines}\n{';'.join(name for name, _ in fields)}\n{sha256}"


def _signing_key(secret: str, day: str, region: str) -> bytes:
    # Four rounds take 10 us: less than what keeping a key per day, secret and region costs in care.
    key = f"AWS4{secret}".encode()
    for part in (day, region, _SERVICE, "aws4_request"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
