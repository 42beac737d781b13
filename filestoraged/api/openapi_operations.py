"""What the routers' tables do not know of each request: summaries, parameters, bodies and responses, for OpenAPI.

A row for each method and pattern of an interface. A test compares the table with the routers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from filestoraged.api.openapi_uploads import UPLOADS

Json = dict[str, Any]

_HEX = {"type": "string", "pattern": "^[0-9a-f]+$"}
_COUNT = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_BYTES: Json = {"application/octet-stream": {}}
_PAGE: Json = {"text/html": {"schema": _TEXT}}

LFS = "application/vnd.git-lfs+json"


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _object(**properties: Any) -> Json:
    """An object that has all of these members, and perhaps others."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _json(schema: Any, media_type: str = "application/json") -> Json:
    return {media_type: {"schema": schema}}


def _answer(description: str, content: Json | None = None) -> Json:
    return {"description": description} if content is None else {"description": description, "content": content}


def _body(content: Json, *, required: bool = True) -> Json:
    return {"required": required, "content": content}


_LOCK = _object(id=_TEXT, path=_TEXT, locked_at=_TEXT, owner=_object(name=_TEXT))
_LOCKS = {"type": "array", "items": _LOCK}

SCHEMAS: Mapping[str, Json] = {
    "Error": _object(message=_TEXT),
    "Stored": _object(hash=_HEX, size=_COUNT),
    "StoredObject": _object(oid=_HEX, size=_COUNT),
    "Lock": _object(lock=_LOCK),
    "Drop": {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "contentMediaType": "application/octet-stream"}, "password": _TEXT},
    },
    "Password": {"type": "object", "properties": {"password": _TEXT}},
}


def _query(name: str, description: str, schema: Json = _TEXT) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _header(name: str, description: str) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": _TEXT}


PARAMETERS: Mapping[str, Json] = {
    "Hash": _query("hash", "Names the file: a digest in hexadecimal."),
    "Expected": _query("hash", "The digest that the bytes must have."),
    "ContentDigest": _header("Content-Digest", "A digest that the body must have (RFC 9530)."),
    "IfNoneMatch": _header("If-None-Match", "Of an upload `*`; of a download the digests that the client has."),
    "Name": _query("name", "Makes it a download under this name, with the type of the name."),
    "Range": _header("Range", "One range of bytes."),
    "Limit": _query("limit", "Entries of a page.", {"type": "integer", "minimum": 1, "maximum": 10_000}),
    "After": _query("after", "The member `next` of the page before."),
    "Password": _query("password", "The password of the drop; better in `Authorization: Basic`."),
}

SEGMENTS: Mapping[str, Json] = {
    "hash": _TEXT,
    "oid": _TEXT,
    # In a path, `.` and `..` are resolved by clients.
    "repository": {"type": "string", "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"},
}

_UPLOAD = [_ref("parameters", "Expected"), _ref("parameters", "ContentDigest"), _ref("parameters", "IfNoneMatch")]
_DOWNLOAD = [_ref("parameters", "Name"), _ref("parameters", "Range"), _ref("parameters", "IfNoneMatch")]
_LIST = [_ref("parameters", "Limit"), _ref("parameters", "After")]
_NEXT = {"type": ["string", "null"]}

_ANY: Json = {"*/*": {}}
_DOWNLOADED = {
    "200": _answer("The bytes.", _ANY),
    "206": _answer("The range of the bytes.", _ANY),
    "304": _answer("The client has it."),
}
_REMOVED = {"200": _answer("Removed.", _json(_object(hash=_HEX)))}
_RAW = _body(_BYTES, required=False)


def _list(member: str, items: Json) -> Json:
    return {"200": _answer("A page.", _json(_object(**{member: {"type": "array", "items": items}}, next=_NEXT)))}


def _lfs(summary: str, status: str, schema: Json, body: Json | None = None, **rest: Any) -> Json:
    operation = {"summary": summary, "responses": {status: _answer("Done.", _json(schema, LFS))}, "error": "LfsError"}
    return {**operation, **({"requestBody": _body(_json(body, LFS))} if body else {}), **rest}


_BATCH = {
    "type": "object",
    "required": ["operation", "objects"],
    "properties": {
        "operation": {"enum": ["upload", "download"]},
        "objects": {"type": "array", "maxItems": 1000, "items": _object(oid=_TEXT, size={"type": "integer"})},
    },
}
_PAIR = {"type": "object", "minProperties": 1, "maxProperties": 1, "propertyNames": {"minLength": 1}}
_PAIR_ANSWER = _json({"type": "object"})
_DROP_FORM = _body({"multipart/form-data": {"schema": _ref("schemas", "Drop")}})
_PASSWORD_FORM = _body({"application/x-www-form-urlencoded": {"schema": _ref("schemas", "Password")}}, required=False)
_STATUS = _object(status=_TEXT)

