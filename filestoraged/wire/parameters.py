"""Header fields with parameters, read and written: `form-data; name="file"; filename="a.txt"`.

RFC 9110, section 5.6.6; RFC 6266 and RFC 8187 for names of files; RFC 7578 for forms.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from filestoraged.errors import BadRequest
from filestoraged.wire.grammar import OWS, TOKEN

_VALUE = re.compile(rf"{OWS}({TOKEN}(?:/{TOKEN})?){OWS}")
# A quoted value may hold a backslash that escapes nothing: browsers write back\slash so.
_PARAMETER = re.compile(rf';{OWS}(?:({TOKEN}){OWS}={OWS}(?:({TOKEN})|"((?:[^"\\]|\\.)*)"){OWS})?')
# Browsers escape no backslash, so that of a file named back\ stands before the quote that ends the value.
_BACKSLASH_AT_END = re.compile(rf';{OWS}(filename){OWS}={OWS}"([^"]*\\)"{OWS}(?=;|$)', re.IGNORECASE)
_ESCAPED = re.compile(r'\\(["\\])')
# RFC 8187, section 3.2.1: charset, language, percent-encoded bytes.
_ENCODED = r"(?:[!#$&+\-.^_`|~0-9a-z]|%[0-9a-f]{2})*"
_EXTENDED = re.compile(rf"(utf-8|iso-8859-1)'[a-z0-9\-]*'({_ENCODED})", re.IGNORECASE | re.ASCII)
# What RFC 8187 lets stand for itself, beyond what `quote` does anyway.
_ATTR_CHARS = "!#$&+^`|"
# Some browsers decode percent signs in a plain filename, and some keep backslashes: those names go extended.
_PLAIN = re.compile(r"[ !#$&'()+,\-.0-9;=@A-Z\[\]^_`a-z{}~]+")


def parse_parameters(field: str) -> tuple[str, dict[str, str]]:
    """Take a field's value apart: the value in lower case, and its parameters by lower-case name.

    Raises BadRequest where the field is not of that form, or says one parameter twice.
    """
    value = _VALUE.match(field)
    if value is None:
        raise BadRequest("A header field with parameters does not begin with a value.")
    parameters: dict[str, str] = {}
    position = value.end()
    while position < len(field):
        name, text, position = _next_parameter(field, position)
        if name in parameters:
            raise BadRequest("A header field has one parameter twice.")
        if name:
            parameters[name] = text
    return value.group(1).lower(), parameters


def _next_parameter(field: str, start: int) -> tuple[str, str, int]:
    """Return the name and the value of the parameter at `start`, both empty where there is none, and where it ends."""
    matched = _PARAMETER.match(field, start)
    if matched is not None and field[matched.end() : matched.end() + 1] in (";", ""):
        name, token, quoted = matched.groups(default="")
        return name.lower(), token or _ESCAPED.sub(r"\1", quoted), matched.end()
    matched = _BACKSLASH_AT_END.match(field, start)
    if matched is None:
        raise BadRequest("A parameter of a header field is malformed.")
    return "filename", matched.group(2), matched.end()


def decode_extended(value: str) -> str:
    """Decode `UTF-8''caf%C3%A9` (RFC 8187). Raises BadRequest where it is none."""
    matched = _EXTENDED.fullmatch(value)
    if matched is None:
        raise BadRequest("An extended parameter is malformed.")
    charset, encoded = matched.groups()
    try:
        return unquote(encoded, encoding=charset, errors="strict")
    except UnicodeDecodeError as error:
        raise BadRequest("An extended parameter is not of its own charset.") from error


def attachment(name: str) -> str:
    """Return the Content-Disposition that has a client save a download as `name`.

    RFC 6266, appendix D: a fallback of ASCII, and the whole name for all who read RFC 8187. `name` has no
    control characters.
    """
    if _PLAIN.fullmatch(name):
        return f'attachment; filename="{name}"'
    fallback = "".join(each if _PLAIN.fullmatch(each) else "_" for each in name)
    return f"attachment; filename=\"{fallback}\"; filename*=UTF-8''{quote(name, safe=_ATTR_CHARS)}"
