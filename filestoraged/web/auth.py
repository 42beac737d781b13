"""Authorization: a request carries a token, and a token has scopes."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from filestoraged.errors import Forbidden, TokenRequired
from filestoraged.web.metrics import NO_INTERFACE
from filestoraged.web.request import Request
from filestoraged.web.router import DELETE, PUBLIC, READ, WRITE, Match

# What a method that a path does not have would need: a token without that scope gets 403, and with it 405.
ACTIONS = {"GET": READ, "PUT": WRITE, "POST": WRITE, "DELETE": DELETE}

# The owner of locks whom no token and no user name tells. No token has that name: it could remove their locks.
ANYBODY = "anybody"


class Scope(NamedTuple):
    """An action, and where: "" for everywhere, an interface by its name or prefix, `data/pets` for a repository."""

    action: str
    place: str = ""


class Grant(NamedTuple):
    """The scopes of one token. `digest` is hashed(token); None where no token is needed."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes | None


def hashed(token: str) -> bytes:
    """The hash of a token. A token is 256 random bits, too many to try: a hash needs no salt and no slowness."""
    return hashlib.sha256(token.encode()).digest()


class Tokens:
    """All grants. Many threads ask."""

    def __init__(self, grants: Sequence[Grant], reserved: Callable[[str], bool]) -> None:
        """Where a prefix is `reserved`, because scopes mean something else by it, it stands for nothing."""
        self._is_reserved = reserved
        # A lookup takes longer the more of a key is right; with keyed hashes, a client cannot choose keys.
        self._secret = secrets.token_bytes(32)
        self._scopes: dict[bytes, frozenset[Scope]] = {}
        self._names: dict[bytes, str] = {}
        for grant in grants:
            if grant.digest is not None:
                key = self._key(grant.digest)
                self._scopes[key] = self._scopes.get(key, frozenset()) | grant.scopes
                self._names.setdefault(key, grant.name)
        self._anybodys = frozenset(scope for grant in grants if grant.digest is None for scope in grant.scopes)

    def lets_anybody(self, request: Request, match: Match) -> bool:
        """Whether the request needs no token."""
        if match.router.public or (match.route is not None and match.route.scope == PUBLIC):
            return True
        return not self._anybodys.isdisjoint(self._wanted(request, match))

    def check(self, request: Request, match: Match) -> None:
        """Raises TokenRequired for an unknown or missing token, Forbidden where it lacks the scope."""
        self._check(request, self._wanted(request, match))

    def require(self, request: Request, action: str) -> None:
        """As `check` does, for a further action at the place that the request's path names.

        For pages that know what a request needs once they have read its body. What anybody may do needs no token.
        """
        wanted = self._scopes_of(request, request.match, action)
        if self._anybodys.isdisjoint(wanted):
            self._check(request, wanted)

    def require_at(self, request: Request, action: str, interface: str, area: str) -> None:
        """As `require` does, for another interface, and an area of it, "" for none."""
        wanted = self._scopes_at(action, interface, request.mounts.get(interface, ""), area)
        if self._anybodys.isdisjoint(wanted):
            self._check(request, wanted)

    def require_token(self, request: Request, action: str) -> None:
        """Raises TokenRequired without a known token, unless anybody may do `action` somewhere."""
        if all(scope.action != action for scope in self._anybodys):
            self._find(request.token_hash)

    def name_of(self, request: Request) -> str | None:
        """The name of the request's token, None without a known one."""
        return self._names.get(self._key(request.token_hash)) if request.token_hash else None

    def _check(self, request: Request, wanted: Sequence[Scope]) -> None:
        scopes = self._find(request.token_hash)
        # Without a page, nothing is wanted: any token gets the 404 or 405.
        if wanted and scopes.isdisjoint(wanted):
            raise Forbidden("The token lacks the scope that this request needs.")

    def _find(self, token_hash: bytes) -> frozenset[Scope]:
        if not token_hash:
            raise TokenRequired("A token is required.")
        scopes = self._scopes.get(self._key(token_hash))
        if scopes is None:
            raise TokenRequired("Unknown token.")
        return scopes

    def _key(self, digest: bytes) -> bytes:
        return hmac.digest(self._secret, digest, "sha256")

    def _wanted(self, request: Request, match: Match) -> list[Scope]:
        """The scopes of which one is needed."""
        route = match.route
        action = ACTIONS.get(request.method) if route is None else route.scope
        if action is None or match.router.name == NO_INTERFACE:
            return []
        wanted = self._scopes_of(request, match, action)
        if route is not None and route.or_scope is not None:
            wanted += self._scopes_of(request, match, route.or_scope)
        return wanted

    def _scopes_of(self, request: Request, match: Match, action: str) -> list[Scope]:
        """The scopes that allow `action` where the request's path leads."""
        router = match.router
        area = unquote(match.segments[0]) if router.has_areas and match.segments else ""
        return self._scopes_at(action, router.name, request.mount, area)

    def _scopes_at(self, action: str, interface: str, mount: str, area: str) -> list[Scope]:
        places = [interface]
        prefix = mount.strip("/")
        if prefix and not self._is_reserved(prefix):
            places.append(prefix)
        if area:
            places += [f"{place}/{area}" for place in places]
        return [Scope(action), *(Scope(action, place) for place in places)]