OPERATIONS: Mapping[tuple[str, str, str], Json] = {
    ("files", "POST", "/"): {
        "summary": "Store a file under its digest.",
        "parameters": _UPLOAD,
        "requestBody": _RAW,
        "responses": {"200": _answer("Stored.", {**_json(_ref("schemas", "Stored")), "text/plain": {"schema": _TEXT}})},
    },
    ("files", "GET", "/"): {
        "summary": "Download a file; where HTML is preferred and no hash is given, the page that uploads files.",
        "parameters": [_ref("parameters", "Hash"), *_DOWNLOAD],
        "responses": _DOWNLOADED,
    },
    ("files", "GET", "/{hash}"): {"summary": "Download a file.", "parameters": _DOWNLOAD, "responses": _DOWNLOADED},
    ("files", "DELETE", "/"): {
        "summary": "Remove a file.",
        "parameters": [_ref("parameters", "Hash")],
        "responses": _REMOVED,
    },
    ("files", "DELETE", "/{hash}"): {"summary": "Remove a file.", "responses": _REMOVED},
    **{
        ("repositories", "GET", pattern): {
            "summary": "List the repositories.",
            "parameters": _LIST,
            "responses": _list("repositories", _TEXT),
        }
        for pattern in ("", "/")
    },
    ("repositories", "PUT", "/"): {
        "summary": "Refused: the repository has no name.",
        "requestBody": _RAW,
        "responses": {"400": _ref("responses", "Error")},
    },
    ("repositories", "PUT", "/{repository}"): {
        "summary": "Store an object under its SHA-256.",
        "parameters": _UPLOAD,
        "requestBody": _RAW,
        "responses": {"201": _answer("Stored, or there already.", _json(_ref("schemas", "StoredObject")))},
    },
    ("repositories", "GET", "/{repository}"): {
        "summary": "List the objects of a repository.",
        "parameters": _LIST,
        "responses": _list("objects", _object(oid=_HEX, size=_COUNT, modified=_TEXT)),
    },
    ("repositories", "GET", "/{repository}/{oid}"): {
        "summary": "Download an object.",
        "parameters": _DOWNLOAD,
        "responses": _DOWNLOADED,
    },
    ("repositories", "DELETE", "/{repository}/{oid}"): {
        "summary": "Remove an object.",
        "responses": {"200": _answer("Removed.")},
    },
    ("repositories", "POST", "/{repository}/objects/batch"): _lfs(
        "Git LFS: links to objects.", "200", _object(transfer=_TEXT, objects={"type": "array"}, hash_algo=_TEXT), _BATCH
    ),
    ("repositories", "GET", "/{repository}/locks"): _lfs(
        "Git LFS: list locks.",
        "200",
        _object(locks=_LOCKS),
        parameters=[_query(name, f"The {name} of a lock.") for name in ("path", "id")]
        + [_query("cursor", "Of the page before."), _query("limit", "Locks of a page.", {"type": "integer"})],
    ),
    ("repositories", "POST", "/{repository}/locks"): _lfs(
        "Git LFS: lock a path.", "201", _ref("schemas", "Lock"), _object(path=_TEXT)
    ),
    ("repositories", "POST", "/{repository}/locks/verify"): _lfs(
        "Git LFS: list locks, one's own apart.", "200", _object(ours=_LOCKS, theirs=_LOCKS), {"type": "object"}
    ),
    ("repositories", "POST", "/{repository}/locks/{id}/unlock"): _lfs(
        "Git LFS: release a lock.",
        "200",
        _ref("schemas", "Lock"),
        {"type": "object", "properties": {"force": {"type": "boolean"}}},
    ),
    ("drops", "PUT", "/file"): {
        "summary": "Make a drop: a file that can be fetched once.",
        "requestBody": _DROP_FORM,
        "responses": {"201": _answer("Made.", _json(_object(status=_TEXT, url=_TEXT)))},
    },
    ("drops", "GET", "/file/{id}"): {
        "summary": "Fetch a drop, once; where HTML is preferred, its landing page.",
        "parameters": [_ref("parameters", "Password")],
        "responses": {"200": _answer("The bytes.", _ANY)},
    },
    ("drops", "POST", "/drop"): {
        "summary": "Make a drop by a form.",
        "requestBody": _DROP_FORM,
        "responses": {"201": _answer("A page that shows the link.", _PAGE)},
        "error": "PageError",
    },
    ("drops", "GET", "/drop/{id}"): {
        "summary": "The landing page of a drop, which takes nothing.",
        "responses": {"200": _answer("The page.", _PAGE)},
        "error": "PageError",
    },
    ("drops", "POST", "/drop/{id}"): {
        "summary": "Fetch a drop by the form of its landing page, once.",
        "requestBody": _PASSWORD_FORM,
        "responses": {"200": _answer("The bytes.", _ANY)},
        "error": "PageError",
    },
    **{
        ("kv", "GET", pattern): {
            "summary": "The committed value of a key.",
            "responses": {"200": _answer("The key and its value.", _PAIR_ANSWER)},
        }
        for pattern in ("/{key}", "/set", "/commit")
    },
    ("kv", "POST", "/set"): {
        "summary": "Queue a value.",
        "requestBody": _body(_json(_PAIR)),
        "responses": {
            "200": _answer("Queued; the commit will update the key.", _PAIR_ANSWER),
            "201": _answer("Queued; the commit will create the key.", _PAIR_ANSWER),
        },
    },
    ("kv", "DELETE", "/set"): {
        "summary": "Queue a removal.",
        "requestBody": _body(_json({"type": "string", "minLength": 1})),
        "responses": {"200": _answer("Queued.", _json(_TEXT))},
    },
    ("kv", "POST", "/commit"): {
        "summary": "Make all that is queued visible at once, and durable.",
        "responses": {"204": _answer("Committed.")},
    },
    **UPLOADS,
    ("operations", "GET", "/health"): {
        "summary": "Whether the daemon is alive.",
        "responses": {"200": _answer("It is.", _json(_STATUS))},
    },
    ("operations", "GET", "/ready"): {
        "summary": "Whether the daemon can serve.",
        "responses": {"200": _answer("It can.", _json(_STATUS))},
    },
    ("operations", "GET", "/"): {
        "summary": "Metrics for Prometheus.",
        "responses": {"200": _answer("The metrics.", _ANY)},
    },
    ("operations", "GET", "/{name}"): {
        "summary": "A script, style or image of the pages.",
        "responses": {"200": _answer("The file.", _ANY), "304": _answer("The client has it.")},
    },
}
