"""Protection from cross-site requests and DNS rebinding: allowed origins and allowed hosts.

A browser sends requests on behalf of every page that it shows, also to a daemon on localhost or in a private network.

- Cross-site requests: a page of any site sends a POST. The browser withholds the response from the page, but the
  request has taken effect. `Origin` and `Sec-Fetch-Site` name the sending site; a page cannot set them.
- DNS rebinding: the owner of evil.example changes its address to 127.0.0.1. The browser then treats the daemon as the
  page's own site, and the page can read responses too. `Host` still says evil.example.

Other programs than browsers send neither `Origin` nor `Sec-Fetch-Site`, and send the `Host` of the URL they were given.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import NamedTuple

from filestoraged.errors import CrossSite, Error, MisdirectedRequest
from filestoraged.web.request import COMMON_METHODS, Request
from filestoraged.web.response import Fields, field_lines
from filestoraged.wire.origin import Origin, parse_origin

# A value of --allow-origin or --host.
ANY = "*"

# Methods that can change state. A GET from another site is answered; the browser withholds the response from its page.
_UNSAFE_METHODS = frozenset(("POST", "PUT", "PATCH", "DELETE"))
_OTHER_SITES = ("cross-site", "same-site")

# Response headers that a page of an allowed origin may read, and request headers that it may send. For browsers, "*"
# means all others but Authorization (Fetch standard, section 4.10); the names are for older browsers.
_RESPONSE_HEADERS = (
    "ETag, Content-Range, Content-Disposition, Accept-Ranges, Location, Retry-After, Allow, WWW-Authenticate, "
    "Content-Location, Repr-Digest, Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, "
    "Upload-Offset, Upload-Length, Upload-Defer-Length, Upload-Metadata, Upload-Expires, *"
)
_REQUEST_HEADERS = (
    "Authorization, Content-Type, Content-MD5, Content-Digest, Repr-Digest, Range, If-Match, If-None-Match, "
    "If-Modified-Since, If-Unmodified-Since, If-Range, Tus-Resumable, Upload-Length, Upload-Defer-Length, "
    "Upload-Metadata, Upload-Offset, Upload-Checksum, X-HTTP-Method-Override, *"
)

# Seconds for which a browser may cache the response to a preflight: the maximum of Chromium.
_PREFLIGHT_AGE = 7200
_PREFLIGHT_FIELDS = field_lines(
    ("Access-Control-Allow-Headers", _REQUEST_HEADERS),
    ("Access-Control-Max-Age", str(_PREFLIGHT_AGE)),
)


class CrossSiteResult(NamedTuple):
    """The result of the check of a request's origin and host."""

    # The error of a refused request.
    fault: Error | None = None
    # Header fields of each response to the request, errors included.
    fields: Fields = ""
    # Whether the request is a CORS preflight.
    is_preflight: bool = False


# The result for most requests.
PASSED = CrossSiteResult()


