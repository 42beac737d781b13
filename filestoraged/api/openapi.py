"""The document `/-/openapi.json`: every request of a listener's interfaces, as OpenAPI 3.1 describes them.

Paths, methods and open segments come from the routers' tables, so that no request is missing. What tables do not know,
parameters, bodies and responses, each interface declares; a request without a declaration is described by
its path alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from filestoraged import __version__
from filestoraged.api import openapi_terms as terms
from filestoraged.api.interface import Description, Json
from filestoraged.web.router import PUBLIC, Route, Router

_SEGMENT = re.compile(r"\{(\w+)\}")
# OpenAPI has no templates for several segments.
_REST, _SEGMENT_END = "...}", "}"

_ERROR = {"schema": {"$ref": "#/components/schemas/Error"}}
# Errors of each request, in the form of its interface; a page has those as pages that its script does not read.
_RESPONSES: Mapping[str, Json] = {
    "Error": {"description": "An error; `message` is a sentence.", "content": {"application/json": _ERROR}},
    "LfsError": {"description": "An error of Git LFS.", "content": {"application/vnd.git-lfs+json": _ERROR}},
    "PageError": {
        "description": "An error as a page, or as JSON.",
        "content": {"text/html": {"schema": {"type": "string"}}, "application/json": _ERROR},
    },
}


def document(mounts: Mapping[str, Router], descriptions: Mapping[str, Description], *, has_tokens: bool) -> bytes:
    """Describe the routers, which are by their prefixes. `descriptions` are those of the interfaces, by their names."""
    known = {**descriptions, "operations": OPERATIONS}
    paths: dict[str, Json] = {}
    for prefix, router in mounts.items():
        served = list(router.list_routes())
        # A mount is its root with and without the slash, unless a route tells them apart.
        is_root_bare = all(route.pattern for _, route in served)
        for owner, route in served:
            path = prefix if route.pattern == "/" and is_root_bare else prefix.rstrip("/") + route.pattern or "/"
            declared = known[owner.name].operations.get((route.method, route.pattern), {})
            path = path.replace(_REST, _SEGMENT_END)
            operation = _operation(owner, route, path, declared, has_tokens=has_tokens)
            paths.setdefault(path, {}).setdefault(route.method.lower(), operation)
    schemas = {name: schema for each in known.values() for name, schema in each.schemas.items()}
    text: Json = {
        "openapi": "3.1.0",
        "info": {"title": "filestoraged", "version": __version__, "license": {"name": "MIT", "identifier": "MIT"}},
        # Relative to this document: a proxy may have all of it below a prefix.
        "servers": [{"url": "../"}],
        "paths": paths,
        "components": {"schemas": schemas, "parameters": terms.PARAMETERS, "responses": _RESPONSES},
    }
    if has_tokens:
        schemes = {"token": {"type": "http", "scheme": "bearer"}, "basic": {"type": "http", "scheme": "basic"}}
        text["components"]["securitySchemes"] = schemes
    return json.dumps(text).encode() + b"\n"


def _operation(router: Router, route: Route, path: str, declared: Json, *, has_tokens: bool) -> Json:
    operation: Json = {"operationId": _id(router, route), "tags": [router.name], **declared}
    segments = [_segment(name) for name in _SEGMENT.findall(path)]
    parameters = [*segments, *operation.pop("parameters", [])]
    if parameters:
        operation["parameters"] = parameters
    error = operation.pop("error", "Error")
    responses = operation.pop("responses", {"2XX": {"description": "Done."}})
    operation["responses"] = {**responses, "default": {"$ref": f"#/components/responses/{error}"}}
    needs_token = operation.pop("needs_token", not router.public and route.scope != PUBLIC)
    if has_tokens:
        operation["security"] = [{"token": []}, {"basic": []}] if needs_token else []
    return operation


def _segment(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": terms.SEGMENTS.get(name, {"type": "string"})}


def _id(router: Router, route: Route) -> str:
    words = re.findall(r"\w+", route.pattern) or ([] if route.pattern else ["mount"])
    return "_".join([router.name, route.method.lower(), *words])


_STATUS = terms.object_of(status=terms.TEXT)

# The paths of operations, and the pages' scripts and styles.
OPERATIONS = Description(
    {
        ("GET", "/health"): {
            "summary": "Whether the daemon is alive.",
            "responses": {"200": terms.answer("It is.", terms.json_content(_STATUS))},
        },
        ("GET", "/ready"): {
            "summary": "Whether the daemon can serve.",
            "responses": {"200": terms.answer("It can.", terms.json_content(_STATUS))},
        },
        ("GET", "/"): {
            "summary": "Metrics for Prometheus.",
            "responses": {"200": terms.answer("The metrics.", terms.ANY)},
        },
        ("GET", "/{name}"): {
            "summary": "A script, style or image of the pages.",
            "responses": {"200": terms.answer("The file.", terms.ANY), "304": terms.answer("The client has it.")},
        },
    },
    {"Error": terms.object_of(message=terms.TEXT)},
)
