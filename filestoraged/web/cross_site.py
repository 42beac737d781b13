"""Cross-site requests and DNS rebinding: which sites may send requests, and which hosts may be asked for.

A browser sends requests on behalf of every page that it shows, also to a daemon on localhost or in a private network.

- Cross-site requests: a page of any site sends a POST. The browser withholds the answer from it, but the request has
  taken effect. `Origin` and `Sec-Fetch-Site` tell who sends it, and a page cannot set them.
- DNS rebinding: a page of evil.example has that name resolve to 127.0.0.1. For the browser the daemon is then of the
  page's own site, and the page may read as well. `Host` still says evil.example.

Programs that are no browsers send neither `Origin` nor `Sec-Fetch-Site`, and ask for the host they were told.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import NamedTuple

from filestoraged.errors import CrossSite, Error, MisdirectedRequest
from filestoraged.web.message import METHODS, Fields, Request, field_lines
from filestoraged.wire.origin import Host, Origin, origin_at, parse_host, parse_origin

# As a value of --host or --allow-origin.
ANY = "*"

# Only these can change anything. A GET of another site is answered: its page does not get to read it.
_CHANGING = frozenset(("POST", "PUT", "PATCH", "DELETE"))
_OTHER_SITES = ("cross-site", "same-site")

# What a page of an allowed origin may read besides what any may. A browser takes "*" for all the others, but not for
# Authorization (Fetch standard, section 4.10); the names are for older ones.
_EXPOSED = "ETag, Content-Range, Content-Disposition, Accept-Ranges, Location, Retry-After, Allow, WWW-Authenticate, *"
_ACCEPTED = (
    "Authorization, Content-Type, Content-MD5, Content-Digest, Repr-Digest, Range, If-Match, If-None-Match, "
    "If-Modified-Since, If-Unmodified-Since, If-Range, *"
)

# Seconds for which a browser may remember the answer to a preflight: the most that Chromium takes.
_PREFLIGHT_AGE = 7200
_PREFLIGHT_FIELDS = field_lines(
    ("Access-Control-Allow-Methods", ", ".join(METHODS)),
    ("Access-Control-Allow-Headers", _ACCEPTED),
    ("Access-Control-Max-Age", str(_PREFLIGHT_AGE)),
)


class CrossSiteResult(NamedTuple):
    """What the origin and the host of a request mean for its answer."""

    # Why it is refused, if it is.
    fault: Error | None = None
    # What each answer to it has, an error's too.
    fields: Fields = ""
    # Whether a browser asks in advance, for another request that a page wants to send.
    is_preflight: bool = False


# Of most requests.
PASSED = CrossSiteResult()


class Origins:
    """The daemon's own origin, and those of others that may send requests to it. Many threads ask."""

    def __init__(self, *, public_url: str | None = None, allowed: Sequence[str] = ()) -> None:
        """Without a `public_url`, the daemon's own origin is the one that a request's Host names."""
        self._own = None if public_url is None else _origin_of(public_url)
        self._allows_any = ANY in allowed
        self._allowed: frozenset[Origin | None] = frozenset(parse_origin(each) for each in allowed if each != ANY)

    def judge(self, request: Request) -> CrossSiteResult:
        if self._allows_any:
            return self._admit(request, ANY)
        field = request.fields.get("origin")
        origin = None if field is None else parse_origin(field)
        if field is not None and origin is not None and origin in self._allowed:
            return self._admit(request, field)
        fault = self._find_fault(request, field, origin) if request.method in _CHANGING else None
        if not self._allowed:
            return PASSED if fault is None else CrossSiteResult(fault)
        # Also where no origin is named: what a cache keeps of this answer is not the answer to an allowed origin.
        return CrossSiteResult(fault, "Vary: Origin\r\n")

    def _admit(self, request: Request, origin: str) -> CrossSiteResult:
        # Never with Access-Control-Allow-Credentials: what a browser knows by itself is not for other sites to use.
        fields = field_lines(("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", _EXPOSED))
        if origin != ANY:
            fields += "Vary: Origin\r\n"
        is_preflight = request.method == "OPTIONS" and "access-control-request-method" in request.fields
        if is_preflight:
            fields += _PREFLIGHT_FIELDS
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
        host = parse_host(request.fields.get("host", ""))
        # A proxy in front may speak HTTPS, which nothing in the request tells; so either scheme is taken. Whoever could
        # serve a page as http://HOST beside an https://HOST is on the line between, and a browser calls it cross-site.
        return host is not None and origin.scheme in ("http", "https") and origin == origin_at(host, origin.scheme)


class Hosts:
    """The hosts that a request may ask for which arrives on a loopback address. Many threads ask."""

    def __init__(self, names: Sequence[str] = (), *, public_url: str | None = None) -> None:
        """`names` are those of `--host`."""
        self._names = {_canonical(name) for name in names}
        if public_url is not None:
            self._names.add(_canonical(_origin_of(public_url).host))

    def find_fault(self, request: Request) -> Error | None:
        """Why the request's Host is refused, None where it is not."""
        field = request.fields.get("host")
        # Only HTTP/1.0 may lack it, and no browser does.
        if field is None or self._accepts(parse_host(field)):
            return None
        return MisdirectedRequest(field)

    def _accepts(self, host: Host | None) -> bool:
        if host is None:
            return False
        name = _canonical(host.name)
        # Names below localhost are looked up in no DNS by browsers (RFC 6761, section 6.3).
        return name == "localhost" or name.endswith(".localhost") or name in self._names or _is_address(name)


def _origin_of(url: str) -> Origin:
    scheme, _, rest = url.partition("://")
    origin = parse_origin(f"{scheme}://{rest.partition('/')[0]}")
    assert origin is not None, "--public-url is checked when it is read"
    return origin


def _canonical(name: str) -> str:
    """A name is the same with the dot of the root behind it."""
    name = name.lower()
    return name[:-1] if name.endswith(".") else name


def _is_address(name: str) -> bool:
    """Whether it is an IP address, for which there is no DNS; IPv4 in any spelling, such as 127.1."""
    if name.startswith("["):
        # Which address it is was looked at when the head was read.
        return True
    try:
        socket.inet_aton(name)
    except OSError:
        return False
    return True