class Origins:
    """The daemon's own origin, and other origins that may send requests. Any thread calls it."""

    def __init__(self, *, public_url: str | None = None, allowed: Sequence[str] = ()) -> None:
        """Without a `public_url`, the daemon's own origin is the one that a request's Host names."""
        self._own = None if public_url is None else _origin_of(public_url)
        self._allows_any = ANY in allowed
        self._allowed: frozenset[Origin | None] = frozenset(parse_origin(each) for each in allowed if each != ANY)

    def judge(self, request: Request, sent: str, methods: Sequence[str] = COMMON_METHODS) -> CrossSiteResult:
        """`sent` is the method that the browser has sent, which X-HTTP-Method-Override may have replaced.

        `methods` are those that the response to a preflight lists.
        """
        if self._allows_any:
            return self._admit(request, sent, ANY, methods)
        field = request.fields.get("origin")
        origin = None if field is None else parse_origin(field)
        if field is not None and origin is not None and origin in self._allowed:
            return self._admit(request, sent, field, methods)
        is_unsafe = sent in _UNSAFE_METHODS or request.method in _UNSAFE_METHODS
        fault = self._find_fault(request, field, origin) if is_unsafe else None
        if not self._allowed:
            return PASSED if fault is None else CrossSiteResult(fault)
        # Also without an Origin: a cache must not reuse this response for an allowed origin.
        return CrossSiteResult(fault, "Vary: Origin\r\n")

    def _admit(self, request: Request, sent: str, origin: str, methods: Sequence[str]) -> CrossSiteResult:
        # Never with Access-Control-Allow-Credentials: other sites must not use credentials that the browser stores.
        fields = field_lines(
            ("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", _RESPONSE_HEADERS)
        )
        if origin != ANY:
            fields += "Vary: Origin\r\n"
        is_preflight = sent == "OPTIONS" and "access-control-request-method" in request.fields
        if is_preflight:
            fields += field_lines(("Access-Control-Allow-Methods", ", ".join(methods))) + _PREFLIGHT_FIELDS
            if request.fields.get("access-control-request-private-network") == "true":
                # A page of a public site asks for a private address (the draft "Private Network Access").
                fields += "Access-Control-Allow-Private-Network: true\r\n"
        return CrossSiteResult(None, fields, is_preflight)

    def _find_fault(self, request: Request, field: str | None, origin: Origin | None) -> Error | None:
        if field is not None and (origin is None or not self._is_own(request, origin)):
            return CrossSite(f"the origin {field[:200]!r} is not the server's own")
        site = request.fields.get("sec-fetch-site", "").lower()
        return CrossSite(f"Sec-Fetch-Site is {site}") if site in _OTHER_SITES else None

    def _is_own(self, request: Request, origin: Origin) -> bool:
        if self._own is not None:
            return origin == self._own
        # A proxy in front may speak HTTPS, which no header field shows, so either scheme is accepted. To serve a
        # page as http://HOST beside https://HOST, an attacker must control the network; browsers call that cross-site.
        host = request.fields.get("host", "")
        return origin.scheme in ("http", "https") and origin == parse_origin(f"{origin.scheme}://{host}")


class Hosts:
    """The values of Host that are accepted on loopback addresses. Any thread calls it."""

    def __init__(self, names: Sequence[str] = (), *, public_url: str | None = None) -> None:
        """`names` are the values of `--host`."""
        self._names = {_canonical(name) for name in names}
        if public_url is not None:
            self._names.add(_canonical(_origin_of(public_url).host))

    def find_fault(self, request: Request) -> Error | None:
        """Return the error for a refused Host, None for an accepted one."""
        field = request.fields.get("host")
        # Only HTTP/1.0 may omit Host, and browsers always send it.
        if field is None or self._accepts(parse_origin(f"http://{field}")):
            return None
        return MisdirectedRequest(field)

    def _accepts(self, own: Origin | None) -> bool:
        if own is None:
            return False
        name = _canonical(own.host)
        # Browsers do not resolve names below localhost by DNS (RFC 6761, section 6.3).
        return name == "localhost" or name.endswith(".localhost") or name in self._names or _is_address(name)


def _origin_of(url: str) -> Origin:
    scheme, _, rest = url.partition("://")
    origin = parse_origin(f"{scheme}://{rest.partition('/')[0]}")
    assert origin is not None, "--public-url is checked when it is read"
    return origin


def _canonical(name: str) -> str:
    """Return a name in lower case, without the dot of the DNS root at its end."""
    name = name.lower()
    return name[:-1] if name.endswith(".") else name


def _is_address(name: str) -> bool:
    """Whether it is an IP address, which needs no DNS; IPv4 in any notation, such as 127.1."""
    if name.startswith("["):
        # The parser of the head has checked the address.
        return True
    try:
        socket.inet_aton(name)
    except OSError:
        return False
    return True
