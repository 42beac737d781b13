"""Header fields with parameters, parsed and formatted: `form-data; name="file"; filename="a.txt"`.

RFC 9110, section 5.6.6; RFC 6266 and RFC 8187 for file names; RFC 7578 for forms.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from filestoraged.errors import BadRequest, quoted
from filestoraged.wire.grammar import OWS, TOKEN

_VALUE = re.compile(rf"{OWS}({TOKEN}(?:/{TOKEN})?){OWS}")
# Before a parameter: RFC 9110 allows empty ones.
_SEMICOLONS = rf"(?:;{OWS})+"
# A backslash in a quoted value may escape nothing: browsers send the file name back\slash unescaped.
_PARAMETER = re.compile(rf'{_SEMICOLONS}(?:({TOKEN}){OWS}={OWS}(?:({TOKEN})|"((?:[^"\\]|\\.)*)"){OWS})?')
# For the same reason the backslash of a file named back\ precedes the quote that ends the value.
_BACKSLASH_AT_END = re.compile(rf'{_SEMICOLONS}(filename){OWS}={OWS}"([^"]*\\)"{OWS}(?=;|$)', re.IGNORECASE)
# More than any client sends. Each costs a microsecond, and a form may have many parts.
_MAX_PARAMETERS = 32
_ESCAPED = re.compile(r'\\(["\\])')
# RFC 8187, section 3.2.1: charset, language, percent-encoded bytes.
_ENCODED = r"(?:[!#$&+\-.^_`|~0-9a-z]|%[0-9a-f]{2})*"
_EXTENDED = re.compile(rf"(utf-8|iso-8859-1)'[a-z0-9\-]*'({_ENCODED})", re.IGNORECASE | re.ASCII)
# Characters that RFC 8187 allows unencoded, beyond those that `quote` never encodes.
_ATTR_CHARS = "!#$&+^`|"
# A name of these characters needs no extended form. Some browsers decode percent signs in the plain form, and some
# keep the backslashes of escapes.
_PLAIN = re.compile(r"[ !#$&'()+,\-.0-9;=@A-Z\[\]^_`a-z{}~]+")


def parse_parameters(field: str) -> tuple[str, dict[str, str]]:
    """Return the value in lower case, and the parameters by name in lower case.

    Raises BadRequest for a malformed field, for a duplicate parameter, and for too many.
    """
    value = _VALUE.match(field)
    if value is None:
        raise BadRequest(f"Invalid header field {quoted(field)}: expected a value, then parameters.")
    parameters: dict[str, str] = {}
    position = value.end()
    while position < len(field):
        name, text, position = _next_parameter(field, position)
        if name in parameters:
            raise BadRequest(f"A header field has the parameter {quoted(name)} twice: expected it once.")
        if name:
            parameters[name] = text
        if len(parameters) > _MAX_PARAMETERS:
            raise BadRequest(f"A header field has more than {_MAX_PARAMETERS} parameters.")
    return value.group(1).lower(), parameters


def _next_parameter(field: str, start: int) -> tuple[str, str, int]:
    """Return name, value and end of the parameter at `start`; name and value are empty where semicolons are the end."""
    matched = _PARAMETER.match(field, start)
    if matched is not None and field[matched.end() : matched.end() + 1] in (";", ""):
        name, token, text = matched.groups(default="")
        return name.lower(), token or _ESCAPED.sub(r"\1", text), matched.end()
    matched = _BACKSLASH_AT_END.match(field, start)
    if matched is None:
        raise BadRequest(f"Invalid parameter {quoted(field[start:])} of a header field: expected ; name=value.")
    return "filename", matched.group(2), matched.end()


def decode_extended(value: str) -> str:
    """Decode an extended value such as `UTF-8''caf%C3%A9` (RFC 8187). Raises BadRequest for a malformed one."""
    matched = _EXTENDED.fullmatch(value)
    if matched is None:
        raise BadRequest(f"Invalid extended parameter {quoted(value)}: expected a form such as UTF-8''caf%C3%A9.")
    charset, encoded = matched.groups()
    try:
        return unquote(encoded, encoding=charset, errors="strict")
    except UnicodeDecodeError as error:
        raise BadRequest(f"Invalid extended parameter {quoted(value)}: its bytes are not {charset}.") from error


def attachment(name: str) -> str:
    """Return the Content-Disposition of a download that the client saves as `name`.

    RFC 6266, appendix D: an ASCII fallback, and the whole name for clients that support RFC 8187. `name` has no control
    characters.
    """
    if _PLAIN.fullmatch(name):
        return f'attachment; filename="{name}"'
    fallback = "".join(each if _PLAIN.fullmatch(each) else "_" for each in name)
    return f"attachment; filename=\"{fallback}\"; filename*=UTF-8''{quote(name, safe=_ATTR_CHARS)}"
