"""The rules that the other pages of this floor share, under the names that the RFCs give them.

They are strings of a regular expression's syntax, for bytes and text alike through `latin`.
"""

from __future__ import annotations

# RFC 9110, section 5.6.2.
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"

# RFC 9110, section 5.6.3: optional white space.
OWS = r"[ \t]*"

# RFC 9110, section 5.5: field-vchar, blanks, and obs-text, which is opaque to us.
FIELD_VALUE = r"[\t -~\x80-\xff]*"

# RFC 9110, section 5.6.4.
QUOTED_STRING = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'


def latin(pattern: str) -> bytes:
    """The same rule for bytes."""
    return pattern.encode("latin-1")


def members(value: str) -> list[str]:
    """The members of a comma-separated list, empty ones dropped (RFC 9110, section 5.6.1)."""
    return [member for member in (each.strip(" \t") for each in value.split(",")) if member]
