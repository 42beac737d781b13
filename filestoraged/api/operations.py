"""What belongs to operations: `/-/health`, on every listener whatever is mounted."""

from __future__ import annotations

from filestoraged.web.message import Request, Response, json_response
from filestoraged.web.router import Router

# What lies below it. The path "/-" itself may be a key of a database.
PREFIX = "/-/"


def routes() -> Router:
    return Router([("GET", "/health", _health)])


def _health(_: Request) -> Response:
    return json_response(200, {"status": "ok"})
