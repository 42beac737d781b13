"""The vocabulary in which interfaces describe their requests for OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]

HEX = {"type": "string", "pattern": "^[0-9a-f]+$"}
COUNT = {"type": "integer", "minimum": 0}
TEXT = {"type": "string"}
BYTES: Json = {"application/octet-stream": {}}
PAGE: Json = {"text/html": {"schema": TEXT}}


def ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def object_of(**properties: Any) -> Json:
    """An object that has all of these members, and perhaps others."""
    return {"type": "object", "required": list(properties), "properties": properties}


def json_content(schema: Any, media_type: str = "application/json") -> Json:
    return {media_type: {"schema": schema}}


def answer(description: str, content: Json | None = None) -> Json:
    return {"description": description} if content is None else {"description": description, "content": content}


def answered(status: str, description: str, content: Json | None = None) -> Json:
    """The responses of a request that is answered in one way."""
    return {status: answer(description, content)}


def operation(
    summary: str, responses: Json, *, parameters: Sequence[Json] = (), body: Json | None = None, **rest: Any
) -> Json:
    """A request. `rest` is for `openapi`: the form of its errors, and whether it needs a token."""
    described: Json = {"summary": summary, "responses": responses, **rest}
    if parameters:
        described["parameters"] = parameters
    if body is not None:
        described["requestBody"] = body
    return described


def body(content: Json, *, required: bool = True) -> Json:
    return {"required": required, "content": content}


def query(name: str, description: str, schema: Json = TEXT) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def header(name: str, description: str, schema: Json = TEXT, **rest: Any) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": schema, **rest}


PARAMETERS: Mapping[str, Json] = {
    "Hash": query("hash", "Names the file: a digest in hexadecimal."),
    "Expected": query("hash", "The digest that the bytes must have."),
    "ContentDigest": header("Content-Digest", "A digest that the body must have (RFC 9530)."),
    "IfNoneMatch": header("If-None-Match", "Of an upload `*`; of a download the digests that the client has."),
    "Name": query("name", "Makes it a download under this name, with the type of the name."),
    "Range": header("Range", "One range of bytes."),
    "Limit": query("limit", "Entries of a page.", {"type": "integer", "minimum": 1, "maximum": 10_000}),
    "After": query("after", "The member `next` of the page before."),
    "Password": query("password", "The password of the drop; better in `Authorization: Basic`."),
}

SEGMENTS: Mapping[str, Json] = {
    "hash": TEXT,
    "oid": TEXT,
    # In a path, `.` and `..` are resolved by clients.
    "repository": {"type": "string", "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"},
    "space": {"type": "string", "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"},
}

UPLOAD = [ref("parameters", "Expected"), ref("parameters", "ContentDigest"), ref("parameters", "IfNoneMatch")]
DOWNLOAD = [ref("parameters", "Name"), ref("parameters", "Range"), ref("parameters", "IfNoneMatch")]
LIST = [ref("parameters", "Limit"), ref("parameters", "After")]
NEXT = {"type": ["string", "null"]}

ANY: Json = {"*/*": {}}
DOWNLOADED = {
    "200": answer("The bytes.", ANY),
    "206": answer("The range of the bytes.", ANY),
    "304": answer("The client has it."),
}
REMOVED = {"200": answer("Removed.", json_content(object_of(hash=HEX)))}
RAW = body(BYTES, required=False)


def listed(member: str, items: Json) -> Json:
    return {"200": answer("A page.", json_content(object_of(**{member: {"type": "array", "items": items}}, next=NEXT)))}
