"""The place of an S3 store: `https://HOST[:PORT]/BUCKET[/PREFIX]`, always addressed by path."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import quote

from filestoraged.net.connection import PORTS, ServerAddress

_URL = re.compile(r"(https?)://(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._\-]+))(?::([0-9]{1,5}))?/([^?#]+)", re.ASCII)
# More than AWS allows: names of Ceph and of old buckets have capitals and underscores.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{1,254}", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._\-]{1,128}", re.ASCII)

# In a path that is signed, all other characters are percent-encoded (AWS Signature Version 4, "UriEncode").
UNRESERVED = "-_.~"


class StoreURL(NamedTuple):
    """Where the objects of a store are."""

    endpoint: ServerAddress
    bucket: str
    # Of all keys, with a slash at its end; empty for a store that has the bucket to itself.
    prefix: str

    def __str__(self) -> str:
        return f"{self.endpoint}/{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def is_loopback(self) -> bool:
        host = self.endpoint.host
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def path(self, key: str) -> str:
        """The encoded path of the object under a key, or of the bucket for an empty key."""
        path = f"/{self.bucket}/{self.prefix}{key}" if key else f"/{self.bucket}"
        return quote(path, safe=f"/{UNRESERVED}")


def parse_url(text: str) -> StoreURL:
    """Raises ValueError, whose message says what was expected. Secrets that a URL may have by mistake are not in it."""
    if set(text) & set("@?#"):
        raise ValueError(
            "invalid S3 URL: it has credentials, a query or a fragment; expected https://HOST[:PORT]/BUCKET[/PREFIX]"
            " without them"
        )
    matched = _URL.fullmatch(text)
    port = int(matched.group(4) or PORTS[matched.group(1)]) if matched else 0
    if matched is None or not 0 < port < 65536:
        raise ValueError(f"invalid S3 URL {text!r}: expected https://HOST[:PORT]/BUCKET[/PREFIX]")
    bucket, *segments = matched.group(5).rstrip("/").split("/")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"invalid bucket {bucket!r} in the S3 URL {text!r}: expected letters, digits and -._")
    for segment in segments:
        if not _SEGMENT.fullmatch(segment) or segment in (".", ".."):
            raise ValueError(
                f"invalid prefix segment {segment!r} in the S3 URL {text!r}: expected letters, digits and -._"
            )
    host = (matched.group(2) or matched.group(3)).lower()
    return StoreURL(ServerAddress(matched.group(1), host, port), bucket, "".join(f"{segment}/" for segment in segments))
