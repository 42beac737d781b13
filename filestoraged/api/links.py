"""Links that responses hand out."""

from __future__ import annotations

from filestoraged.web.request import Request


def mount_url(request: Request, public_url: str | None) -> str:
    """Return the URL of the interface that a request asks, without a slash at its end."""
    return listener_url(request, public_url) + request.mount


def listener_url(request: Request, public_url: str | None) -> str:
    """Return the URL that the prefixes of interfaces follow.

    It is `public_url`, the value of --public-url, or has the host that the client has asked for.
    """
    # Only HTTP/1.0 may omit Host.
    return public_url or f"http://{request.fields.get('host', 'localhost')}"
