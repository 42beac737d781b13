"""The requests of resumable uploads, for OpenAPI; see `openapi_operations`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

_TEXT = {"type": "string"}


def _field(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "header", "required": True, "description": description, "schema": schema}


_VERSION = _field("Tus-Resumable", "The version of the protocol.", {"const": "1.0.0"})
_NUMBER = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_PIECE: Json = {"required": False, "content": {"application/offset+octet-stream": {}}}
_RESULT = {
    "anyOf": [
        {"type": "object", "required": required, "properties": {key: {} for key in required}}
        for required in (["hash", "size"], ["oid", "size"], ["status", "url"])
    ]
}


# Their pages ask for the token: which scope it needs is in the upload.
_NEEDS_TOKEN = {"needs_token": True}


def _answered(status: str, description: str) -> Json:
    return {status: {"description": description}}


UPLOADS: Mapping[tuple[str, str, str], Json] = {
    ("uploads", "POST", "/"): {
        **_NEEDS_TOKEN,
        "summary": "Begin a resumable upload (tus 1.0.0).",
        "parameters": [
            _VERSION,
            _field("Upload-Length", "Bytes of the whole upload.", _NUMBER),
            {**_field("Upload-Metadata", "Keys with values in base64.", _TEXT), "required": False},
        ],
        "requestBody": _PIECE,
        "responses": _answered("201", "Begun; Location is that of the upload."),
    },
    ("uploads", "GET", "/{id}"): {
        **_NEEDS_TOKEN,
        "summary": "What the target of a complete upload has answered.",
        "responses": {"200": {"description": "It.", "content": {"application/json": {"schema": _RESULT}}}},
    },
    ("uploads", "HEAD", "/{id}"): {
        **_NEEDS_TOKEN,
        "summary": "How many bytes have been received.",
        "parameters": [_VERSION],
        "responses": _answered("200", "Upload-Offset is their number."),
    },
    ("uploads", "PATCH", "/{id}"): {
        **_NEEDS_TOKEN,
        "summary": "Send the next bytes.",
        "parameters": [_VERSION, _field("Upload-Offset", "Bytes that have been received.", _NUMBER)],
        "requestBody": _PIECE,
        "responses": _answered("204", "Received; Upload-Offset is the new number."),
    },
    ("uploads", "DELETE", "/{id}"): {
        **_NEEDS_TOKEN,
        "summary": "Give an upload up.",
        "parameters": [_VERSION],
        "responses": _answered("204", "Removed."),
    },
    **{
        ("uploads", "OPTIONS", pattern): {
            "summary": "What of the protocol is supported.",
            "responses": _answered("204", "Tus-Extension lists it."),
        }
        for pattern in ("/", "/{id}")
    },
}
