"""JSON schemas of the responses of Git LFS servers, written from the API's documents (git-lfs, docs/api/*.md)."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

_OID = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_SIZE = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_TIME = {"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"}

_ACTION = {
    "type": "object",
    "properties": {
        "href": {"type": "string", "pattern": "^https?://"},
        "header": {"type": "object", "additionalProperties": {"type": "string"}},
        "expires_in": {"type": "integer", "minimum": -(2**31) + 1, "maximum": 2**31 - 1},
        "expires_at": _TIME,
    },
    "required": ["href"],
    "additionalProperties": False,
}

_ACTIONS = {
    "type": "object",
    "properties": {"upload": _ACTION, "verify": _ACTION, "download": _ACTION},
    "additionalProperties": False,
    "minProperties": 1,
}

_ERROR_OF_OBJECT = {
    "type": "object",
    "properties": {"code": {"enum": [404, 409, 410, 422]}, "message": {"type": "string", "minLength": 1}},
    "required": ["code", "message"],
    "additionalProperties": False,
}

_OBJECT = {
    "type": "object",
    "properties": {
        # A malformed oid comes back as it was sent.
        "oid": {"type": "string"},
        "size": _SIZE,
        "authenticated": {"type": "boolean"},
        "actions": _ACTIONS,
        "error": _ERROR_OF_OBJECT,
    },
    "required": ["oid", "size"],
    "additionalProperties": False,
    # An object has actions, an error, or neither.
    "not": {"required": ["actions", "error"]},
    "if": {"required": ["actions"]},
    "then": {"properties": {"oid": _OID}},
}

_LOCK = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "path": {"type": "string", "minLength": 1},
        "locked_at": _TIME,
        "owner": {
            "type": "object",
            "properties": {"name": {"type": "string", "minLength": 1}},
            "required": ["name"],
            "additionalProperties": False,
        },
    },
    "required": ["id", "path", "locked_at"],
    "additionalProperties": False,
}

_LOCKS = {"type": "array", "items": _LOCK}
_CURSOR = {"type": "string", "minLength": 1}


def _validator(schema: dict[str, Any]) -> Draft202012Validator:
    # `jsonschema.validate` would check the schema each time, which takes longer than a test.
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def _object(required: list[str], **properties: Any) -> Draft202012Validator:
    return _validator({"type": "object", "properties": properties, "required": required, "additionalProperties": False})


LOCK = _object(["lock"], lock=_LOCK)
CONFLICT = _object(["lock", "message"], lock=_LOCK, message={"type": "string", "minLength": 1})
LOCK_LIST = _object(["locks"], locks=_LOCKS, next_cursor=_CURSOR)
VERIFIABLE_LOCKS = _object(["ours", "theirs"], ours=_LOCKS, theirs=_LOCKS, next_cursor=_CURSOR)

BATCH = _validator(
    {
        "type": "object",
        "properties": {
            "transfer": {"enum": ["basic", "tus"]},
            "objects": {"type": "array", "items": _OBJECT},
            "hash_algo": {"const": "sha256"},
        },
        "required": ["objects"],
        "additionalProperties": False,
    }
)

ERROR = _validator(
    {
        "type": "object",
        "properties": {
            "message": {"type": "string", "minLength": 1},
            "request_id": {"type": "string"},
            "documentation_url": {"type": "string"},
        },
        "required": ["message"],
    }
)
